//! `poa-gpu bench collective`: what it takes ranks to meet, and to add up gradients.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::bench::collective::{SIZES, meeting, sum};
use crate::cli::ranks::{self, Asked, Devices};
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::gpu::{Caps, DeviceChoice};
use crate::poa::traffic::Traffic;
use crate::recipes::Config;

/// Times the ranks that `devices` asks for, or the processes that were started together; a lone process becomes two ranks.
/// `recipe` is one whose traffic is told too.
pub(super) fn run(devices: Option<&Devices>, recipe: Option<&str>) -> Result<()> {
    let alone = AtomicBool::new(false);
    let ranks = |devices: Option<&Devices>| {
        alone.store(false, Ordering::Relaxed);
        let asked = Asked { device: &DeviceChoice::Cpu, devices };
        ranks::run(&asked, |rank| match rank.ranks.is_alone() {
            true => {
                alone.store(true, Ordering::Relaxed);
                Ok(())
            }
            false => time(&rank.ranks, recipe),
        })
    };
    ranks(devices)?;
    if devices.is_none() && alone.load(Ordering::Relaxed) {
        ranks(Some(&Devices::List(vec![DeviceChoice::Cpu; 2])))?;
    }
    match alone.load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(Error::Usage("one rank exchanges nothing; --devices cpu:2 asks for two".into())),
    }
}

fn time(ranks: &Collective, recipe: Option<&str>) -> Result<()> {
    let says = |text: String| {
        if ranks.leads() {
            say!("{text}");
        }
    };
    let traffic =
        recipe.map(|recipe| Ok::<_, Error>((recipe, traffic(recipe, ranks.size())?))).transpose()?;
    // the first rank of each
    let hosts = ranks.tell(ranks.on_host().0)?.iter().filter(|place| **place == 0).count();
    let of = ranks.size();
    says(format!("ranks:           {of} on {hosts} host{}", if hosts == 1 { "" } else { "s" }));
    says(format!("barrier:         {:.1} us", 1e6 * meeting(ranks, 0)?));
    says(format!("gather of 64 B:  {:.1} us", 1e6 * meeting(ranks, 64)?));
    if let Some((recipe, traffic)) = &traffic {
        says(format!("step of {recipe}: {}", traffic.describe()));
    }
    says(format!("\n{:>12} {:>12} {:>9} {:>9}", "sum of f32", "time", "GB/s", "bus GB/s"));
    let (mut bytes, largest) = SIZES;
    while bytes <= largest {
        let size =
            if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) };
        says(match sum(ranks, bytes)? {
            Some(sum) => {
                let (rate, bus) = (sum.rate() / 1e9, sum.bus_rate(of) / 1e9);
                format!("{size:>12} {:>9.3} ms {rate:>9.3} {bus:>9.3}", 1e3 * sum.seconds)
            }
            None => format!("{size:>12} left out: too little memory is free"),
        });
        bytes *= 4;
    }
    says(
        "(GB/s: bytes of the list by time; bus: 2(R-1)/R of that, what each rank sends and receives)".into(),
    );
    Ok(())
}

/// What a step with a recipe's settings exchanges, on devices that bind tensors whole.
fn traffic(recipe: &str, ranks: usize) -> Result<Traffic> {
    let mut config = Config::load(recipe, &[])?;
    config.resolve(ranks)?;
    Traffic::of(&config, &Caps { max_binding_bytes: 1 << 40, ..Caps::minimal() }, ranks)
}

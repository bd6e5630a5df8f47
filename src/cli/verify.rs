//! `poa-gpu verify`: replays records and prints how far this machine is from them.

use crate::cli::args::VerifyArgs;
use crate::cli::ranks::{self, Asked, Rank};
use crate::error::{Error, Result};
use crate::files::whole::destination;
use crate::ops;
use crate::shown::shown;
use crate::verify::{Fixture, Replay, replay, replay_on_threads};

pub(super) fn run(args: &VerifyArgs) -> Result<()> {
    if args.dump.is_some() && args.dirs.len() > 1 {
        return Err(Error::Usage("--dump takes the numbers of one record; name one folder".into()));
    }
    if let Some(path) = &args.dump {
        destination(path)?;
    }
    let fixtures: Vec<Fixture> = match args.dirs.is_empty() {
        true => vec![Fixture::embedded()?],
        false => args.dirs.iter().map(|d| Fixture::open(d)).collect::<Result<_>>()?,
    };
    let asked = Asked { device: &args.device, devices: None };
    ranks::run(&asked, |rank| verify(args, &fixtures, rank))
}

/// Replays the records as one of several processes, or alone: then a record of several ranks gets a thread for each.
fn verify(args: &VerifyArgs, fixtures: &[Fixture], Rank { ranks, device: choice }: &Rank) -> Result<()> {
    let device = ops::open(choice)?;
    let precision = args.precision.into();
    let leads = ranks.leads();
    macro_rules! says {
        ($($text:tt)*) => { if leads { say!($($text)*); } };
    }
    says!("device: {}", device.describe());
    let mut failed = Vec::new();
    for fixture in fixtures {
        says!("\n{}", fixture.name);
        let done = match fixture.ranks() {
            _ if !ranks.is_alone() => {
                says!("  {} ranks, a process each", ranks.size());
                replay(fixture, &device, precision, ranks)?
            }
            1 => replay(fixture, &device, precision, ranks)?,
            ranks => {
                say!("  {ranks} ranks, a thread and a device each");
                replay_on_threads(fixture, || ops::open(&args.device), precision)?
            }
        };
        if !leads {
            continue;
        }
        print(&done);
        if let Some(path) = &args.dump {
            done.dump(path)?;
            say!("numbers written to {}", shown(path));
        }
        if !done.passes() {
            failed.push(fixture.name.as_str());
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::Mismatch(format!(
            "the numbers of {} are not the recorded ones on {}",
            failed.join(", "),
            device.describe()
        ))),
    }
}

fn print(replay: &Replay) {
    say!(
        "  {:<20} {:>8} {:>13} {:>15} {:>11}  result",
        "relative error of",
        "compared",
        "worst",
        "PyTorch float32",
        "tolerance"
    );
    for c in &replay.checks {
        let pytorch = c.pytorch.map_or("-".into(), |e| format!("{e:.1e}"));
        let better = if c.pytorch.is_some_and(|e| c.worst < e) { ", better than PyTorch" } else { "" };
        let verdict = if c.passes() { format!("pass{better}") } else { format!("FAIL at {}", c.at) };
        say!(
            "  {:<20} {:>8} {:>13.1e} {pytorch:>15} {:>11.1e}  {verdict}",
            c.kind,
            c.compared,
            c.worst,
            c.tolerance
        );
    }
}

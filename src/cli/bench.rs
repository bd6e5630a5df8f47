//! `poa-gpu bench`.

use clap::Args;

use crate::bench::{Bench, Event, SHORT, Set, median};
use crate::cli::bench_collective;
use crate::cli::ranks::Devices;
use crate::error::{Error, Result};
use crate::gpu::DeviceChoice;
use crate::ops;
use crate::ops::matmul::by_timing;
use crate::shown::shown;

/// What ranks exchange; it is not a case of a device.
const COLLECTIVE: &str = "collective";

/// Arguments of `bench`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu bench                     the device that training would take
  poa-gpu bench --device cpu        the CPU
  poa-gpu bench --device 1 step     whole training steps on the second adapter of `poa-gpu devices`
  poa-gpu bench collective --devices cpu:2 --config vit_ee1200
                                    how fast two ranks add up gradients, and how many a step of that recipe has
Percentages are shares of what the device did at best, measured first: arithmetic from registers (on the CPU a large
product), and a copy of 64 MiB. `cargo bench` times every kernel by variant and shape.")]
pub struct BenchArgs {
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true, default_value = "auto")]
    pub device: DeviceChoice,
    /// Of `collective`: one rank for each of these devices, as in cpu:2 (two ranks)
    #[arg(long, value_name = "DEVICES", conflicts_with = "device")]
    pub devices: Option<Devices>,
    /// Of `collective`: the recipe whose messages are told
    #[arg(long, value_name = "FILE|NAME")]
    pub config: Option<String>,
    /// Times what contains one of these texts alone: matmul, attention, layernorm, cross_entropy, sinkhorn,
    /// adamw, step; or `collective`, the exchange between ranks
    #[arg(value_name = "TEXT", value_delimiter = ',')]
    pub filters: Vec<String>,
}

pub(super) fn run(args: &BenchArgs) -> Result<()> {
    if let [COLLECTIVE] = args.filters.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return bench_collective::run(args.devices.as_ref(), args.config.as_deref());
    }
    if args.devices.is_some() || args.config.is_some() || args.filters.iter().any(|f| f == COLLECTIVE) {
        return Err(Error::Usage(
            "--devices and --config are for `poa-gpu bench collective`, which goes alone".into(),
        ));
    }
    let device = by_timing(ops::open(&args.device)?)?;
    say!("device:   {}", device.describe());
    let filters = args.filters.iter().filter(|filter| !filter.is_empty()).cloned().collect();
    let bench = Bench::new(device, Set::Short, filters);
    let mut timed = 0;
    bench.run(&mut |bench, event| {
        let case = match event {
            Event::Ready(case) => case,
            Event::Note(line) => {
                say!("{line}");
                return Ok(());
            }
        };
        if timed == 0 {
            let ceiling = bench.ceiling()?;
            let (arithmetic, copying) = (ceiling.flops / 1e9, ceiling.bytes / 1e9);
            say!("ceilings: {arithmetic:.0} GFLOP/s of arithmetic, {copying:.1} GB/s of copying");
        }
        let again = bench.seconds(1, case.run)?[0];
        let seconds = if again > 2.0 { again } else { median(bench.seconds(5, case.run)?) };
        say!("{}", bench.line(&case, seconds)?);
        timed += 1;
        Ok(())
    })?;
    match timed {
        0 => Err(Error::Usage(format!(
            "nothing to time contains {}; there are {}, each with its shape and the device's kind behind it",
            shown(&args.filters.join(" or ")),
            SHORT.join(", ")
        ))),
        _ => Ok(()),
    }
}

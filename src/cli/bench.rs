//! `poa-gpu bench`.

use clap::Args;

use crate::bench::{Bench, Event, SHORT, Set, median};
use crate::error::{Error, Result};
use crate::gpu::DeviceChoice;
use crate::ops;
use crate::ops::matmul::by_timing;
use crate::shown::shown;

/// Arguments of `bench`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu bench                     the device that training would take
  poa-gpu bench --device cpu        the CPU
  poa-gpu bench --device 1 step     whole training steps on the second adapter of `poa-gpu devices`
Percentages are shares of what the device did at best, measured first: arithmetic from registers (on the CPU a large
product), and a copy of 64 MiB. `cargo bench` times every kernel by variant and shape.")]
pub struct BenchArgs {
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true, default_value = "auto")]
    pub device: DeviceChoice,
    /// Times what contains one of these texts alone: matmul, attention, layernorm, cross_entropy, sinkhorn,
    /// adamw, step
    #[arg(value_name = "TEXT", value_delimiter = ',')]
    pub filters: Vec<String>,
}

pub(super) fn run(args: &BenchArgs) -> Result<()> {
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

//! Throughput of the kernels and of whole training steps, on both devices, each beside the device's measured
//! ceiling.
//!
//! `cargo bench` runs everything; `cargo bench -- matmul step/tiny` what contains these texts.
//! POA_BENCH_DEVICE=cpu, gpu or part of a name chooses one device, POA_BENCH_BATCH the images of a
//! step and POA_BENCH_PRECISION its train.precision.
//! `--test` leaves criterion's statistics out.

use std::time::Duration;

use criterion::Criterion;
use poa_gpu::bench::{Bench, Case, Event, Set, median};
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops::{self, matmul::by_timing};
use poa_gpu::tensor::Device;

/// Seconds of a call from which it is timed once more, or a few times, and not by criterion.
const SLOW: f64 = 3.0;
const SLOWISH: f64 = 0.3;

fn main() -> poa_gpu::Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(2));
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if filters.len() <= 1 {
        // criterion refuses a second text; what is handed to it has been chosen by then
        criterion = criterion.configure_from_args();
    }
    for device in devices() {
        let bench = Bench::new(device, Set::Full, filters.clone());
        let ceiling = bench.ceiling()?;
        println!(
            "{}: ceilings {:.0} GFLOP/s of arithmetic, {:.1} GB/s of copying",
            bench.device.describe(),
            ceiling.flops / 1e9,
            ceiling.bytes / 1e9
        );
        bench.run(&mut |bench, event| match event {
            Event::Ready(case) => measure(&mut criterion, bench, case),
            Event::Note(line) => {
                println!("{line}");
                Ok(())
            }
        })?;
    }
    criterion.final_summary();
    Ok(())
}

/// The CPU device, and an adapter where there is one.
fn devices() -> Vec<Device> {
    let choice = std::env::var("POA_BENCH_DEVICE").unwrap_or_default();
    let wanted: Vec<DeviceChoice> = match choice.as_str() {
        "" => vec![DeviceChoice::Cpu, DeviceChoice::Gpu],
        one => vec![one.parse().expect("POA_BENCH_DEVICE names a device")],
    };
    let open = |choice| ops::open(choice).and_then(by_timing);
    wanted.iter().filter_map(|choice| open(choice).map_err(|e| println!("left out: {e}")).ok()).collect()
}

/// Prints a case's median rate beside the ceilings and, if it is quick, hands it to criterion.
fn measure(criterion: &mut Criterion, bench: &Bench, case: Case) -> poa_gpu::Result<()> {
    let again = bench.seconds(1, case.run)?[0];
    let seconds = match again {
        slow if slow > SLOW => slow,
        slowish if slowish > SLOWISH => median(bench.seconds(3, case.run)?),
        _ => median(bench.seconds(9, case.run)?),
    };
    println!("{}", bench.line(&case, seconds)?);
    if seconds > SLOWISH || std::env::args().any(|a| a == "--test") {
        return Ok(());
    }
    let Case { name, run, .. } = case;
    criterion.bench_function(&name, |b| {
        b.iter_custom(|n| {
            let times = bench.seconds(n as usize, run).expect("it ran before");
            Duration::from_secs_f64(times.iter().sum())
        });
    });
    Ok(())
}

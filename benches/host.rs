//! What the host does for a step: the processor time of the thread that records it, on the first adapter, which may be
//! a software one, and in a rehearsal, where nothing of wgpu is in it.
//!
//! `cargo bench --bench host -- host [STEPS]`. Where it is not asked for, as in a plain `cargo bench`, it says so and ends.

use std::process::ExitCode;

use poa_gpu::Result;
use poa_gpu::bench::median;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::poa::forecast::Rehearsal;
use poa_gpu::recipes::Config;
use poa_gpu::tensor::Device;

/// Recipes with images of a step.
const CASES: [(&str, usize); 2] = [("demo", 4), ("bench_tiny", 2)];
/// Steps of each kind that are timed where nobody says another number, as a profiler's user may, and steps before them in
/// which kernels are compiled.
const STEPS: usize = 16;
const WARM_UP: usize = 8;

/// Milliseconds that this thread has had the processor.
#[cfg(unix)]
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is there to be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 * 1e-6
}

/// Median time of a step with the whole network, and of one with the run's sub-networks.
#[cfg(unix)]
fn steps(config: &Config, device: &Device, count: usize) -> Result<[f64; 2]> {
    let mut run = Rehearsal::on(config, device)?;
    let mut timed = |whole: bool| {
        let mut all = Vec::with_capacity(WARM_UP + count);
        for step in 0..WARM_UP + count {
            let network = if whole { run.draws().largest() } else { run.draws().at(step) };
            let start = processor_time();
            run.step(step, network)?;
            all.push(processor_time() - start);
            run.device().synchronize()?;
        }
        Ok(median(all.split_off(WARM_UP)))
    };
    // first those that compile most
    let random = timed(false)?;
    Ok([timed(true)?, random])
}

#[cfg(unix)]
fn run(count: usize) -> Result<()> {
    let device = ops::open(&DeviceChoice::Gpu)?;
    let Device::Gpu(gpu) = &device else { unreachable!("a GPU was asked for") };
    println!("{}", device.describe());
    println!("milliseconds a step          dispatches  uploads    whole network    random sub-networks");
    for (recipe, images) in CASES {
        let mut config = Config::load(recipe, &[format!("train.batch_size_per_gpu={images}")])?;
        config.resolve(1)?;
        let rehearsal = Device::rehearsal(gpu.caps());
        let mut counted = Rehearsal::on(&config, &rehearsal)?;
        counted.tally();
        counted.step(0, counted.draws().largest())?;
        let tally = counted.tally();
        for (what, device) in [("rehearsed", &rehearsal), ("on the adapter", &device)] {
            let [whole, random] = steps(&config, device, count)?;
            let (dispatches, uploads) = (tally.dispatches, tally.uploads);
            println!("{recipe:<11} {what:<14} {dispatches:>11} {uploads:>8} {whole:>16.2} {random:>22.2}");
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn run(_: usize) -> Result<()> {
    println!("the time of a thread is asked for as Unix has it: nothing measured");
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|arg| arg == "host") {
        println!("usage: cargo bench --bench host -- host [STEPS]. Nothing measured.");
        return ExitCode::SUCCESS;
    }
    match run(arguments.iter().find_map(|arg| arg.parse().ok()).unwrap_or(STEPS)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

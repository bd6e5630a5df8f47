//! `poa-gpu train`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::args::TrainArgs;
use crate::data;
use crate::error::{Error, Result};
use crate::tensor::Device;
use crate::train::run_folder::RunFolder;
use crate::train::trainer::{Outcome, Trainer};

pub(super) fn run(args: &TrainArgs) -> Result<()> {
    let config = args.load_config(1)?;
    if config.data.spec.is_empty() {
        return Err(Error::config(
            "data.spec",
            "names no images; give --data folder:DIR, or --data shapes for the embedded set",
        ));
    }
    let source = data::open(&config.data.spec)?;
    let device = Device::open(&args.device)?;
    let folder = RunFolder::create(args.out.as_deref(), &args.recipe(), &config)?;
    say!("device:  {}", device.describe());
    say!("data:    {}, {} images", source.describe(), source.len());
    say!("run:     {}", folder.dir().display());
    let stop = stop_on_signal()?;
    let trainer = Trainer::new(config, &device, source, folder)?;
    let outcome = trainer.run(&stop)?;
    report(&outcome, &device);
    Ok(())
}

/// A flag that the first Ctrl-C (or termination) sets; a second one ends the program at once.
fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nending after this step; once more ends at once");
    })
    .map_err(|e| Error::Usage(format!("Ctrl-C cannot be caught: {e}")))?;
    Ok(stop)
}

fn report(outcome: &Outcome, device: &Device) {
    if outcome.interrupted {
        say!("interrupted after {} steps", outcome.steps);
    }
    if !outcome.knn.is_empty() {
        say!("\nk-NN top-1 of the teacher's sub-networks on held-out images");
        say!("  {:<12} {:>4} {:>8} {:>8} {:>8}", "network", "k", "before", "after", "gain");
        for r in &outcome.knn {
            say!(
                "  {:<12} {:>4} {:>7.1}% {:>7.1}% {:>+8.1}",
                r.network.to_string(),
                r.k,
                100.0 * r.before,
                100.0 * r.after,
                100.0 * (r.after - r.before)
            );
        }
    }
    say!("\ncheckpoint:         {}", outcome.checkpoint.display());
    say!("peak device memory: {} MiB", device.peak_bytes() >> 20);
}

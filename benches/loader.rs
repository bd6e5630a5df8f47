//! Throughput of the loader alone: images a second from files to crops, as a training run would get them.
//!
//! `cargo bench --bench loader -- DIR [--threads N] [--seconds S] [--batch B]`. Without a folder it says so
//! and ends. `benches/peers/torchvision/loader.py` runs it in turn with torchvision doing the same work.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use poa_gpu::Result;
use poa_gpu::data::{self, CropConfig, Loader, LoaderConfig, MaskConfig, MultiCrop, Reading};
use poa_gpu::share::Share;

const USAGE: &str = "usage: cargo bench --bench loader -- DIR [--threads N] [--seconds S] [--batch B]\n\
    Measures images/s of 2 crops of 224 and 8 of 96 pixels from the images under DIR. Nothing measured.";

/// What to measure.
struct Request {
    dir: String,
    threads: usize,
    seconds: f64,
    batch: usize,
}

/// The request of the command line. None where there is none, as in a plain `cargo bench`, or where the
/// arguments are meant for another benchmark.
fn request() -> Option<Request> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut request = Request { dir: String::new(), threads: cores, seconds: 10.0, batch: 32 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {} // cargo's own
            "--threads" => request.threads = args.next()?.parse().ok()?,
            "--seconds" => request.seconds = args.next()?.parse().ok()?,
            "--batch" => request.batch = args.next()?.parse().ok()?,
            dir if request.dir.is_empty() && Path::new(dir).is_dir() => request.dir = dir.into(),
            _ => return None,
        }
    }
    (!request.dir.is_empty()).then_some(request)
}

fn main() -> ExitCode {
    let Some(request) = request() else {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    };
    match measure(&request) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn measure(request: &Request) -> Result<()> {
    let source = data::open(&format!("folder:{}", request.dir), &Reading::default())?;
    let total = source.len();
    let config = LoaderConfig {
        batch: request.batch,
        seed: 0,
        threads: request.threads,
        prefetch: 2,
        recipe: Arc::new(MultiCrop { crops: CropConfig::default(), masks: MaskConfig::new(14) }),
        start_step: 0,
        start: None,
        share: Share::ALL,
    };
    let mut loader = Loader::new(source, config)?;
    // Threads and buffers in place, and the batches made ahead out of the way.
    (0..3).try_for_each(|_| loader.next().map(drop))?;
    let (start, mut images) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs_f64(request.seconds) {
        images += loader.next()?.images();
    }
    let rate = images as f64 / start.elapsed().as_secs_f64();
    let busy = request.threads.max(1);
    println!(
        "{rate:.1} images/s, {:.1} per core ({busy} threads, batches of {}, {images} of {total} images)",
        rate / busy as f64,
        request.batch
    );
    Ok(())
}

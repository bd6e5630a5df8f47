//! The kernels of poa-gpu and of burn's wgpu backend on the same adapter, in turn in one process.
//!
//! Every kernel is run once on both sides, which is timed by itself, since burn tries its variants then; the results are
//! compared; then both are timed in alternating rounds.

mod case;
mod kernels;
mod report;
mod vit_block;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;

use case::{Case, Devices};

/// Times the kernels of poa-gpu and of burn's wgpu backend in turn.
#[derive(Parser)]
struct Args {
    /// Only kernels whose names contain one of these.
    filters: Vec<String>,
    /// Timed calls of each side; slow kernels get fewer, at least three.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Our device: gpu, or part of an adapter's name. burn takes its own choice, which CUBECL_WGPU_DEFAULT_DEVICE sets.
    #[arg(long, default_value = "gpu")]
    device: DeviceChoice,
    /// Write all figures here.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the table here.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// Makes a kernel's operands and calls.
type Make = Box<dyn Fn(&Devices) -> Case>;

/// The names of all kernels and what makes them.
fn cases() -> Vec<(String, Make)> {
    let mut all: Vec<(String, Make)> = Vec::new();
    for [m, n, k] in
        [[512, 512, 512], [1024, 1024, 1024], [788, 1152, 384], [788, 1536, 384], [788, 384, 1536]]
    {
        all.push((format!("matmul/{m}x{n}x{k}"), Box::new(move |d| kernels::product([m, n, k], d))));
    }
    let mut add =
        |name: &str, make: fn(&Devices) -> Case| all.push((name.to_string(), Box::new(make) as Make));
    add("softmax/forward 788x384", kernels::softmax_rows);
    add("gelu/forward 788x384", kernels::gelus);
    add("layernorm/forward 788x384", |d| kernels::norm(false, d));
    add("layernorm/forward+backward 788x384", |d| kernels::norm(true, d));
    add("attention/forward 24x197x64", |d| kernels::attention_heads(false, d));
    add("attention/forward+backward 24x197x64", |d| kernels::attention_heads(true, d));
    add("block/forward+backward 4x197x384", vit_block::block);
    all
}

fn run(args: &Args) -> Result<(), String> {
    let ours = ops::open(&args.device).map_err(|e| e.to_string())?;
    let devices = Devices { ours, theirs: burn::tensor::Device::wgpu(Default::default()) };
    println!("poa-gpu: {}", devices.ours.describe());
    println!("burn:    {:?}", devices.theirs);
    println!("{}", report::HEADING);
    let mut all = Vec::new();
    for (name, make) in cases() {
        if args.filters.is_empty() || args.filters.iter().any(|f| name.contains(f.as_str())) {
            let measured = devices.measure(name, make(&devices), args.rounds)?;
            println!("{}", report::row(&measured));
            all.push(measured);
        }
    }
    let write = |path: &PathBuf, text: String| {
        std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
    };
    if let Some(path) = &args.json {
        write(path, report::json(&all, &devices.ours.describe()))?;
    }
    if let Some(path) = &args.markdown {
        write(path, report::markdown(&all))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

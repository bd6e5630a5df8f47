//! The `poa-gpu` program.

use std::process::ExitCode;

use clap::Parser;
use poa_gpu::cli::{args::Cli, run};

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("poa-gpu: {e}");
            ExitCode::from(e.exit_status())
        }
    }
}

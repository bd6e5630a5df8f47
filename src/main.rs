//! The `poa-gpu` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    poa_gpu::cli::main()
}

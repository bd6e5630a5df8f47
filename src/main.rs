//! The `poa-gpu` program.

use std::process::ExitCode;

use poa_gpu::memory::Told;

#[global_allocator]
static MEMORY: Told = Told;

fn main() -> ExitCode {
    poa_gpu::cli::main()
}

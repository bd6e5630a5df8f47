//! The command line: one file per subcommand.

/// As `println!`, for a reader that may have gone: `poa-gpu devices | head -1` is no reason to panic.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

pub mod args;
mod bench;
mod config;
mod devices;
mod eval;
mod extract;
mod features;
mod progress;
mod subject;
mod train;
mod verify;
mod visualize;

use args::{Cli, Command};
use clap::CommandFactory;

use crate::error::Result;

/// Runs a parsed command line.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Extract(args) => extract::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Features(args) => features::run(&args),
        Command::Visualize(args) => visualize::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Devices => devices::run(),
        Command::Bench(args) => bench::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "poa-gpu", &mut script);
            say!("{}", String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}

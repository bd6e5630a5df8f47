//! The command line: one file per subcommand.

/// As `println!`, for a reader that may have gone: `poa-gpu devices | head -1` is no reason to panic.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

pub mod args;
mod devices;
mod train;
mod verify;

use args::{Cli, Command};

use crate::error::Result;

/// Runs a parsed command line.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Devices => devices::run(),
    }
}

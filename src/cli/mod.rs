//! The command line: one file per subcommand.

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

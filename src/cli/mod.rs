//! The command line: one file per subcommand.

#[macro_use]
mod output;

pub mod args;
mod bench;
mod bench_collective;
mod card;
pub mod compare;
mod completions;
mod config;
mod devices;
pub mod distill;
mod environment;
pub mod eval;
mod extract;
mod features;
mod finetune;
mod forecast;
mod init;
mod launch;
mod man;
mod network_table;
mod prices;
mod progress;
pub mod ranks;
pub mod report;
pub mod run_args;
mod segment;
mod signals;
mod subject;
mod task_run;
mod train;
mod verify;
mod version;
mod visualize;
pub mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser};

use crate::cli::signals::Signals;
use crate::error::{Error, Result};
use crate::logging::console;
use crate::shown::shown;

/// The program: does what the command line asks for, and says why where it cannot.
pub fn main() -> ExitCode {
    environment::without_a_session();
    environment::without_foreseen_panics();
    environment::with_stack(program)
}

fn program() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return told(e),
    };
    match console::install(cli.verbosity.level()).and_then(|()| run(cli)) {
        Ok(()) => output::status(),
        // the rank that knows more tells it
        Err(e @ Error::Elsewhere(_)) => ExitCode::from(e.exit_status()),
        Err(e) => {
            console::line(&format!("poa-gpu: {e}{}", environment::advice(&e)));
            ExitCode::from(e.exit_status())
        }
    }
}

/// Prints help, the version, or what is wrong with the command line.
fn told(e: clap::Error) -> ExitCode {
    let harmless = |arg: &OsString| arg.to_str().is_some_and(|text| shown(text) == text);
    let e = match std::env::args_os().all(|arg| harmless(&arg)) {
        true => e,
        // the same again, with names as they may be shown
        false => match Cli::try_parse_from(std::env::args_os().map(|arg| shown(&arg).into_owned())) {
            Err(e) => e,
            Ok(_) => {
                console::line(e.render().to_string().trim_end());
                return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(1));
            }
        },
    };
    let hint = braces_hint(&e);
    match (e.print(), e.exit_code()) {
        (Err(e), 0) => {
            output::lost(e);
            output::status()
        }
        (_, code) => {
            if let Some(hint) = hint {
                console::line(&hint);
            }
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
    }
}

/// What to say where an argument too many seems to come of braces that the shell has taken apart.
fn braces_hint(e: &clap::Error) -> Option<String> {
    let shards = |arg: &str| arg.contains("webdataset:");
    let unwanted = match e.kind() {
        ErrorKind::UnknownArgument => {
            e.get(ContextKind::InvalidArg).is_some_and(|arg| shards(&arg.to_string()))
        }
        ErrorKind::ArgumentConflict => {
            std::env::args_os().filter(|arg| arg.to_str().is_some_and(shards)).count() > 1
        }
        _ => false,
    };
    unwanted.then(|| {
        "if the shell has taken braces apart, put quotes around them: 'webdataset:DIR/{000..146}.tar'".into()
    })
}

fn run(cli: Cli) -> Result<()> {
    let quiet = cli.verbosity.quiet;
    let signals = Signals::catch()?;
    match cli.command {
        Command::Train(args) => train::run(&args, quiet, &signals),
        Command::Segment(args) => segment::run(&args, quiet, &signals),
        Command::Extract(args) => extract::run(&args),
        Command::Finetune(args) => finetune::run(&args, quiet, &signals),
        Command::Distill(args) => distill::run(&args, quiet, &signals),
        Command::Eval(args) => eval::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Watch(args) => watch::run(&args, &signals),
        Command::Features(args) => features::run(&args, &signals),
        Command::Visualize(args) => visualize::run(&args, &signals),
        Command::Config(args) => config::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Devices => devices::run(),
        Command::Bench(args) => bench::run(&args),
        Command::Man(args) => man::run(&args, Cli::command()),
        Command::Completions { shell } => {
            say!("{}", completions::script(shell, Cli::command()).trim_end());
            Ok(())
        }
    }
}

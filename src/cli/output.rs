//! What commands print on standard output. A reader may have gone (`poa-gpu devices | head -1`) and a disk
//! may be full: neither is a reason to panic, but who asked for a result and did not get all of it is told by
//! the exit status.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

use crate::logging::console;
use crate::shown::lines;

/// The exit status of a program that a closed pipe has ended, as shells report it (128 + SIGPIPE).
const CLOSED_PIPE: u8 = 141;

/// Why the first part of a result that was lost could not be written.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Prints a line of what the command was asked for; that it could not be written shows in [`status`].
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::output::result(format_args!($($text)*)) };
}

/// Prints a line that is news alone: that it could not be written changes nothing.
macro_rules! mention {
    ($($text:tt)*) => { $crate::cli::output::news(format_args!($($text)*)) };
}

pub(super) fn result(text: Arguments) {
    if let Err(e) = print(text) {
        lost(e);
    }
}

pub(super) fn news(text: Arguments) {
    let _ = print(text);
}

/// Remembers that a part of a result is lost.
pub(super) fn lost(e: io::Error) {
    let _ = LOST.set(e);
}

/// The exit status of a command that has succeeded otherwise. Lost output is told, unless the reader has
/// gone.
pub(super) fn status() -> ExitCode {
    match LOST.get() {
        None => ExitCode::SUCCESS,
        Some(e) if e.kind() == ErrorKind::BrokenPipe => ExitCode::from(CLOSED_PIPE),
        Some(e) => {
            console::line(&format!("poa-gpu: standard output cannot be written: {e}"));
            ExitCode::FAILURE
        }
    }
}

fn print(text: Arguments) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", lines(&text.to_string()))?;
    out.flush()
}

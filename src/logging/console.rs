//! The program's terminal: messages and a progress bar on standard error, neither of which can end it. A line
//! that cannot be written (a full disk, a closed pipe) is lost and nothing else.

use std::io::Write;
use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};

use super::TARGET;
use crate::error::{Error, Result};
use crate::shown::{lines, shown};

/// The variable that says which messages are shown, as in `warn` or `debug,wgpu_core=warn`.
pub const VARIABLE: &str = "POA_LOG";

static CONSOLE: OnceLock<Console> = OnceLock::new();

/// How much the program says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// What a person who watches wants to know.
    #[default]
    Normal,
    /// What a run's log keeps too, and warnings of the libraries below.
    Verbose,
    /// Everything.
    Everything,
}

/// Shows the messages of this process on standard error: as much as `verbosity` says or, where the command
/// line does not (`None`), the variable `POA_LOG`.
pub fn install(verbosity: Option<Verbosity>) -> Result<()> {
    let console = match (verbosity, std::env::var(VARIABLE)) {
        (None, Ok(text)) => Console::parse(&text)
            .map_err(|problem| Error::Usage(format!("{VARIABLE}=\"{}\": {problem}", text.escape_debug())))?,
        (verbosity, _) => Console::new(verbosity.unwrap_or_default()),
    };
    let console = CONSOLE.get_or_init(|| console);
    // an application that has a logger of its own keeps it
    if log::set_logger(console).is_ok() {
        log::set_max_level(console.most());
    }
    Ok(())
}

/// Writes a line (or several) to standard error, above the bar if there is one.
pub fn line(text: &str) {
    bar::above(|| {
        let _ = std::io::stderr().lock().write_all(format!("{}\n", lines(text)).as_bytes());
    });
}

/// Which messages are shown.
#[derive(Debug, PartialEq)]
struct Console {
    ours: LevelFilter,
    /// Those of other crates that are not named.
    others: LevelFilter,
    /// By the beginning of the target.
    named: Vec<(String, LevelFilter)>,
}

impl Console {
    fn new(verbosity: Verbosity) -> Self {
        let (ours, others) = match verbosity {
            Verbosity::Quiet => (LevelFilter::Warn, LevelFilter::Off),
            Verbosity::Normal => (LevelFilter::Info, LevelFilter::Off),
            Verbosity::Verbose => (LevelFilter::Debug, LevelFilter::Warn),
            Verbosity::Everything => (LevelFilter::Trace, LevelFilter::Info),
        };
        Self { ours, others, named: Vec::new() }
    }

    /// Reads `LEVEL` and `TARGET=LEVEL`, separated by commas.
    fn parse(text: &str) -> Result<Self, String> {
        let mut console = Self::new(Verbosity::Normal);
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (target, level) = match part.split_once('=') {
                Some((target, level)) => (target.trim(), level.trim()),
                None => (TARGET, part),
            };
            let level: LevelFilter = level.parse().map_err(|_| {
                format!(
                    "`{}` is no level; there are off, error, warn, info, debug and trace",
                    level.escape_debug()
                )
            })?;
            match target {
                TARGET => console.ours = level,
                _ => console.named.push((target.to_string(), level)),
            }
        }
        Ok(console)
    }

    fn of(&self, target: &str) -> LevelFilter {
        let within = |name: &str| {
            target.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        match self.named.iter().rev().find(|(name, _)| within(name)) {
            Some((_, level)) => *level,
            None if within(TARGET) => self.ours,
            None => self.others,
        }
    }

    fn most(&self) -> LevelFilter {
        self.named.iter().map(|(_, level)| *level).fold(self.ours.max(self.others), Ord::max)
    }
}

impl Log for Console {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= self.of(metadata.target())
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        match record.target() {
            TARGET => line(&record.args().to_string()),
            other => line(&format!("{other}: {}", record.args())),
        }
    }

    fn flush(&self) {}
}

/// How far something is. Seen where the program's console shows more than warnings, on a terminal, in builds
/// with the feature `progress`; one at a time, until it is dropped.
#[derive(Debug)]
pub struct Bar(bar::Bar);

impl Bar {
    /// A bar, where it can be seen.
    pub fn open() -> Option<Self> {
        let shown = CONSOLE.get().is_some_and(|console| console.ours >= LevelFilter::Info);
        shown.then(bar::Bar::open).flatten().map(Self)
    }

    /// Shows `done` of `total`, with a text beside it.
    pub fn set(&self, done: usize, total: usize, text: String) {
        self.0.set(done as u64, total as u64, shown(&text).into_owned());
    }
}

#[cfg(feature = "progress")]
mod bar {
    use std::fmt::Write;
    use std::io::IsTerminal;
    use std::sync::{Mutex, PoisonError};

    use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

    /// What is on the terminal now, so that lines are written above it.
    static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

    /// A bar on standard error, cleared when it is dropped.
    #[derive(Debug)]
    pub(super) struct Bar(ProgressBar);

    impl Bar {
        pub(super) fn open() -> Option<Self> {
            std::io::stderr().is_terminal().then(|| {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
                bar.set_style(style());
                *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.clone());
                Self(bar)
            })
        }

        pub(super) fn set(&self, done: u64, total: u64, text: String) {
            self.0.set_length(total);
            self.0.set_message(text);
            self.0.set_position(done);
        }
    }

    impl Drop for Bar {
        fn drop(&mut self) {
            self.0.finish_and_clear();
            *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Does something while no bar is in the way.
    pub(super) fn above(write: impl FnOnce()) {
        match &*SHOWN.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn style() -> ProgressStyle {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {share}  {msg}");
        let share = |state: &ProgressState, out: &mut dyn Write| {
            // a bar may miss a number
            let _ = write!(out, "{:3.0}%", 100.0 * state.fraction());
        };
        style.map_or_else(|_| ProgressStyle::default_bar(), |style| style.with_key("share", share))
    }
}

#[cfg(not(feature = "progress"))]
mod bar {
    /// There is none in this build.
    #[derive(Debug)]
    pub(super) enum Bar {}

    impl Bar {
        pub(super) fn open() -> Option<Self> {
            None
        }

        pub(super) fn set(&self, _done: u64, _total: u64, _text: String) {
            match *self {}
        }
    }

    pub(super) fn above(write: impl FnOnce()) {
        write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_by_target() {
        let console = Console::parse("debug, wgpu_core=warn ,naga=off").unwrap();
        assert_eq!(console.of("poa_gpu"), LevelFilter::Debug);
        assert_eq!(console.of("wgpu_core::device"), LevelFilter::Warn);
        assert_eq!(console.of("wgpu_core_deps"), LevelFilter::Off);
        assert_eq!(console.of("naga"), LevelFilter::Off);
        assert_eq!(console.most(), LevelFilter::Debug);
        assert_eq!(Console::parse("").unwrap(), Console::new(Verbosity::Normal));
        assert_eq!(Console::parse("poa_gpu=off").unwrap().of("poa_gpu"), LevelFilter::Off);
        assert!(Console::parse("loud").unwrap_err().contains("`loud` is no level"));
    }
}

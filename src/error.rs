//! The one error type of the library. Every variant names the thing at fault and what would fix it, because
//! its text is all that a user of the program sees.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::shown::shown;

/// Anything that can go wrong for a reason outside this code.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A command-line argument that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// A configuration key that is unknown or whose value cannot be used.
    #[error("config key `{key}`: {problem}")]
    Config {
        /// The dotted key, as in `student.patch_size`.
        key: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// A file or folder that cannot be read, written or understood.
    #[error("{}: {problem}", shown(path))]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it and what would fix it.
        problem: String,
    },
    /// Tensors whose shapes, strides or types do not fit the operation.
    #[error("{op}: {problem}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The shapes and what was expected.
        problem: String,
    },
    /// A device that is missing, lacks a limit, or failed.
    #[error("device: {0}")]
    Device(String),
    /// A run that cannot go on because its numbers are not finite any more.
    #[error("{0}")]
    Diverged(String),
    /// Numbers that are not those expected (a self-test or a verification that failed).
    #[error("{0}")]
    Mismatch(String),
    /// A run of several ranks that cannot go on: one of them is silent, or differs from the others.
    #[error("{0}")]
    Ranks(String),
    /// What ended another rank, which tells it.
    #[error("another rank has ended: {0}")]
    Elsewhere(String),
    /// Something that was asked to end before it was done.
    #[error("{0}")]
    Interrupted(Interruption),
}

/// Why something ended before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// SIGINT: Ctrl-C.
    Interrupt,
    /// SIGTERM: a shutdown, a batch system's limit.
    Terminate,
    /// SIGHUP: the terminal is gone.
    Hangup,
    /// The program itself.
    Asked,
}

impl Interruption {
    /// Every one.
    pub(crate) const ALL: [Self; 4] = [Self::Interrupt, Self::Terminate, Self::Hangup, Self::Asked];

    /// The signal's number; for a wish of the program's own none has it.
    pub fn signal(self) -> usize {
        match self {
            Self::Hangup => 1,
            Self::Interrupt => 2,
            Self::Terminate => 15,
            Self::Asked => 1 << 16,
        }
    }

    /// The exit status of a program that ends for this: 128 and the signal, as shells report it.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt | Self::Asked => 130,
            Self::Terminate => 143,
        }
    }
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "interrupted (SIGINT)",
            Self::Terminate => "terminated (SIGTERM)",
            Self::Hangup => "the terminal is gone (SIGHUP)",
            Self::Asked => "stopped",
        })
    }
}

/// Results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An unusable configuration key. The text is one line: names in it may hold what they want.
    pub fn config(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Config { key: one_line(key), problem: one_line(problem) }
    }

    /// An unusable file or folder. The text is one line: names in it may hold what they want.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Self::File { path: path.as_ref().to_path_buf(), problem: one_line(problem) }
    }

    /// An operation called with shapes it cannot take.
    pub fn shape(op: &'static str, problem: impl Into<String>) -> Self {
        Self::Shape { op, problem: problem.into() }
    }

    /// The same error, of the same kind, whose text begins with what was being done.
    pub fn during(self, what: impl std::fmt::Display) -> Self {
        self.retold(|text| format!("{what}: {text}"))
    }

    /// The same error, of the same kind, whose text ends with what else is to be known.
    pub fn and(self, more: impl std::fmt::Display) -> Self {
        self.retold(|text| format!("{text}; {more}"))
    }

    /// The same error with another text; an interruption has none of its own.
    fn retold(mut self, tell: impl FnOnce(&str) -> String) -> Self {
        let text = match &mut self {
            Self::Config { problem, .. } | Self::File { problem, .. } | Self::Shape { problem, .. } => {
                problem
            }
            Self::Usage(text)
            | Self::Device(text)
            | Self::Diverged(text)
            | Self::Mismatch(text)
            | Self::Ranks(text)
            | Self::Elsewhere(text) => text,
            Self::Interrupted(_) => return self,
        };
        *text = tell(text);
        self
    }

    /// The exit status of the program: 2 when the call itself is at fault, 128 and the signal where one ended
    /// it, 1 otherwise.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config { .. } => 2,
            Self::Interrupted(why) => why.exit_status(),
            _ => 1,
        }
    }
}

fn one_line(text: impl Into<String>) -> String {
    let text = text.into();
    match shown(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(escaped) => escaped,
    }
}

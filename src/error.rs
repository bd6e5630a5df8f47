//! The one error type of the library. Every variant names the thing at fault and what would fix it, because
//! its text is all that a user of the program sees.

use std::borrow::Cow;
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
    pub fn during(mut self, what: impl std::fmt::Display) -> Self {
        let text = match &mut self {
            Self::Config { problem, .. } | Self::File { problem, .. } | Self::Shape { problem, .. } => {
                problem
            }
            Self::Usage(text) | Self::Device(text) | Self::Diverged(text) | Self::Mismatch(text) => text,
        };
        *text = format!("{what}: {text}");
        self
    }

    /// The exit status of the program: 2 when the call itself is at fault, 1 otherwise.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Config { .. } => 2,
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

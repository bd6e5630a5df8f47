//! Images that cannot be used: why, and when training first met them.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::collective::Collective;
use crate::error::Result;
use crate::shown::shown;

/// Why an image cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BadKind {
    /// The file is not there.
    Missing,
    /// The file cannot be read: permissions, a failing disk.
    Unreadable,
    /// The file is cut off or its content contradicts itself.
    Damaged,
    /// No image, or of a kind that is not decoded here.
    Unsupported,
    /// Decoding it would take an unreasonable amount of memory.
    TooLarge,
    /// A file without bytes or an image without pixels.
    Empty,
}

impl BadKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Missing, Self::Unreadable, Self::Damaged, Self::Unsupported, Self::TooLarge, Self::Empty];

    /// The name to count by, which stays the same from version to version.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Damaged => "damaged",
            Self::Unsupported => "unsupported",
            Self::TooLarge => "too-large",
            Self::Empty => "empty",
        }
    }
}

impl fmt::Display for BadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is wrong with an image, before it is known which one it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind to count it by.
    pub kind: BadKind,
    /// The details, for a person, in one line.
    pub reason: String,
}

impl Fault {
    /// A fault with its details; those of decoders may have several lines, which become one.
    pub fn new(kind: BadKind, reason: impl AsRef<str>) -> Self {
        let lines: Vec<&str> =
            reason.as_ref().lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Self { kind, reason: shown(&lines.join(" ")).into_owned() }
    }

    /// The fault of the image called `name`.
    pub fn of(self, name: String) -> BadSample {
        BadSample { name: shown(&name).into_owned(), kind: self.kind, reason: self.reason }
    }
}

impl From<std::io::Error> for Fault {
    fn from(e: std::io::Error) -> Self {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => BadKind::Missing,
            std::io::ErrorKind::UnexpectedEof => BadKind::Damaged,
            _ => BadKind::Unreadable,
        };
        Self::new(kind, e.to_string())
    }
}

/// An image that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadSample {
    /// The name of the image within its source.
    pub name: String,
    /// Why it cannot be used, to count by.
    pub kind: BadKind,
    /// Why it cannot be used, in one line of words.
    pub reason: String,
}

impl BadSample {
    /// Those of all ranks, in rank order.
    pub fn of_all_ranks(own: Vec<Self>, ranks: &Collective) -> Result<Vec<Self>> {
        Ok(ranks.tell(own)?.concat())
    }
}

/// The bad images that a loader has met.
///
/// Workers run ahead of the steps that are handed out, and several may meet the same image. Each is kept
/// under the first step that needed it, so what a step reports is the same for any number of threads.
#[derive(Default)]
pub(super) struct BadSamples {
    known: HashSet<usize>,
    /// Those not handed out yet, by number, with the first step that needed them.
    fresh: BTreeMap<usize, (u64, BadSample)>,
}

impl BadSamples {
    /// Whether image `i`, which `step` needs, is known to be bad.
    pub fn known(&mut self, i: usize, step: u64) -> bool {
        let known = self.known.contains(&i);
        if known && let Some((first, _)) = self.fresh.get_mut(&i) {
            *first = step.min(*first);
        }
        known
    }

    /// Notes that image `i`, which `step` needs, is bad.
    pub fn note(&mut self, i: usize, step: u64, sample: BadSample) {
        if !self.known(i, step) {
            self.known.insert(i);
            self.fresh.insert(i, (step, sample));
        }
    }

    /// Hands out those that steps before `end` needed, by number.
    pub fn take(&mut self, end: u64) -> Vec<BadSample> {
        if self.fresh.is_empty() {
            return Vec::new();
        }
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        let (due, later): (BTreeMap<_, _>, _) = fresh.partition(|(_, (step, _))| *step < end);
        self.fresh = later;
        due.into_values().map(|(_, sample)| sample).collect()
    }

    /// One of them, as an example.
    pub fn any(&self) -> Option<&BadSample> {
        self.fresh.values().map(|(_, sample)| sample).next()
    }
}

//! `bad_samples.txt`: the images of a run that could not be used, each with its reason.

use std::collections::{BTreeMap, HashSet};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::data::bad_samples::BadSample;
use crate::error::{Error, Result};
use crate::shown::shown;

/// The images that could not be used so far, on disk and by reason.
pub struct BadSamplesFile {
    path: PathBuf,
    known: HashSet<String>,
    by_kind: BTreeMap<String, usize>,
}

impl BadSamplesFile {
    /// Those that an earlier part of the run found, if there was one.
    pub fn open(path: &Path) -> Result<Self> {
        let mut all = Self { path: path.to_path_buf(), known: HashSet::new(), by_kind: BTreeMap::new() };
        let text = match std::fs::read_to_string(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            other => other.map_err(|e| Error::file(path, format!("cannot be read: {e}")))?,
        };
        for line in text.lines() {
            let mut fields = line.splitn(3, '\t');
            if let (Some(kind), Some(name), Some(_)) = (fields.next(), fields.next(), fields.next()) {
                all.count(kind, name);
            }
        }
        Ok(all)
    }

    /// Adds what was found; names that are known already are left out. True where there were new ones.
    pub fn add(&mut self, found: &[BadSample]) -> Result<bool> {
        let mut lines = String::new();
        for sample in found {
            // one line each, whatever a file is called
            let (kind, name) = (sample.kind.name().to_string(), shown(&sample.name).into_owned());
            if self.count(&kind, &name) {
                lines.push_str(&format!("{kind}\t{name}\t{}\n", shown(&sample.reason)));
            }
        }
        if lines.is_empty() {
            return Ok(false);
        }
        let written = OpenOptions::new().append(true).create(true).open(&self.path);
        written
            .and_then(|mut file| file.write_all(lines.as_bytes()))
            .map_err(|e| Error::file(&self.path, format!("cannot be written: {e}; is the disk full?")))?;
        Ok(true)
    }

    fn count(&mut self, kind: &str, name: &str) -> bool {
        let new = self.known.insert(name.to_string());
        if new {
            *self.by_kind.entry(kind.to_string()).or_default() += 1;
        }
        new
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How many there are of each kind, as `3 damaged, 1 missing`.
    pub fn summary(&self) -> String {
        let kinds: Vec<String> = self.by_kind.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        kinds.join(", ")
    }
}

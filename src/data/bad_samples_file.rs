//! `bad_samples.txt`: the images of a run that could not be used, each with its reason.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::data::bad_samples::BadSample;
use crate::error::{Error, Result};
use crate::files::own::open_own;
use crate::shown::shown;

/// The images that could not be used so far, on disk and by reason.
pub struct BadSamplesFile {
    path: PathBuf,
    known: HashSet<String>,
    by_kind: BTreeMap<String, usize>,
    /// What could not be written yet.
    waiting: String,
    /// Whether the file ends within a line.
    torn: bool,
}

impl BadSamplesFile {
    /// Those that an earlier part of the run found, if there was one.
    pub fn open(path: &Path) -> Result<Self> {
        let mut all = Self {
            path: path.to_path_buf(),
            known: HashSet::new(),
            by_kind: BTreeMap::new(),
            waiting: String::new(),
            torn: false,
        };
        if path.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            return Ok(all);
        }
        let mut text = Vec::new();
        open_own(path, File::options().read(true))?
            .read_to_end(&mut text)
            .map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
        // a crash may have cut off the last line, within a character too: its image is found again
        all.torn = text.last().is_some_and(|byte| *byte != b'\n');
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in String::from_utf8_lossy(&text[..whole]).lines() {
            let mut fields = line.splitn(3, '\t');
            if let (Some(kind), Some(name), Some(_)) = (fields.next(), fields.next(), fields.next()) {
                all.count(kind, name);
            }
        }
        Ok(all)
    }

    /// Begins anew, as for a run that starts at its beginning where an earlier attempt has left a list.
    pub fn clear(&mut self) -> Result<()> {
        self.known.clear();
        self.by_kind.clear();
        self.waiting.clear();
        self.torn = false;
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::file(
                &self.path,
                format!("cannot be removed ({e}), and is of an earlier attempt; remove it"),
            )),
            _ => Ok(()),
        }
    }

    /// Adds what was found; names that are known already are left out. True where there were new ones.
    pub fn add(&mut self, found: &[BadSample]) -> Result<bool> {
        let before = self.known.len();
        for sample in found {
            // one line each, whatever a file is called
            let (kind, name) = (sample.kind.name().to_string(), shown(&sample.name).into_owned());
            if self.count(&kind, &name) {
                self.waiting.push_str(&format!("{kind}\t{name}\t{}\n", shown(&sample.reason)));
            }
        }
        if self.known.len() == before {
            return Ok(false);
        }
        let start = if self.torn { "\n" } else { "" };
        let mut file = open_own(&self.path, File::options().append(true).create(true))?;
        let written = file.write_all(format!("{start}{}", self.waiting).as_bytes());
        self.torn = written.is_err();
        written.map_err(|e| Error::file(&self.path, format!("cannot be written: {e}; is the disk full?")))?;
        self.waiting.clear();
        Ok(true)
    }

    /// Goes on in another folder, to which the file was moved.
    pub fn move_to(&mut self, dir: &Path) {
        if let Some(name) = self.path.file_name() {
            self.path = dir.join(name);
        }
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

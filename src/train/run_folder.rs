//! The folder of a run: its settings, reports and checkpoints.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::files::checkpoint::{Checkpoint, checkpoints_in};
use crate::files::durable::replace_file;
use crate::files::own::{self, is_at, open_own};
use crate::logging;
use crate::shown::shown;
use crate::train::metrics::{history, timestamp};

/// The settings, in a run's folder and in its checkpoints.
pub const CONFIG: &str = "config.toml";
/// What a run leaves in its folder.
const CONTENTS: [&str; 4] = [CONFIG, METRICS, LOG, CHECKPOINTS];
const LOG: &str = "train.log";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";
/// Bytes that no settings exceed.
const MOST_CONFIG: u64 = 16 << 20;
/// Where runs go that are given no folder.
const RUNS: &str = "runs";

/// The folder of a run; while this lives, no other process can train in it.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    /// The folder itself, whatever it is called; `None` where the system opens no folders.
    open: Option<File>,
    /// Held until the process ends, however it ends.
    lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run: `out`, which must not hold a run yet that has done a step, or else the first
    /// free `runs/<name>-<n>`. Its settings, the TOML text `config`, go into it.
    pub fn create(out: Option<&Path>, name: &str, config: &str) -> Result<Self> {
        if let Some(dir) = out
            && let Some(found) = contents(dir)
            // settings without a log may be a person's own
            && (!dir.join(CONFIG).is_file() || !dir.join(LOG).is_file() || has_steps(dir))
        {
            return Err(Error::file(
                dir,
                format!(
                    "already holds a run ({found} is in it); go on with it by --resume, give another folder with \
                     --out, or remove this one"
                ),
            ));
        }
        let dir = out.map_or_else(|| free_folder(Path::new(RUNS), name), |dir| Ok(dir.to_path_buf()))?;
        Self::start(&dir, config)
    }

    /// Starts a run in `dir`, where an earlier attempt may have ended before its configuration was written.
    pub fn start(dir: &Path, config: &str) -> Result<Self> {
        let checkpoints = dir.join(CHECKPOINTS);
        fs::create_dir_all(&checkpoints).map_err(|e| {
            let problem = match fs::metadata(&checkpoints) {
                Ok(found) if !found.is_dir() => {
                    "is a file, where the folder of the checkpoints belongs; move it away".into()
                }
                Err(_) if checkpoints.is_symlink() => {
                    "is a link to a folder that is not there; make that folder".into()
                }
                _ => format!("the run's folder cannot be created: {e}"),
            };
            Error::file(&checkpoints, problem)
        })?;
        let run = Self::claim(dir)?;
        // of two processes that start at once one may have begun and ended before the other came to this line
        if has_steps(dir) {
            return Err(Error::file(
                dir,
                "another process has begun a run here in the meantime; go on with it by --resume",
            ));
        }
        // last: a folder with a configuration is a run
        run.write_config(config)?;
        Ok(run)
    }

    /// Takes back what [`RunFolder::start`] made, where a run could not begin: the next attempt finds no run in its
    /// way.
    pub fn withdraw(&self) {
        // an earlier attempt that had begun left more: its settings stay, by which the next attempt knows it
        if self.log().exists() {
            return;
        }
        // what cannot be removed, or holds something by now, stays
        let _ = fs::remove_file(self.config());
        let _ = fs::remove_dir(self.checkpoints());
        let _ = fs::remove_file(self.dir.join("run.lock"));
        let _ = fs::remove_dir(&self.dir);
    }

    /// The folder of a run that exists.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        match holds_run(dir) {
            true => Self::claim(dir),
            false => Err(Error::file(dir, "holds no run: there is no config.toml in it")),
        }
    }

    fn claim(dir: &Path) -> Result<Self> {
        Ok(Self { dir: dir.to_path_buf(), open: File::open(dir).ok(), lock: lock(dir)? })
    }

    /// Sees that the folder is still there, and that no other process can train in it. One that was renamed
    /// is followed, on systems that tell where it is now: its former path is returned. One that was removed
    /// is an error.
    pub fn follow(&mut self) -> Result<Option<PathBuf>> {
        let mut former = None;
        if let Some(open) = self.open.as_ref().filter(|open| !is_at(open, &self.dir)) {
            let Some(now) = own::path_of(open) else {
                return Err(Error::file(
                    &self.dir,
                    "the run's folder was removed or moved away while the run was on: nothing more can be saved there, so \
                     the run ends. Where the folder still exists, go on from its last checkpoint with --resume",
                ));
            };
            former = Some(std::mem::replace(&mut self.dir, now));
        }
        if !is_at(&self.lock, &lock_path(&self.dir)) {
            self.lock = lock(&self.dir)?;
            logging::warn(format_args!("run.lock was removed from {}; it is there again", shown(&self.dir)));
        }
        Ok(former)
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The settings.
    pub fn config(&self) -> PathBuf {
        self.dir.join(CONFIG)
    }

    /// The settings as they were stored, and where they stand: in `config.toml` or, where that is missing or was
    /// damaged by a crash, in the newest checkpoint that has them.
    pub fn stored_config(&self) -> Result<(String, PathBuf)> {
        let path = self.config();
        let mut bytes = Vec::new();
        let read = match path.is_file() {
            true => File::open(&path).and_then(|file| file.take(MOST_CONFIG).read_to_end(&mut bytes)),
            false => Err(ErrorKind::NotFound.into()),
        };
        let problem = match (read, String::from_utf8(bytes)) {
            (Err(e), _) => format!("cannot be read ({e})"),
            (_, Ok(text)) if text.trim().is_empty() => "is empty".into(),
            (_, Ok(text)) if !text.contains('\0') => {
                return Ok((text.strip_prefix('\u{feff}').unwrap_or(&text).to_string(), path));
            }
            _ => "is damaged: it holds more than text".into(),
        };
        match self.config_copy() {
            Some((text, copy)) => {
                logging::warn(format_args!(
                    "{} {problem}; the settings are taken from {}",
                    shown(&path),
                    shown(&copy)
                ));
                Ok((text, copy))
            }
            None => Err(Error::file(
                path,
                format!(
                    "{problem}, and no checkpoint has a copy; remove this folder and start the run again"
                ),
            )),
        }
    }

    /// The settings in the newest checkpoint that has them, and their path.
    pub fn config_copy(&self) -> Option<(String, PathBuf)> {
        let all = checkpoints_in(self.checkpoints()).ok()?;
        all.into_iter().rev().find_map(|(_, dir)| {
            let text = Checkpoint::open(&dir).and_then(|checkpoint| checkpoint.text(CONFIG)).ok()?;
            Some((text, dir.join(CONFIG)))
        })
    }

    /// Replaces the settings.
    pub fn write_config(&self, config: &str) -> Result<()> {
        replace_file(&self.config(), config.as_bytes())
    }

    /// One JSON object a line.
    pub fn metrics(&self) -> PathBuf {
        self.dir.join(METRICS)
    }

    /// Readable lines with times.
    pub fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    /// The folder of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join(CHECKPOINTS)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // what it says is about a process that trains; the lock itself goes with the file
        let _ = self.lock.set_len(0);
    }
}

/// Whether a run was started in a folder: it has its settings, or checkpoints that have them.
pub fn holds_run(dir: &Path) -> bool {
    dir.join(CONFIG).is_file() || checkpoints_in(dir.join(CHECKPOINTS)).is_ok_and(|found| !found.is_empty())
}

/// What of a run is in a folder, if anything is: an empty folder for checkpoints, or a link to one, is a preparation.
fn contents(dir: &Path) -> Option<&'static str> {
    let prepared = |path: &Path| fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    CONTENTS.into_iter().find(|name| {
        let path = dir.join(name);
        path.exists() && !(*name == CHECKPOINTS && prepared(&path))
    })
}

/// Whether a run in a folder has done a step, as far as its files tell. Of one that ended before, as for the want of
/// images that can be used, there is nothing to go on with.
fn has_steps(dir: &Path) -> bool {
    checkpoints_in(dir.join(CHECKPOINTS)).map_or(true, |found| !found.is_empty())
        || !history(dir.join(METRICS), "loss").is_empty()
}

fn lock_path(dir: &Path) -> PathBuf {
    dir.join("run.lock")
}

/// Takes the lock of a run's folder and leaves a note of who has it. The lock decides, never the note.
fn lock(dir: &Path) -> Result<File> {
    let path = lock_path(dir);
    let mut file = open_own(&path, File::options().create(true).truncate(false).read(true).write(true))?;
    match locked(dir, file.try_lock(), || note_of(&mut file))? {
        Some(warning) => logging::warn(warning),
        None => {
            let host = own::host().map_or_else(String::new, |host| format!(" on {host}"));
            let note =
                format!("process {}{host}, since {}\n", std::process::id(), timestamp(SystemTime::now()));
            // nothing depends on it
            let _ =
                file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(note.as_bytes()));
        }
    }
    Ok(file)
}

/// What the holder of the lock has noted about itself; empty where it has not yet.
fn note_of(file: &mut File) -> String {
    let mut text = Vec::new();
    let read = file.rewind().and_then(|()| file.take(200).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    match read {
        Ok(_) if text.starts_with("process ") => text.lines().next().unwrap_or_default().to_string(),
        _ => String::new(),
    }
}

/// What follows from trying to lock: an error where another process has the lock, a warning where the file
/// system has no locks, which is no reason not to train.
fn locked(
    dir: &Path,
    tried: std::result::Result<(), TryLockError>,
    holder: impl FnOnce() -> String,
) -> Result<Option<String>> {
    match tried {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let holder = match holder() {
                note if note.is_empty() => String::new(),
                note => format!(" ({note})"),
            };
            Err(Error::file(
                dir,
                format!("another process is training in this folder{holder}; wait for it, or end it"),
            ))
        }
        Err(TryLockError::Error(e)) => Ok(Some(format!(
            "{} cannot be locked: {e}; two processes could train in this folder at once and spoil it: see that only \
             this one does",
            shown(&lock_path(dir))
        ))),
    }
}

/// The folder of the newest run of this name that was given no folder of its own.
pub fn newest_run(name: &str) -> Option<PathBuf> {
    let number =
        |path: &Path| path.file_name()?.to_str()?.strip_prefix(name)?.strip_prefix('-')?.parse::<u64>().ok();
    let runs = fs::read_dir(RUNS).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    runs.filter(|path| holds_run(path))
        .filter_map(|path| Some((number(&path)?, path)))
        .max()
        .map(|(_, path)| path)
}

/// The first `<parent>/<name>-<n>` that does not exist; making it is what claims it.
fn free_folder(parent: &Path, name: &str) -> Result<PathBuf> {
    let failed = |dir: &Path, e| Error::file(dir, format!("the run's folder cannot be created: {e}"));
    fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
    let mut n = 1_u64;
    loop {
        let dir = parent.join(format!("{name}-{n}"));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => n += 1,
            Err(e) => return Err(failed(&dir, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_lock_is_had_or_held_or_cannot_be() {
        let dir = Path::new("runs/a");
        let holder = || "process 7 on there".to_string();
        assert_eq!(locked(dir, Ok(()), holder).unwrap(), None);
        let held = locked(dir, Err(TryLockError::WouldBlock), holder).unwrap_err().to_string();
        assert!(
            held.contains("runs/a: another process is training in this folder (process 7 on there)"),
            "{held}"
        );
        let e = TryLockError::Error(io::Error::other("No locks available"));
        let warning = locked(dir, Err(e), holder).unwrap().unwrap();
        assert!(warning.contains("No locks available; two processes could train"), "{warning}");
    }
}

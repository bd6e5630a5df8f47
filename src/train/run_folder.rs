//! The folder of a run: its settings, reports and checkpoints.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::durable::replace_file;

/// What a run leaves in its folder.
const CONTENTS: [&str; 4] = ["config.toml", "metrics.jsonl", "train.log", "checkpoints"];
/// Where runs go that are given no folder.
const RUNS: &str = "runs";

/// The folder of a run; while this lives, no other process can train in it.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    /// Held until the process ends, however it ends.
    _lock: File,
}

impl RunFolder {
    /// Makes the folder of a new run: `out`, which must not hold a run yet, or else the first free
    /// `runs/<name>-<n>`. Its settings, the TOML text `config`, go into it.
    pub fn create(out: Option<&Path>, name: &str, config: &str) -> Result<Self> {
        if let Some(dir) = out
            && let Some(found) = CONTENTS.iter().find(|found| dir.join(found).exists())
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
        let checkpoints = dir.join("checkpoints");
        fs::create_dir_all(&checkpoints)
            .map_err(|e| Error::file(dir, format!("the run's folder cannot be created: {e}")))?;
        let run = Self::claim(dir)?;
        // last: a folder with a configuration is a run
        run.write_config(config)?;
        Ok(run)
    }

    /// Takes back what [`RunFolder::start`] made, where a run could not begin: the next attempt finds no run in its
    /// way.
    pub fn withdraw(&self) {
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
        let path = dir.join("run.lock");
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(|e| Error::file(&path, format!("cannot be opened: {e}")))?;
        // a file system without locks is no reason not to train
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(Error::file(
                dir,
                "another process is training in this folder; wait for it, or end it",
            ));
        }
        Ok(Self { dir: dir.to_path_buf(), _lock: lock })
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The settings.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// Replaces the settings.
    pub fn write_config(&self, config: &str) -> Result<()> {
        replace_file(&self.config(), config.as_bytes())
    }

    /// One JSON object a line.
    pub fn metrics(&self) -> PathBuf {
        self.dir.join("metrics.jsonl")
    }

    /// Readable lines with times.
    pub fn log(&self) -> PathBuf {
        self.dir.join("train.log")
    }

    /// The folder of the checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }
}

/// Whether a run was started in a folder.
pub fn holds_run(dir: &Path) -> bool {
    dir.join("config.toml").is_file()
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

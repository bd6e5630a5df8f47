//! The folder of a run: its configuration, reports and checkpoints.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, Result};

/// What a run leaves in its folder.
const CONTENTS: [&str; 4] = ["config.toml", "metrics.jsonl", "train.log", "checkpoints"];

/// The folder of a run.
#[derive(Debug, Clone)]
pub struct RunFolder {
    dir: PathBuf,
}

impl RunFolder {
    /// Makes the folder of a new run: `out`, which must not hold a run yet, or else the first free
    /// `runs/<recipe>-<n>`. The resolved configuration goes into it.
    pub fn create(out: Option<&Path>, recipe: &str, config: &Config) -> Result<Self> {
        let text = config.to_toml()?;
        let run = Self { dir: out.map_or_else(|| free_folder(Path::new("runs"), recipe), taken)? };
        let checkpoints = run.checkpoints();
        fs::create_dir(&checkpoints)
            .map_err(|e| Error::file(&checkpoints, format!("cannot be created: {e}")))?;
        let path = run.config();
        fs::write(&path, text).map_err(|e| Error::file(&path, format!("cannot be written: {e}")))?;
        Ok(run)
    }

    /// The folder of a run that exists.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let run = Self { dir: dir.as_ref().to_path_buf() };
        match run.config().is_file() {
            true => Ok(run),
            false => Err(Error::file(&run.dir, "holds no run: there is no config.toml in it")),
        }
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
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

/// The folder that was asked for, made if need be, unless a run is in it.
fn taken(dir: &Path) -> Result<PathBuf> {
    if let Some(name) = CONTENTS.iter().find(|name| dir.join(name).exists()) {
        return Err(Error::file(
            dir,
            format!(
                "already holds a run ({name} is in it); give another folder with --out, or remove this one"
            ),
        ));
    }
    fs::create_dir_all(dir)
        .map_err(|e| Error::file(dir, format!("the run's folder cannot be created: {e}")))?;
    Ok(dir.to_path_buf())
}

/// The first `<parent>/<recipe>-<n>` that does not exist; making it is what claims it.
fn free_folder(parent: &Path, recipe: &str) -> Result<PathBuf> {
    let failed = |dir: &Path, e| Error::file(dir, format!("the run's folder cannot be created: {e}"));
    fs::create_dir_all(parent).map_err(|e| failed(parent, e))?;
    let mut n = 1_u64;
    loop {
        let dir = parent.join(format!("{recipe}-{n}"));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => n += 1,
            Err(e) => return Err(failed(&dir, e)),
        }
    }
}

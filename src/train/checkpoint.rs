//! Checkpoints: a folder of tensor files with a `state.json`.
//!
//! A checkpoint is written beside its final place and renamed when everything is on disk, so a folder under the
//! final name is always complete.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::tensor_file::{TensorFile, TensorSpec, Values, write_tensors};
use crate::error::{Error, Result};

const FORMAT: &str = "poa-gpu checkpoint";
const VERSION: u32 = 1;

/// What `state.json` holds.
#[derive(Serialize, Deserialize)]
struct Manifest {
    format: String,
    version: u32,
    /// Sizes of the other files, in bytes.
    files: BTreeMap<String, u64>,
    state: Value,
}

/// A checkpoint that is being written; it appears under its name when it is finished, or not at all.
#[derive(Debug)]
pub struct CheckpointWriter {
    dir: PathBuf,
    partial: PathBuf,
    files: BTreeMap<String, u64>,
}

impl CheckpointWriter {
    /// Starts a checkpoint that will be the folder `dir`.
    pub fn create(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        let partial = beside(&dir, ".partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(|e| {
                Error::file(&partial, format!("an unfinished checkpoint cannot be removed: {e}"))
            })?;
        }
        fs::create_dir_all(&partial).map_err(|e| Error::file(&partial, format!("cannot be created: {e}")))?;
        Ok(Self { dir, partial, files: BTreeMap::new() })
    }

    /// Writes a file of tensors, such as `student.safetensors`; see [`write_tensors`].
    pub fn tensors<V: Into<Values>>(
        &mut self,
        file: &str,
        specs: &[TensorSpec],
        read: impl FnMut(&str) -> Result<V>,
    ) -> Result<()> {
        let path = self.partial.join(file);
        write_tensors(&path, specs, read)?;
        let size = fs::metadata(&path).map_err(|e| Error::file(&path, format!("cannot be read: {e}")))?.len();
        self.files.insert(file.to_string(), size);
        Ok(())
    }

    /// Writes `state.json` and puts the checkpoint in its place, over an older one of the same name.
    pub fn finish(self, state: &impl Serialize) -> Result<PathBuf> {
        let path = self.partial.join("state.json");
        let bad = |e: serde_json::Error| Error::file(&path, format!("cannot be written: {e}"));
        let state = serde_json::to_value(state).map_err(bad)?;
        let manifest = Manifest { format: FORMAT.into(), version: VERSION, files: self.files.clone(), state };
        let text = serde_json::to_string_pretty(&manifest).map_err(bad)?;
        let failed =
            |e: std::io::Error| Error::file(&self.dir, format!("the checkpoint cannot be written: {e}"));
        let mut file = File::create(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        sync_dir(&self.partial).map_err(failed)?;
        if self.dir.exists() {
            let old = beside(&self.dir, ".old");
            if old.exists() {
                fs::remove_dir_all(&old).map_err(failed)?;
            }
            fs::rename(&self.dir, &old).map_err(failed)?;
            fs::rename(&self.partial, &self.dir).map_err(failed)?;
            fs::remove_dir_all(&old).map_err(failed)?;
        } else {
            fs::rename(&self.partial, &self.dir).map_err(failed)?;
        }
        if let Some(parent) = self.dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent).map_err(failed)?;
        }
        Ok(self.dir.clone())
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        // After `finish` the folder is gone under this name. What cannot be removed is removed by the next writer.
        if self.partial.exists() {
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// The path with something added to its last name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_os_string();
    path.push(ending);
    path.into()
}

/// Makes the entries of a folder durable; only Unix can.
fn sync_dir(dir: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// A checkpoint on disk.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    state: Value,
}

impl Checkpoint {
    /// Opens a checkpoint folder and checks that all its files are there and whole.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("state.json");
        let text = fs::read_to_string(&path).map_err(|e| {
            Error::file(&path, format!("cannot be read, so {} is no checkpoint: {e}", dir.display()))
        })?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| {
            Error::file(&path, format!("is no checkpoint's state: {e}; use an earlier checkpoint"))
        })?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            return Err(Error::file(
                &path,
                format!(
                    "is `{}` version {}; this program reads `{FORMAT}` version {VERSION}",
                    manifest.format, manifest.version
                ),
            ));
        }
        for (name, &size) in &manifest.files {
            let file = dir.join(name);
            let found = fs::metadata(&file).map(|m| m.len());
            if found.as_ref().ok() != Some(&size) {
                let found = found.map_or_else(|e| e.to_string(), |n| format!("{n} bytes"));
                return Err(Error::file(
                    &file,
                    format!(
                        "should have {size} bytes ({found}); copy it again, or use an earlier checkpoint"
                    ),
                ));
            }
        }
        Ok(Self { dir: dir.to_path_buf(), state: manifest.state })
    }

    /// The checkpoint's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was saved beside the tensors.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.state)
            .map_err(|e| Error::file(self.dir.join("state.json"), format!("state: {e}")))
    }

    /// Opens one of the checkpoint's files of tensors.
    pub fn tensors(&self, file: &str) -> Result<TensorFile> {
        TensorFile::open(self.dir.join(file))
    }
}

/// The finished checkpoints in a folder, oldest (smallest step) first.
pub fn checkpoints_in(folder: impl AsRef<Path>) -> Result<Vec<(usize, PathBuf)>> {
    let folder = folder.as_ref();
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| Error::file(folder, format!("cannot be listed: {e}")))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::file(folder, format!("cannot be listed: {e}")))?.path();
        let step = path.file_name().and_then(|n| n.to_str()?.strip_prefix("step-")?.parse().ok());
        if let Some(step) = step.filter(|_| path.join("state.json").is_file()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The folder of the checkpoint taken after so many steps.
pub fn checkpoint_dir(folder: impl AsRef<Path>, steps: usize) -> PathBuf {
    folder.as_ref().join(format!("step-{steps:08}"))
}

/// Removes all but the newest `keep` checkpoints of a folder; 0 keeps all.
pub fn prune(folder: impl AsRef<Path>, keep: usize) -> Result<()> {
    let found = checkpoints_in(folder)?;
    let surplus = if keep == 0 { 0 } else { found.len().saturating_sub(keep) };
    for (_, path) in &found[..surplus] {
        fs::remove_dir_all(path).map_err(|e| Error::file(path, format!("cannot be removed: {e}")))?;
    }
    Ok(())
}

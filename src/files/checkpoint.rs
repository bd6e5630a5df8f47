//! Checkpoints: a folder of files with a manifest of their sizes and checksums.
//!
//! A checkpoint is written beside its final place: every file is forced to disk, the manifest last, and then
//! the folder is renamed. So a folder under the final name is complete, and what went wrong with it since (a
//! failing disk, a copy cut short) shows in the checksums. `latest` beside them always points at a complete
//! one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::durable::{FileSum, beside, sum_of, sync_dir, write_durably};
use super::own::{create_own, remove};
use super::regular::{demand_regular, read_text};
use super::tensor_file::TensorFile;
use super::tensor_writer::{TensorSpec, Values, write_tensors};
use crate::error::{Error, Result};
use crate::logging;
use crate::shown::shown;

const FORMAT: &str = "poa-gpu checkpoint";
const VERSION: u32 = 2;
const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";
const LATEST: &str = "latest";
/// The longest text that a checkpoint has: manifest, state, settings.
const MAX_TEXT: u64 = 1 << 24;

/// What `manifest.json` holds.
#[derive(Serialize, Deserialize)]
struct Manifest {
    format: String,
    version: u32,
    files: BTreeMap<String, FileSum>,
}

/// A checkpoint that is being written; it appears under its name when it is finished, or not at all.
#[derive(Debug)]
pub struct CheckpointWriter {
    dir: PathBuf,
    partial: PathBuf,
    files: BTreeMap<String, FileSum>,
}

impl CheckpointWriter {
    /// Starts a checkpoint that will be the folder `dir`, within one that exists.
    pub fn create(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        let partial = beside(&dir, ".partial");
        remove(&partial)
            .map_err(|e| Error::file(&partial, format!("an unfinished checkpoint cannot be removed: {e}")))?;
        // where the folder for it is gone, it was moved away: another in its place may be somebody else's
        fs::create_dir(&partial).map_err(|e| Error::file(&partial, format!("cannot be created: {e}")))?;
        Ok(Self { dir, partial, files: BTreeMap::new() })
    }

    /// Writes a file of tensors, such as `student.safetensors`; see [`write_tensors`].
    pub fn tensors<V: Into<Values>>(
        &mut self,
        file: &str,
        specs: &[TensorSpec],
        read: impl FnMut(&str) -> Result<V>,
    ) -> Result<()> {
        let sum = write_tensors(&self.partial.join(file), specs, read)?;
        self.files.insert(file.to_string(), sum);
        Ok(())
    }

    /// Writes a file of text.
    pub fn text(&mut self, file: &str, text: &str) -> Result<()> {
        let path = self.partial.join(file);
        write_durably(&path, text.as_bytes())?;
        let sum = FileSum { bytes: text.len() as u64, crc32c: crc32c::crc32c(text.as_bytes()) };
        self.files.insert(file.to_string(), sum);
        Ok(())
    }

    /// Writes `state.json` and the manifest, and puts the checkpoint in its place, over an older one of the
    /// same name.
    pub fn finish(mut self, state: &impl Serialize) -> Result<PathBuf> {
        self.text(STATE, &to_json(state, &self.partial.join(STATE))?)?;
        let manifest = Manifest { format: FORMAT.into(), version: VERSION, files: self.files.clone() };
        let path = self.partial.join(MANIFEST);
        write_durably(&path, to_json(&manifest, &path)?.as_bytes())?;
        let failed =
            |e: std::io::Error| Error::file(&self.dir, format!("the checkpoint cannot be written: {e}"));
        sync_dir(&self.partial).map_err(failed)?;
        match self.dir.symlink_metadata() {
            Ok(found) if found.is_dir() || found.is_symlink() => {
                let old = beside(&self.dir, ".old");
                remove(&old).map_err(failed)?;
                fs::rename(&self.dir, &old).map_err(failed)?;
                fs::rename(&self.partial, &self.dir).map_err(failed)?;
                // what cannot be removed now is removed by a resume
                if let Err(e) = remove(&old) {
                    logging::warn(format_args!("{}: cannot be removed: {e}", shown(&old)));
                }
            }
            // someone's file
            Ok(_) => {
                set_aside(&self.dir)?;
                fs::rename(&self.partial, &self.dir).map_err(failed)?;
            }
            Err(_) => fs::rename(&self.partial, &self.dir).map_err(failed)?,
        }
        if let Some(parent) = self.dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent).map_err(failed)?;
        }
        Ok(self.dir.clone())
    }
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        // After `finish` the folder is gone under this name. What cannot be removed is removed by the next
        // writer.
        let _ = remove(&self.partial);
    }
}

fn to_json(value: &impl Serialize, path: &Path) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|e| Error::file(path, format!("cannot be written: {e}")))
}

/// A checkpoint on disk.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    files: BTreeMap<String, FileSum>,
}

impl Checkpoint {
    /// Opens a checkpoint folder and checks that all its files are there in their sizes; their content is
    /// checked when they are read, or all at once by [`Checkpoint::verify`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join(MANIFEST);
        let text = read_text(&path, MAX_TEXT)
            .map_err(|e| e.during(format!("{} is no checkpoint that can be used", shown(dir))))?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| {
            Error::file(&path, format!("is no checkpoint's manifest: {e}; use an earlier checkpoint"))
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
        for (name, sum) in &manifest.files {
            demand_inside(&path, dir, name)?;
            let file = dir.join(name);
            let found = demand_regular(&file)?;
            if found != sum.bytes {
                return Err(Error::file(
                    &file,
                    format!(
                        "should have {} bytes ({found} bytes); copy it again, or use an earlier checkpoint",
                        sum.bytes
                    ),
                ));
            }
        }
        Ok(Self { dir: dir.to_path_buf(), files: manifest.files })
    }

    /// The checkpoint's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a file is part of the checkpoint.
    pub fn contains(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    /// Checks the content of every file.
    pub fn verify(&self) -> Result<()> {
        self.files.keys().try_for_each(|name| self.verified(name).map(|_| ()))
    }

    /// What was saved beside the tensors.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T> {
        let path = self.dir.join(STATE);
        serde_json::from_str(&self.text(STATE)?).map_err(|e| {
            Error::file(path, format!("is no state of this program: {e}; use an earlier checkpoint"))
        })
    }

    /// One of the checkpoint's files of text.
    pub fn text(&self, file: &str) -> Result<String> {
        read_text(self.verified(file)?, MAX_TEXT)
    }

    /// Opens one of the checkpoint's files of tensors.
    pub fn tensors(&self, file: &str) -> Result<TensorFile> {
        TensorFile::open(self.verified(file)?)
    }

    /// The path of a file whose content is what was written.
    fn verified(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        let expected = self
            .files
            .get(name)
            .ok_or_else(|| Error::file(&path, "is not part of this checkpoint; use another one"))?;
        let found = sum_of(&path, expected.bytes)?;
        match found == *expected {
            true => Ok(path),
            false => Err(Error::file(
                path,
                format!(
                    "is damaged: its checksum is {:08x}, not {:08x}; copy it again, or use an earlier checkpoint",
                    found.crc32c, expected.crc32c
                ),
            )),
        }
    }
}

/// The checkpoint's files lie in its folder: a manifest that comes from elsewhere may name anything.
fn demand_inside(manifest: &Path, dir: &Path, name: &str) -> Result<()> {
    let inside = is_plain(name) && {
        let file = dir.join(name);
        // what is not there is said by whoever looks for it
        let link = fs::symlink_metadata(&file).is_ok_and(|found| found.is_symlink());
        !link || file.canonicalize().ok().zip(dir.canonicalize().ok()).is_some_and(|(f, d)| f.starts_with(d))
    };
    match inside {
        true => Ok(()),
        false => Err(Error::file(
            manifest,
            format!("names {name:?}, which is no file in the checkpoint's folder; use another checkpoint"),
        )),
    }
}

/// Whether a name is one of a file, without a way to it.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!(components.next(), Some(std::path::Component::Normal(one)) if one == name);
    single && components.next().is_none() && !name.contains(['/', '\\', '\0'])
}

/// The checkpoints in a folder that have a manifest, oldest (smallest step) first.
pub fn checkpoints_in(folder: impl AsRef<Path>) -> Result<Vec<(usize, PathBuf)>> {
    let folder = folder.as_ref();
    let mut found = Vec::new();
    for path in entries(folder)? {
        if let Some(step) = step_of(&path).filter(|_| path.join(MANIFEST).is_file()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The step in the name of a checkpoint's folder, if it is a name that [`checkpoint_dir`] gives.
fn step_of(path: &Path) -> Option<usize> {
    let name = path.file_name()?.to_str()?;
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (checkpoint_name(step) == name).then_some(step)
}

fn checkpoint_name(steps: usize) -> String {
    format!("step-{steps:08}")
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::file(folder, format!("cannot be listed: {e}"));
    match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(_) if folder.is_file() => {
            Err(Error::file(folder, "is a file, where a folder belongs; move it away"))
        }
        Err(e) => Err(failed(e)),
        Ok(entries) => entries.map(|entry| entry.map(|e| e.path()).map_err(failed)).collect(),
    }
}

/// The folder of the checkpoint taken after so many steps.
pub fn checkpoint_dir(folder: impl AsRef<Path>, steps: usize) -> PathBuf {
    folder.as_ref().join(checkpoint_name(steps))
}

/// Removes old checkpoints of a folder: all but the newest `keep` (0 keeps all) and those of a multiple of
/// `keep_multiple` steps (0: none).
pub fn prune(folder: impl AsRef<Path>, keep: usize, keep_multiple: usize) -> Result<()> {
    let found = checkpoints_in(folder)?;
    let surplus = if keep == 0 { 0 } else { found.len().saturating_sub(keep) };
    for (step, path) in &found[..surplus] {
        if keep_multiple > 0 && *step > 0 && step % keep_multiple == 0 {
            continue;
        }
        remove(path).map_err(|e| Error::file(path, format!("cannot be removed: {e}")))?;
    }
    Ok(())
}

/// Lets `latest` in the folder of the checkpoint `dir` point at it: a link where the system has them, else a
/// file with its name. The old one is replaced in one go.
pub fn point_latest(dir: &Path) -> Result<()> {
    let (Some(folder), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(()) };
    let (latest, partial) = (folder.join(LATEST), folder.join("latest.partial"));
    let failed = |e: std::io::Error| Error::file(&latest, format!("cannot be pointed at {name:?}: {e}"));
    match fs::remove_file(&partial) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(Error::file(&partial, format!("is in the way of `{LATEST}`; remove it: {e}")));
        }
        _ => {}
    }
    #[cfg(unix)]
    let linked = std::os::unix::fs::symlink(name, &partial);
    #[cfg(not(unix))]
    let linked: std::io::Result<()> = Err(ErrorKind::Unsupported.into());
    // a file system may have no links
    linked.or_else(|_| create_own(&partial)?.write_all(name.to_string_lossy().as_bytes())).map_err(failed)?;
    fs::rename(&partial, &latest).map_err(failed)
}

/// What [`newest_whole`] found.
#[derive(Debug)]
pub struct Newest {
    /// Steps and folder of the newest checkpoint that is whole.
    pub whole: Option<(usize, PathBuf)>,
    /// What is wrong with those that are newer.
    pub damaged: Vec<Error>,
    /// What else is there that should not be, and is left alone.
    pub strays: Vec<Error>,
}

/// The newest checkpoint whose every byte is what was written, with what is wrong with the newer ones; those
/// are renamed to `step-N.damaged`, so that nothing takes them again and they can still be looked at.
/// Leftovers of a checkpoint that was being written are removed.
pub fn newest_whole(folder: impl AsRef<Path>) -> Result<Newest> {
    let folder = folder.as_ref();
    let mut strays = Vec::new();
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("step-") || name.contains(".damaged") {
            continue;
        }
        if name.ends_with(".partial") || name.ends_with(".old") {
            if let Err(e) = remove(&path) {
                strays.push(Error::file(&path, format!("cannot be removed: {e}")));
            }
        } else if step_of(&path).is_none() {
            strays.push(Error::file(&path, "has not the name of a checkpoint; it is left alone"));
        } else if !path.join(MANIFEST).is_file() {
            strays.push(Error::file(
                &path,
                format!("has no {MANIFEST}, so it is no checkpoint; it is passed over"),
            ));
        }
    }
    let mut damaged = Vec::new();
    for (step, path) in checkpoints_in(folder)?.into_iter().rev() {
        match Checkpoint::open(&path).and_then(|c| c.verify()) {
            Ok(()) => {
                strays.extend(point_latest(&path).err());
                return Ok(Newest { whole: Some((step, path)), damaged, strays });
            }
            Err(problem) => {
                damaged.push(problem);
                set_aside(&path)?;
            }
        }
    }
    Ok(Newest { whole: None, damaged, strays })
}

/// Renames what is under a checkpoint's name and is none to `step-N.damaged`, or the first such name that is
/// free.
fn set_aside(path: &Path) -> Result<()> {
    let names =
        (1..).map(|n| beside(path, &if n == 1 { ".damaged".into() } else { format!(".damaged-{n}") }));
    let free = names.into_iter().find(|aside| aside.symlink_metadata().is_err());
    let moved = free.map_or(Ok(()), |aside| fs::rename(path, aside));
    moved.map_err(|e| Error::file(path, format!("cannot be set aside: {e}")))
}

/// Whether a folder is, or claims to be, a checkpoint.
pub fn has_manifest(dir: &Path) -> bool {
    dir.join(MANIFEST).symlink_metadata().is_ok()
}

/// As [`find`], but a folder in which there is no checkpoint is no error.
pub fn find_in(path: &Path) -> Result<Option<Checkpoint>> {
    let nested = path.join("checkpoints");
    let none = |dir: &Path| Ok::<_, Error>(checkpoints_in(dir)?.is_empty());
    match none(&nested)? && none(path)? {
        true => Ok(None),
        false => find(path).map(Some),
    }
}

/// The checkpoint that a path of the command line means: a checkpoint's folder, `latest`, a folder of
/// checkpoints, or a run's folder, of which the newest checkpoint is taken; newer ones that cannot be opened
/// are named in warnings.
pub fn find(path: &Path) -> Result<Checkpoint> {
    if path.join(MANIFEST).exists() {
        return Checkpoint::open(path);
    }
    if path.is_file() && path.file_name().is_some_and(|n| n == LATEST) {
        let name = read_text(path, MAX_TEXT)?;
        return match is_plain(name.trim()) {
            true => Checkpoint::open(path.with_file_name(name.trim())),
            false => {
                Err(Error::file(path, "does not hold the name of a checkpoint beside it; give its folder"))
            }
        };
    }
    let nested = path.join("checkpoints");
    let folder = if nested.is_dir() { nested.as_path() } else { path };
    if !folder.is_dir() {
        let problem = if folder.exists() { "is not a folder" } else { "no such folder" };
        return Err(Error::file(path, format!("{problem}; give a run's folder or one of its checkpoints")));
    }
    let mut problems = Vec::new();
    for (_, dir) in checkpoints_in(folder)?.into_iter().rev() {
        match Checkpoint::open(&dir) {
            Ok(checkpoint) => {
                for problem in problems {
                    logging::warn(format!("{problem}; {} is taken instead", shown(&dir)));
                }
                return Ok(checkpoint);
            }
            Err(e) => problems.push(e),
        }
    }
    Err(problems.into_iter().next().unwrap_or_else(|| {
        Error::file(path, "holds no complete checkpoint; give a run's folder or one of its checkpoints")
    }))
}

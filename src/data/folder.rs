//! Images under a folder, at any depth. The class of an image is the name of the sub-folder it lies in.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::data::bad_samples::BadSample;
use crate::data::decode::{EXTENSIONS, Unread, decode_file, is_image_extension, is_junk};
use crate::data::labels::unlabelled_remark;
use crate::data::pixels::Image;
use crate::data::reading::Reading;
use crate::data::source::{Source, check_count};
use crate::error::{Error, Result};
use crate::logging::warn;
use crate::shown::shown;

/// All images under a folder, in the order of their paths.
pub struct Folder {
    root: PathBuf,
    /// The folders that hold images, relative to the root, with their class.
    dirs: Vec<(PathBuf, Option<u32>)>,
    /// Per image its folder and its file name: some 60 bytes an image.
    files: Vec<(u32, Box<OsStr>)>,
    /// Empty where all images lie right under the root.
    classes: Vec<String>,
    reading: Reading,
}

impl Folder {
    /// Lists the images under `root`, following links (but not in circles).
    pub fn open(root: impl AsRef<Path>, reading: &Reading) -> Result<Self> {
        let root = root.as_ref();
        if !root.is_dir() {
            let problem = if root.exists() { "is not a folder" } else { "no such folder" };
            return Err(Error::file(root, format!("{problem}; give the folder that holds the images")));
        }
        let (mut dirs, mut files): (Vec<PathBuf>, Vec<_>) = (Vec::new(), Vec::new());
        let mut unread = Unread::default();
        let junk = |path: &Path| path.strip_prefix(root).is_ok_and(is_junk);
        let all = WalkDir::new(root).follow_links(true).sort_by_file_name();
        // The contents of what is left out are not listed either, so they may be closed to us.
        for entry in all.into_iter().filter_entry(|entry| !junk(entry.path())) {
            let path = match entry {
                Ok(entry) if entry.file_type().is_file() => entry.into_path(),
                Ok(_) => continue,
                Err(e) => match broken_link(&e) {
                    Some(path) => path,
                    None if e.loop_ancestor().is_some() || e.path().is_some_and(junk) => continue,
                    None => {
                        let path = e.path().unwrap_or(root).to_path_buf();
                        return Err(Error::file(
                            path,
                            format!("cannot be listed: {e}; check its permissions"),
                        ));
                    }
                },
            };
            let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { continue };
            if !path.extension().is_some_and(is_image_extension) {
                unread.note(&path);
                continue;
            }
            if junk(&path) {
                continue; // a link that leads nowhere
            }
            let dir = dir.strip_prefix(root).unwrap_or(dir);
            // A folder's own files may come before and after those of its sub-folders: it is listed once per run.
            if dirs.last().is_none_or(|last| last != dir) {
                dirs.push(dir.to_path_buf());
            }
            files.push((dirs.len() as u32 - 1, name.into()));
        }
        if files.is_empty() {
            let kinds = EXTENSIONS.join(", ");
            let problem = match unread.told() {
                Some(told) => format!("holds no images that are read ({kinds}), but {told}"),
                None => format!("holds no images ({kinds}) at any depth; check the path"),
            };
            return Err(Error::file(root, problem));
        }
        if let Some(told) = unread.told() {
            warn(format_args!("{}: {told}", shown(root)));
        }
        check_count(files.len(), root)?;
        files.shrink_to_fit();
        let (dirs, classes) = classify(dirs);
        Ok(Self { root: root.to_path_buf(), dirs, files, classes, reading: *reading })
    }

    /// The path of image `i` relative to the root.
    pub(super) fn relative(&self, i: usize) -> PathBuf {
        let (dir, name) = &self.files[i];
        self.dirs[*dir as usize].0.join(&**name)
    }
}

impl Source for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        let relative = self.relative(i);
        let image = decode_file(&self.root.join(&relative), &self.reading);
        image.map(Image::from).map_err(|fault| fault.of(shown(&relative).into_owned()))
    }
    fn label(&self, i: usize) -> Option<u32> {
        self.dirs[self.files[i].0 as usize].1
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn name(&self, i: usize) -> String {
        shown(&self.relative(i)).into_owned()
    }
    fn describe(&self) -> String {
        format!("folder:{}", shown(&self.root))
    }
    fn remarks(&self) -> Vec<String> {
        let without = |i: &usize| self.label(*i).is_none();
        let first: Vec<String> = (0..self.len()).filter(without).take(3).map(|i| self.name(i)).collect();
        let count = if first.is_empty() { 0 } else { (0..self.len()).filter(without).count() };
        unlabelled_remark(count, self.len(), &first).into_iter().collect()
    }
}

/// Gives every folder its class, by the sorted distinct names. Images right under the root have none.
fn classify(dirs: Vec<PathBuf>) -> (Vec<(PathBuf, Option<u32>)>, Vec<String>) {
    let names: Vec<Option<String>> =
        dirs.iter().map(|dir| Some(dir.file_name()?.to_string_lossy().into_owned())).collect();
    let classes: Vec<String> = names.iter().flatten().collect::<BTreeSet<_>>().into_iter().cloned().collect();
    let class_of = |name: &String| classes.partition_point(|class| class < name) as u32;
    let labels: Vec<Option<u32>> = names.iter().map(|name| name.as_ref().map(class_of)).collect();
    (dirs.into_iter().zip(labels).collect(), classes)
}

/// The path of a link that leads nowhere: as an image it is counted among the unreadable ones.
fn broken_link(e: &walkdir::Error) -> Option<PathBuf> {
    let missing = e.io_error().is_some_and(|io| io.kind() == std::io::ErrorKind::NotFound);
    missing.then(|| e.path().map(Path::to_path_buf)).flatten()
}

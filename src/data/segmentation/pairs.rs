//! Images and masks that lie in two folders under the same names, but for the extension.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walkdir::WalkDir;

use crate::data::bad_samples::{BadKind, BadSample, Fault};
use crate::data::decode::is_junk;
use crate::data::folder::Folder;
use crate::data::pixels::Image;
use crate::data::reading::Reading;
use crate::data::segmentation::mask_file;
use crate::data::segmentation::meaning::Meaning;
use crate::data::source::Source;
use crate::error::{Error, Result};
use crate::shown::shown;

/// What mask files are called.
const EXTENSIONS: [&str; 7] = ["png", "tif", "tiff", "bmp", "pgm", "webp", "gif"];
/// What names of masks have after that of the image, in some data sets.
const SUFFIXES: [&str; 5] = ["", "_labelTrainIds", "_mask", "_seg", "_label"];

/// Images under one folder with their masks under another one.
pub(super) struct Pairs {
    images: Folder,
    masks_dir: PathBuf,
    /// Numbers in `images` of those with a mask, and the masks, relative to their folder.
    pairs: Vec<(u32, PathBuf)>,
    /// An image without a mask, and how many there are.
    without: Option<(String, usize)>,
    meaning: Arc<Meaning>,
    reading: Reading,
}

impl Pairs {
    /// Lists both folders. Images without a mask are left out; that none has one is an error.
    pub fn open(images: &Path, masks: &Path, meaning: &Arc<Meaning>, reading: &Reading) -> Result<Self> {
        let folder = Folder::open(images, reading)?;
        if !masks.is_dir() {
            let problem = if masks.exists() { "is not a folder" } else { "no such folder" };
            return Err(Error::file(masks, format!("{problem}; give the folder that holds the masks")));
        }
        let mut by_stem: HashMap<PathBuf, PathBuf> = HashMap::new();
        for entry in WalkDir::new(masks).follow_links(true).sort_by_file_name() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    let path = e.path().unwrap_or(masks).to_path_buf();
                    return Err(Error::file(path, format!("cannot be listed: {e}; check its permissions")));
                }
            };
            let Ok(relative) = entry.path().strip_prefix(masks) else { continue };
            let extension = relative.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
            let known = extension.is_some_and(|e| EXTENSIONS.contains(&&*e) || e == "jpg" || e == "jpeg");
            if !entry.file_type().is_file() || is_junk(relative) || !known {
                continue;
            }
            by_stem.insert(relative.with_extension(""), relative.to_path_buf());
        }
        if by_stem.is_empty() {
            return Err(Error::file(
                masks,
                format!("holds no masks ({}) at any depth", EXTENSIONS.join(", ")),
            ));
        }
        let (mut pairs, mut without): (Vec<_>, Option<(String, usize)>) = (Vec::new(), None);
        for i in 0..folder.len() {
            let stem = folder.relative(i).with_extension("");
            let found = SUFFIXES.iter().find_map(|suffix| {
                let mut name = stem.clone().into_os_string();
                name.push(suffix);
                by_stem.get(Path::new(&name))
            });
            match found {
                Some(mask) => pairs.push((i as u32, mask.clone())),
                None => without.get_or_insert_with(|| (folder.name(i), 0)).1 += 1,
            }
        }
        if pairs.is_empty() {
            let example = without.map_or_else(String::new, |(name, _)| {
                format!(", such as {} for {name}", shown(&Path::new(&name).with_extension("png")))
            });
            return Err(Error::file(
                masks,
                format!("holds no mask with the name of an image of {}{example}", shown(images)),
            ));
        }
        Ok(Self {
            images: folder,
            masks_dir: masks.to_path_buf(),
            pairs,
            without,
            meaning: meaning.clone(),
            reading: *reading,
        })
    }
}

impl Source for Pairs {
    fn len(&self) -> usize {
        self.pairs.len()
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        let (image, mask) = &self.pairs[i];
        let image = self.images.load(*image as usize)?;
        let map = mask_file::read(&self.masks_dir.join(mask), &self.meaning, &self.reading);
        let found = map.and_then(|map| match (map.width, map.height) == image.dimensions() {
            true => Ok(map.classes),
            false => Err(Fault::new(
                BadKind::Unsupported,
                format!(
                    "has {}x{} pixels, the image {}x{}",
                    map.width,
                    map.height,
                    image.width(),
                    image.height()
                ),
            )),
        });
        match found {
            Ok(classes) => Ok(image.with_classes(classes)),
            Err(fault) => {
                let reason = format!("its mask {}: {}", shown(mask), fault.reason);
                Err(Fault::new(fault.kind, reason).of(self.name(i)))
            }
        }
    }
    fn label(&self, _: usize) -> Option<u32> {
        None
    }
    fn classes(&self) -> &[String] {
        &self.meaning.classes
    }
    fn name(&self, i: usize) -> String {
        self.images.name(self.pairs[i].0 as usize)
    }
    fn describe(&self) -> String {
        format!("{} with masks of {}", self.images.describe(), shown(&self.masks_dir))
    }
    fn remarks(&self) -> Vec<String> {
        let told = |(name, count): &(String, usize)| {
            format!(
                "{count} images of {} have no mask and are left out, such as {name}",
                self.images.describe()
            )
        };
        self.without.iter().map(told).collect()
    }
}

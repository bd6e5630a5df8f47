//! What a data set is, how one is named on the command line, and its train and held-out parts.

use std::sync::Arc;

use image::RgbImage;

use crate::data::folder::Folder;
use crate::data::shapes::Shapes;
use crate::error::{Error, Result};

/// An image that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSample {
    /// The name of the image within its source.
    pub name: String,
    /// Why it cannot be used.
    pub reason: String,
}

/// A data set: images by number, with or without labels. Loading the same number always gives the same image.
#[allow(clippy::len_without_is_empty)] // never empty
pub trait Source: Send + Sync {
    /// The number of images; at least one, at most 2³² − 1.
    fn len(&self) -> usize;
    /// Image `i` as 8-bit RGB, at least one pixel.
    fn load(&self, i: usize) -> Result<RgbImage, BadSample>;
    /// The class of image `i`, an index into [`Source::classes`]. None for all images or for none.
    fn label(&self, i: usize) -> Option<u32>;
    /// The names of the classes; empty without labels.
    fn classes(&self) -> &[String];
    /// What image `i` is called in messages, unique within the source.
    fn name(&self, i: usize) -> String;
    /// What the whole source is called in messages.
    fn describe(&self) -> String;
    /// The held-out part, where the source brings its own.
    fn own_held_out(&self) -> Option<Arc<dyn Source>> {
        None
    }
}

/// Opens the data set that `spec` names: `folder:DIR`, `shapes`, `shapes:N` or `shapes:NxSIZE`.
pub fn open(spec: &str) -> Result<Arc<dyn Source>> {
    let (kind, rest) = match spec.split_once(':') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (spec, None),
    };
    match (kind, rest) {
        ("folder", Some(dir)) if !dir.is_empty() => Ok(Arc::new(Folder::open(dir)?)),
        ("shapes", rest) => match Shapes::from_spec(rest) {
            Some(shapes) => Ok(Arc::new(shapes)),
            None => Err(unknown(spec)),
        },
        _ => Err(unknown(spec)),
    }
}

/// The message for a spec that names no data set.
fn unknown(spec: &str) -> Error {
    let hint = if std::path::Path::new(spec).is_dir() {
        format!(" (did you mean `folder:{spec}`?)")
    } else {
        String::new()
    };
    Error::Usage(format!(
        "unknown data set `{spec}`{hint}: use `folder:DIR` (images under DIR, any depth), `shapes` (the embedded \
         data set), `shapes:N` (N images of it, 1 to 4294967295) or `shapes:NxSIZE` (SIZE pixels a side, 16 to 1024)"
    ))
}

/// How much of a labelled source without a part of its own is held out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeldOut {
    /// Share of the images.
    pub fraction: f64,
    /// At most that many.
    pub at_most: usize,
}

impl Default for HeldOut {
    fn default() -> Self {
        Self { fraction: 0.1, at_most: 10_000 }
    }
}

/// The part to train on and, where there are labels to score with, the part held out of training.
///
/// The embedded data set has two parts of its own. A labelled source gives the images whose names hash lowest, the
/// same ones wherever the folder lies. Without labels everything is for training.
pub fn split(source: Arc<dyn Source>, held_out: HeldOut) -> (Arc<dyn Source>, Option<Arc<dyn Source>>) {
    if let Some(own) = source.own_held_out() {
        return (source, Some(own));
    }
    let len = source.len();
    let count = ((len as f64 * held_out.fraction) as usize).min(held_out.at_most).min(len.saturating_sub(1));
    if source.classes().is_empty() || count == 0 {
        return (source, None);
    }
    let mut ranked: Vec<(u64, u32)> = (0..len).map(|i| (hash(&source.name(i)), i as u32)).collect();
    ranked.sort_unstable();
    let (out, kept) = ranked.split_at(count);
    let view = |part: &[(u64, u32)]| -> Arc<dyn Source> {
        let mut indices: Vec<u32> = part.iter().map(|&(_, i)| i).collect();
        indices.sort_unstable();
        Arc::new(Subset { source: source.clone(), indices })
    };
    (view(kept), Some(view(out)))
}

/// FNV-1a with a final mix (names that differ in the last letter would else lie close together).
fn hash(name: &str) -> u64 {
    let fnv =
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// Some images of another source, in its order.
struct Subset {
    source: Arc<dyn Source>,
    indices: Vec<u32>,
}

impl Subset {
    fn at(&self, i: usize) -> usize {
        self.indices[i] as usize
    }
}

impl Source for Subset {
    fn len(&self) -> usize {
        self.indices.len()
    }
    fn load(&self, i: usize) -> Result<RgbImage, BadSample> {
        self.source.load(self.at(i))
    }
    fn label(&self, i: usize) -> Option<u32> {
        self.source.label(self.at(i))
    }
    fn classes(&self) -> &[String] {
        self.source.classes()
    }
    fn name(&self, i: usize) -> String {
        self.source.name(self.at(i))
    }
    fn describe(&self) -> String {
        self.source.describe()
    }
}

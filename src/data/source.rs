//! What a data set is, and its train and held-out parts.

use std::collections::BinaryHeap;
use std::path::Path;
use std::sync::Arc;

use crate::data::bad_samples::BadSample;
use crate::data::pixels::Image;
use crate::error::{Error, Result};

/// A data set: images by number, each with or without a label. Loading the same number always gives the same image.
#[allow(clippy::len_without_is_empty)] // never empty
pub trait Source: Send + Sync {
    /// The number of images; at least one, at most 2³² − 1.
    fn len(&self) -> usize;
    /// Values a pixel, the same in all images: 3 for colours.
    fn channels(&self) -> usize {
        3
    }
    /// Image `i` with [`Source::channels`] values a pixel, at least one pixel.
    fn load(&self, i: usize) -> Result<Image, BadSample>;
    /// The class of image `i`, an index into [`Source::classes`]; none for an image without a label.
    fn label(&self, i: usize) -> Option<u32>;
    /// The names of the classes; empty where no image has a label.
    fn classes(&self) -> &[String];
    /// What image `i` is called in messages, unique within the source (unless that names an image twice).
    fn name(&self, i: usize) -> String;
    /// What the whole source is called in messages.
    fn describe(&self) -> String;
    /// What a person should know of the source before it is used, a line each: what of it is left out, how many
    /// images have no label.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
    /// The held-out part, where the source brings its own.
    fn own_held_out(&self) -> Option<Arc<dyn Source>> {
        None
    }
}

/// Checks that images can be numbered with 32 bits.
pub(super) fn check_count(count: usize, path: &Path) -> Result<()> {
    match u32::try_from(count) {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(Error::file(path, format!("holds {count} images; split it into parts of 4294967295 at most")))
        }
    }
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
/// Some data sets have two parts of their own. Another one gives the labelled images whose names hash lowest,
/// the same ones wherever its files lie; one at least stays, to be learnt from. Where there are no labels, or one
/// class alone, everything is for training.
pub fn split(source: Arc<dyn Source>, held_out: HeldOut) -> (Arc<dyn Source>, Option<Arc<dyn Source>>) {
    if let Some(own) = source.own_held_out() {
        return (source, Some(own));
    }
    if source.classes().len() < 2 {
        return (source, None);
    }
    hold_out(source, held_out, |source, i| source.label(i).is_some())
}

/// As [`split`], of a source without a part of its own, among the images that `may` be held out.
pub fn hold_out(
    source: Arc<dyn Source>,
    held_out: HeldOut,
    may: impl Fn(&dyn Source, usize) -> bool,
) -> (Arc<dyn Source>, Option<Arc<dyn Source>>) {
    let len = source.len();
    let those = || (0..len).filter(|i| may(&*source, *i));
    let all = those().count();
    let share = (all as f64 * held_out.fraction) as usize;
    let count = share.min(held_out.at_most).min(all.saturating_sub(1));
    if count == 0 {
        return (source, None);
    }
    // The lowest so far: with millions of images a list of all hashes would outweigh the source itself.
    let mut lowest: BinaryHeap<(u64, u32)> = BinaryHeap::with_capacity(count + 1);
    for i in those() {
        lowest.push((hash(&source.name(i)), i as u32));
        if lowest.len() > count {
            lowest.pop();
        }
    }
    let mut out: Vec<u32> = lowest.into_iter().map(|(_, i)| i).collect();
    out.sort_unstable();
    let mut kept = Vec::with_capacity(len - count);
    kept.extend((0..len as u32).filter(|i| out.binary_search(i).is_err()));
    let view = |indices| -> Arc<dyn Source> { Arc::new(Subset { source: source.clone(), indices }) };
    (view(kept), Some(view(out)))
}

/// The images that have a label, and how many have none. A source without any label is an error.
pub fn labelled(source: Arc<dyn Source>) -> Result<(Arc<dyn Source>, usize)> {
    let with_label = |i: &u32| source.label(*i as usize).is_some();
    let indices: Vec<u32> = (0..source.len() as u32).filter(with_label).collect();
    let without = source.len() - indices.len();
    match (indices.len(), without) {
        (0, _) => Err(Error::file(
            source.describe(),
            "has no labels to train a classifier with (classes are the sub-folders that images lie in)",
        )),
        (_, 0) => Ok((source, 0)),
        _ => Ok((Arc::new(Subset { source, indices }), without)),
    }
}

/// FNV-1a with a final mix (names that differ in the last letter would else lie close together).
pub(super) fn hash(name: &str) -> u64 {
    let fnv =
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

/// Some images of another source, in its order.
pub(super) struct Subset {
    /// The whole.
    pub source: Arc<dyn Source>,
    /// Their numbers there.
    pub indices: Vec<u32>,
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
    fn channels(&self) -> usize {
        self.source.channels()
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
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
    fn remarks(&self) -> Vec<String> {
        self.source.remarks()
    }
}

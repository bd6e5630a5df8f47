//! What a loader makes of every image: which crops, and how.

use std::fmt::Debug;

use rand_chacha::ChaCha8Rng;

use crate::data::batch::Masks;
use crate::data::normalization::Normalization;
use crate::data::pixels::Image;
use crate::data::scratch::Scratch;
use crate::error::Result;
use crate::rng::Purpose;

/// What is made of images. Everything that is random about it follows from the streams that it is given.
pub trait Recipe: Debug + Send + Sync {
    /// Refuses what cannot be made, before the first image is read.
    fn check(&self) -> Result<()>;

    /// What is done to the values of every channel, of which images have as many.
    fn normalization(&self) -> &Normalization;

    /// The groups of crops of a batch, one of them at least.
    fn groups(&self) -> Vec<GroupSpec>;

    /// What the random choices of an image are drawn for.
    fn purpose(&self) -> Purpose;

    /// How often each image of the order is seen before the next one.
    fn repeats(&self) -> usize {
        1
    }

    /// Makes all crops of an image, which has at least one pixel: those of the first group, view by view, then those of
    /// the next one.
    fn make(&self, image: &Image, rng: &mut ChaCha8Rng, scratch: &mut Scratch, crops: Vec<Values<'_>>);

    /// The masks of a group, where it has some, for all its `crops` crops in the batch at `at`.
    fn masks(&self, group: &'static str, at: BatchNumber, crops: usize) -> Option<Masks> {
        let _ = (group, at, crops);
        None
    }
}

/// A group of crops to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// What the crops are for.
    pub name: &'static str,
    /// Crops an image.
    pub views: usize,
    /// Pixels a side.
    pub size: usize,
    /// Whether the recipe normalises values itself, since it changes them afterwards; else the device does.
    pub normalised: bool,
    /// Whether crops come with a class a pixel: [`Values::Mapped`], whose values the device normalises.
    pub classes: bool,
}

/// Which batch of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchNumber {
    /// The run's seed.
    pub seed: u64,
    /// Its number, counted by every rank.
    pub step: u64,
    /// The rank that it is of.
    pub rank: usize,
}

/// The values of one crop, `[channels, size, size]`, to be written.
pub enum Values<'a> {
    /// 8-bit ones.
    Bytes(&'a mut [u8]),
    /// Normalised ones.
    Floats(&'a mut [f32]),
    /// 8-bit ones, and a class a pixel `[size, size]`, 255 where there is none.
    Mapped(&'a mut [u8], &'a mut [u8]),
}

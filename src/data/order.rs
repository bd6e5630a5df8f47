//! Which images make up which step: a fresh seeded permutation every epoch, the same for all ranks, which take the
//! places of each batch in turn.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;

use crate::rng::{Purpose, stream};
use crate::share::Place;

/// Of how many samples an epoch is a multiple where images are repeated.
const ROUNDED: usize = 256;

/// The order of the images of every epoch.
pub struct Order {
    len: usize,
    batch: usize,
    seed: u64,
    /// How often each image comes before the next one.
    repeats: usize,
    /// A step and the place where it begins; what follows is counted from there.
    start: (u64, Place),
    /// The last permutations asked for: batches around the end of an epoch need two.
    recent: Mutex<VecDeque<(u64, Arc<[u32]>)>>,
}

/// One image of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The epoch it is seen in.
    pub epoch: u64,
    /// Its number in the source.
    pub index: usize,
    /// How often the epoch has used it before: 0 unless images are repeated, or a batch is larger than the source.
    pub repeat: usize,
}

impl Order {
    /// The order of `len` images in batches of `batch`, both at least 1. A batch is that of all ranks together.
    pub fn new(len: usize, batch: usize, seed: u64) -> Self {
        Self { len, batch, seed, repeats: 1, start: Default::default(), recent: Mutex::default() }
    }

    /// The same order with every image `repeats` times in a row (repeated augmentation). Where that is more than once,
    /// an epoch has as many samples as there are images, down to a multiple of 256, so it is through with the first of
    /// its images alone. Source: DeiT's `RASampler`.
    pub fn repeating(self, repeats: usize) -> Self {
        Self { repeats: repeats.max(1), ..self }
    }

    /// Samples of one epoch, of which whole batches are used.
    fn samples(&self) -> usize {
        match self.repeats {
            1 => self.len,
            _ if self.len < ROUNDED => self.len,
            _ => self.len / ROUNDED * ROUNDED,
        }
    }

    /// The same order, with step `step` at `place`, wherever batches of another size have led to: whole batches of
    /// the rest of that epoch, then whole epochs. Where less than a batch is left, the next epoch begins.
    pub fn starting(self, step: u64, place: Place) -> Self {
        Self { start: (step, place), ..self }
    }

    /// Steps of one epoch: whole batches only, the rest of a permutation is left out; at least one.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.samples() / self.batch).max(1) as u64
    }

    /// Where step `step` begins; the first one is the first there is.
    pub fn place(&self, step: u64) -> Place {
        let (first, start) = self.start;
        let (ahead, rest) = (step.saturating_sub(first), self.steps_left(start));
        if ahead < rest {
            return Place { position: start.position + ahead * self.batch as u64, ..start };
        }
        let (ahead, each) = (ahead - rest, self.steps_per_epoch());
        let epoch = start.epoch.saturating_add(1 + ahead / each);
        Place { epoch, position: ahead % each * self.batch as u64 }
    }

    /// Steps of an epoch from a place in it on.
    fn steps_left(&self, place: Place) -> u64 {
        match place.position {
            0 => self.steps_per_epoch(),
            used => (self.samples() as u64).saturating_sub(used) / self.batch as u64,
        }
    }

    /// Image `slot` of step `step`.
    pub fn pick(&self, step: u64, slot: usize) -> Pick {
        let Place { epoch, position } = self.place(step);
        let position = position as usize + slot;
        let (of_image, again) = (position / self.repeats, position % self.repeats);
        let index = self.permutation(epoch)[of_image % self.len] as usize;
        Pick { epoch, index, repeat: of_image / self.len * self.repeats + again }
    }

    fn permutation(&self, epoch: u64) -> Arc<[u32]> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = recent.iter().find(|(e, _)| *e == epoch) {
            return known.clone();
        }
        let mut drawn: Vec<u32> = (0..self.len as u32).collect();
        drawn.shuffle(&mut stream(self.seed, Purpose::Order, epoch, 0));
        let drawn: Arc<[u32]> = drawn.into();
        recent.truncate(1);
        recent.push_front((epoch, drawn.clone()));
        drawn
    }
}

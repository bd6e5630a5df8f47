//! Which images make up which step: a fresh seeded permutation every epoch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;

use crate::rng::{Purpose, stream};

/// The order of the images of every epoch.
pub struct Order {
    len: usize,
    batch: usize,
    seed: u64,
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
    /// How often the epoch has used it before: 0 unless a batch is larger than the source.
    pub repeat: usize,
}

impl Order {
    /// The order of `len` images in batches of `batch`, both at least 1.
    pub fn new(len: usize, batch: usize, seed: u64) -> Self {
        Self { len, batch, seed, recent: Mutex::default() }
    }

    /// Steps of one epoch: whole batches only, the rest of a permutation is left out; at least one.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.len / self.batch).max(1) as u64
    }

    /// Image `slot` of step `step`.
    pub fn pick(&self, step: u64, slot: usize) -> Pick {
        let epoch = step / self.steps_per_epoch();
        let position = (step % self.steps_per_epoch()) as usize * self.batch + slot;
        let index = self.permutation(epoch)[position % self.len] as usize;
        Pick { epoch, index, repeat: position / self.len }
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

//! The images that are being read, for when one of them takes long.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Which images are being read, and since when.
#[derive(Default)]
pub(super) struct InWork {
    images: Mutex<Vec<(usize, Instant)>>,
}

impl InWork {
    /// Notes that image `i` is being read, until what comes back is dropped.
    pub fn begin(&self, i: usize) -> Reading<'_> {
        let entry = (i, Instant::now());
        self.lock().push(entry);
        Reading { all: self, entry }
    }

    /// The image that has taken longest, how long, and how many have taken at least `time`.
    pub fn longer_than(&self, time: Duration) -> Option<(usize, Duration, usize)> {
        let images = self.lock();
        let slow =
            || images.iter().map(|(i, start)| (*i, start.elapsed())).filter(|(_, taken)| *taken >= time);
        let (i, taken) = slow().max_by_key(|(_, taken)| *taken)?;
        Some((i, taken, slow().count()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(usize, Instant)>> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An image that is being read.
pub(super) struct Reading<'a> {
    all: &'a InWork,
    entry: (usize, Instant),
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut images = self.all.lock();
        if let Some(place) = images.iter().position(|known| *known == self.entry) {
            images.swap_remove(place);
        }
    }
}

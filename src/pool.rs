//! Reuse of device memory: freed buffers wait, by size class, for the next request of about that size. After
//! the first steps little is allocated any more.
//!
//! Random sub-networks ask for other sizes in every step, and what waits for those of one is of little use to the
//! next. So a buffer serves much smaller requests too, and with a new one the pool holds at most [`SLACK`] times
//! what was ever in use at a time: it lets go of what has waited longest.

use std::collections::BTreeMap;

/// Buffers that wait for reuse, and an account of what was taken from the system.
pub(crate) struct Pool<B> {
    /// By size class, with the time since when they wait; the latest last.
    free: BTreeMap<usize, Vec<(u64, B)>>,
    clock: u64,
    total: usize,
    waiting: usize,
    peak: usize,
    peak_used: usize,
}

/// The most that the pool holds, of the most that was in use at a time.
const SLACK: f64 = 1.05;
/// How much larger than the request a buffer may be that serves it.
const STRETCH: f64 = 2.5;
/// Size classes in a power of two: with more of them less is wasted within a buffer, and fewer requests meet.
const CLASSES: usize = 16;

impl<B> Default for Pool<B> {
    fn default() -> Self {
        Self { free: BTreeMap::new(), clock: 0, total: 0, waiting: 0, peak: 0, peak_used: 0 }
    }
}

/// Rounds a size in bytes up to one of [`CLASSES`] in a power of two (at least 256), so that buffers of nearby sizes
/// serve each other.
pub(crate) fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(256);
    let step = (1usize << (usize::BITS - 1 - bytes.leading_zeros())) / CLASSES;
    bytes.next_multiple_of(step.max(64))
}

impl<B> Pool<B> {
    /// The smallest waiting buffer of at least `bytes` and at most [`STRETCH`] times that.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<B> {
        let fitting = self.free.range_mut(bytes..=(bytes as f64 * STRETCH) as usize);
        let (&class, list) = fitting.into_iter().find(|(_, list)| !list.is_empty())?;
        let (_, buffer) = list.pop()?;
        self.waiting -= class;
        self.note_used();
        Some(buffer)
    }

    /// Gives a buffer of `bytes` back.
    pub(crate) fn give(&mut self, bytes: usize, buffer: B) {
        self.clock += 1;
        self.waiting += bytes;
        self.free.entry(bytes).or_default().push((self.clock, buffer));
    }

    /// Buffers to be let go before `bytes` are taken from the system, those first that have waited longest.
    pub(crate) fn make_room(&mut self, bytes: usize) -> Vec<B> {
        let used = self.total - self.waiting + bytes;
        let most = (self.peak_used.max(used) as f64 * SLACK) as usize;
        let mut gone = Vec::new();
        while self.total + bytes > most {
            let oldest = self.free.iter_mut().filter(|(_, list)| !list.is_empty());
            let Some((class, list)) = oldest.min_by_key(|(_, list)| list[0].0) else { break };
            gone.push(list.remove(0).1);
            self.waiting -= class;
            self.total -= class;
        }
        gone
    }

    /// Notes that `bytes` were taken from the system, and are in use.
    pub(crate) fn note_new(&mut self, bytes: usize) {
        self.total += bytes;
        self.peak = self.peak.max(self.total);
        self.note_used();
    }

    fn note_used(&mut self) {
        self.peak_used = self.peak_used.max(self.total - self.waiting);
    }

    /// Lets go of every waiting buffer; returns how many bytes that were.
    pub(crate) fn trim(&mut self) -> usize {
        self.free.clear();
        self.total -= self.waiting;
        std::mem::take(&mut self.waiting)
    }

    /// Bytes held now.
    pub(crate) fn bytes(&self) -> usize {
        self.total
    }

    /// Most bytes held at one time.
    pub(crate) fn peak_bytes(&self) -> usize {
        self.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_little() {
        for bytes in [1usize, 256, 257, 1000, 4097, 1 << 20, (1 << 20) + 1, 50_331_649] {
            let class = size_class(bytes);
            assert!(
                class >= bytes && (bytes < 1024 || class <= bytes + bytes / CLASSES + 64),
                "{bytes} -> {class}"
            );
            assert_eq!(size_class(class), class);
        }
    }

    #[test]
    fn buffers_come_back() {
        let mut pool = Pool::default();
        pool.note_new(1024);
        pool.give(1024, 7);
        assert_eq!(pool.take(2048), None);
        assert_eq!(pool.take(400), None);
        assert_eq!(pool.take(900), Some(7));
        assert_eq!(pool.take(900), None);
        pool.give(1024, 7);
        assert_eq!((pool.trim(), pool.peak_bytes()), (1024, 1024));
    }

    #[test]
    fn what_has_waited_longest_makes_room() {
        let mut pool = Pool::default();
        let sizes = [4096, 512, 8192, 600];
        for bytes in sizes {
            assert!(pool.make_room(bytes).is_empty());
            pool.note_new(bytes);
        }
        for bytes in sizes {
            pool.give(bytes, bytes);
        }
        // as much as was in use may be held, and a twentieth more
        assert_eq!(pool.make_room(13_000), [4096, 512, 8192]);
        assert_eq!((pool.bytes(), pool.peak_bytes()), (600, 13_400));
        let mut pool = Pool::default();
        for bytes in sizes {
            pool.note_new(bytes);
        }
        pool.give(512, 512);
        pool.give(8192, 8192);
        pool.give(4096, 4096);
        assert_eq!(pool.make_room(1000), [512]);
        assert_eq!(pool.bytes(), 12_888);
    }
}

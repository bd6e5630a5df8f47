//! Reuse of device memory: freed buffers wait, by size class, for the next request of about that size. After
//! the first steps nothing is allocated any more.

use std::collections::BTreeMap;

/// Buffers that wait for reuse, and an account of what was taken from the system.
pub(crate) struct Pool<B> {
    free: BTreeMap<usize, Vec<B>>,
    total: usize,
    peak: usize,
}

impl<B> Default for Pool<B> {
    fn default() -> Self {
        Self { free: BTreeMap::new(), total: 0, peak: 0 }
    }
}

/// Rounds a size in bytes up to one of four classes per power of two (at least 256), so that at most a fifth
/// is wasted and buffers of nearby sizes serve each other.
pub(crate) fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(256);
    let step = (1usize << (usize::BITS - 1 - bytes.leading_zeros())) / 4;
    bytes.next_multiple_of(step.max(64))
}

impl<B> Pool<B> {
    /// A waiting buffer of at least `bytes` and at most 1.5 times that.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<B> {
        let (&class, _) = self.free.range(bytes..=bytes + bytes / 2).find(|(_, list)| !list.is_empty())?;
        self.free.get_mut(&class)?.pop()
    }

    /// Gives a buffer of `bytes` back.
    pub(crate) fn give(&mut self, bytes: usize, buffer: B) {
        self.free.entry(bytes).or_default().push(buffer);
    }

    /// Notes that `bytes` were taken from the system.
    pub(crate) fn note_new(&mut self, bytes: usize) {
        self.total += bytes;
        self.peak = self.peak.max(self.total);
    }

    /// Lets go of every waiting buffer; returns how many bytes that were.
    pub(crate) fn trim(&mut self) -> usize {
        let bytes: usize = self.free.iter().map(|(class, list)| class * list.len()).sum();
        self.free.clear();
        self.total -= bytes;
        bytes
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
            assert!(class >= bytes && (bytes < 1024 || class <= bytes + bytes / 4), "{bytes} -> {class}");
            assert_eq!(size_class(class), class);
        }
    }

    #[test]
    fn buffers_come_back() {
        let mut pool = Pool::default();
        pool.note_new(1024);
        pool.give(1024, 7);
        assert_eq!(pool.take(2048), None);
        assert_eq!(pool.take(900), Some(7));
        assert_eq!(pool.take(900), None);
        pool.give(1024, 7);
        assert_eq!((pool.trim(), pool.peak_bytes()), (1024, 1024));
    }
}

//! A batch in the making: one buffer that several threads write to, each its own crops.

use crate::data::loader::LoaderConfig;

/// The input of one training step: B images, 2 global crops of S and L local crops of s pixels a side each.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The step it belongs to.
    pub step: u64,
    /// B.
    pub images: usize,
    /// [2B, 3, S, S], normalised: view a of all images, then view b.
    pub global: Vec<f32>,
    /// [L·B, 3, s, s]: local crop 0 of all images, then local crop 1, and so on.
    pub local: Vec<f32>,
    /// [2B, side²], 1 where a patch is hidden.
    pub masks: Vec<u8>,
}

/// A batch whose crops are written by several threads at once.
pub struct Assembly {
    /// The step it is for.
    pub step: u64,
    /// [2B, 3, S, S]
    pub global: Crops,
    /// [L·B, 3, s, s]
    pub local: Crops,
}

impl Assembly {
    /// A batch without content.
    pub fn new(config: &LoaderConfig, step: u64) -> Self {
        let part = |count: usize, size: usize| Crops::new(count * config.batch, 3 * size * size);
        let crops = &config.crops;
        Self { step, global: part(2, crops.global.size), local: part(crops.local_count, crops.local.size) }
    }

    /// The batch, once all crops are written.
    pub fn finish(self, config: &LoaderConfig) -> Batch {
        let masks = config.masks.masks(config.seed, self.step, 2 * config.batch);
        let (global, local) = (self.global.into_vec(), self.local.into_vec());
        Batch { step: self.step, images: config.batch, global, local, masks }
    }
}

/// `count` crops of `each` values in one buffer, to be written by different threads.
pub struct Crops {
    values: *mut [f32],
    each: usize,
}

// SAFETY: the buffer is owned, and `crop` leaves it to its callers to share it out without overlap.
unsafe impl Send for Crops {}
// SAFETY: as above.
unsafe impl Sync for Crops {}

impl Crops {
    fn new(count: usize, each: usize) -> Self {
        Self { values: Box::into_raw(vec![0.0; count * each].into_boxed_slice()), each }
    }

    /// The values of crop `i`.
    ///
    /// # Safety
    /// While the slice lives, no other call may ask for the same crop.
    #[allow(clippy::mut_from_ref)] // disjoint parts of one buffer
    pub unsafe fn crop(&self, i: usize) -> &mut [f32] {
        assert!((i + 1) * self.each <= self.values.len(), "crop within the batch");
        // SAFETY: within the allocation, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.values.cast::<f32>().add(i * self.each), self.each) }
    }

    fn into_vec(self) -> Vec<f32> {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: from `Box::into_raw`, and not used again.
        unsafe { Box::from_raw(this.values) }.into_vec()
    }
}

impl Drop for Crops {
    fn drop(&mut self) {
        // SAFETY: from `Box::into_raw`, and not used again.
        drop(unsafe { Box::from_raw(self.values) });
    }
}

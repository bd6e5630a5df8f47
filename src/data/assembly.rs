//! A batch in the making: a buffer for each group of crops that several threads write to, each its own crops.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::data::batch::{Batch, CropGroup, GLOBAL, LOCAL, Masks, Pixels};
use crate::data::loader_config::LoaderConfig;
use crate::data::source::Source;
use crate::error::Result;

/// A batch whose crops are written by several threads at once.
pub struct Assembly {
    /// The step it is for.
    pub step: u64,
    /// `[2B, C, S, S]`: view a of all images, then view b.
    pub global: Crops,
    /// `[L·B, C, s, s]`: local crop 0 of all images, then local crop 1, and so on.
    pub local: Crops,
    /// The image that each place of the batch got.
    indices: Vec<AtomicUsize>,
}

impl Assembly {
    /// A batch without content.
    pub fn new(config: &LoaderConfig, step: u64) -> Self {
        let crops = &config.crops;
        let channels = crops.normalization.channels();
        let part = |count: usize, size: usize| Crops::new(count * config.batch, channels * size * size);
        Self {
            step,
            global: part(2, crops.global.size),
            local: part(crops.local_count, crops.local.size),
            indices: (0..config.batch).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// Notes that place `slot` of the batch has image `index` of the source.
    pub fn note(&self, slot: usize, index: usize) {
        // whoever finishes the batch has seen that the image was counted as done
        self.indices[slot].store(index, Ordering::Relaxed);
    }

    /// The batch, once all crops are written.
    pub fn finish(self, config: &LoaderConfig, source: &dyn Source) -> Result<Batch> {
        let crops = &config.crops;
        let channels = crops.normalization.channels();
        let masks = config.masks.masks(config.seed, self.step, config.share.rank, 2 * config.batch);
        let mut groups = vec![CropGroup {
            name: GLOBAL,
            views: 2,
            channels,
            size: crops.global.size,
            pixels: Pixels::Bytes(self.global.into_vec(), crops.normalization.clone()),
            masks: Some(Masks { side: config.masks.side, values: masks }),
        }];
        if crops.local_count > 0 {
            groups.push(CropGroup {
                name: LOCAL,
                views: crops.local_count,
                channels,
                size: crops.local.size,
                pixels: Pixels::Bytes(self.local.into_vec(), crops.normalization.clone()),
                masks: None,
            });
        }
        let indices: Vec<usize> = self.indices.into_iter().map(AtomicUsize::into_inner).collect();
        // a batch has labels where all its images have one
        let labels: Option<Vec<u32>> = indices.iter().map(|&i| source.label(i)).collect();
        let batch = Batch::new(config.batch, groups)?.at_step(self.step).with_indices(indices)?;
        match labels {
            Some(labels) => batch.with_labels(labels),
            None => Ok(batch),
        }
    }
}

/// `count` crops of `each` values in one buffer, to be written by different threads.
pub struct Crops {
    values: *mut [u8],
    each: usize,
}

// SAFETY: the buffer is owned, and `crop` leaves it to its callers to share it out without overlap.
unsafe impl Send for Crops {}
// SAFETY: as above.
unsafe impl Sync for Crops {}

impl Crops {
    fn new(count: usize, each: usize) -> Self {
        Self { values: Box::into_raw(vec![0; count * each].into_boxed_slice()), each }
    }

    /// The values of crop `i`.
    ///
    /// # Safety
    /// While the slice lives, no other call may ask for the same crop.
    #[allow(clippy::mut_from_ref)] // disjoint parts of one buffer
    pub unsafe fn crop(&self, i: usize) -> &mut [u8] {
        assert!((i + 1) * self.each <= self.values.len(), "crop within the batch");
        // SAFETY: within the allocation, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.values.cast::<u8>().add(i * self.each), self.each) }
    }

    fn into_vec(self) -> Vec<u8> {
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

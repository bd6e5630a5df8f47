//! A batch in the making: a buffer for each group of crops that several threads write to, each its own crops.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::data::batch::{Batch, CropGroup, Masks, Pixels};
use crate::data::loader_config::LoaderConfig;
use crate::data::recipe::{BatchNumber, GroupSpec, Values};
use crate::data::source::Source;
use crate::error::Result;

/// A batch whose crops are written by several threads at once.
pub struct Assembly {
    /// The step it is for.
    pub step: u64,
    /// The groups of crops: `[views·B, C, S, S]`, the first view of all images, then the second, and so on.
    groups: Vec<(GroupSpec, Buffer)>,
    /// The classes of their pixels, of groups that have some.
    classes: Vec<Option<Crops<u8>>>,
    /// The image that each place of the batch got.
    indices: Vec<AtomicUsize>,
}

/// The values of a group.
enum Buffer {
    Bytes(Crops<u8>),
    Floats(Crops<f32>),
}

impl Buffer {
    /// The values of crop `i`.
    ///
    /// # Safety
    /// While they live, no other call may ask for the same crop.
    unsafe fn crop(&self, i: usize) -> Values<'_> {
        match self {
            // SAFETY: as the caller promises.
            Self::Bytes(crops) => Values::Bytes(unsafe { crops.crop(i) }),
            // SAFETY: as the caller promises.
            Self::Floats(crops) => Values::Floats(unsafe { crops.crop(i) }),
        }
    }
}

impl Assembly {
    /// A batch without content.
    pub fn new(config: &LoaderConfig, step: u64) -> Self {
        let channels = config.recipe.normalization().channels();
        let buffer = |group: &GroupSpec| {
            let (count, each) = (group.views * config.batch, channels * group.size * group.size);
            match group.normalised {
                true => Buffer::Floats(Crops::new(count, each)),
                false => Buffer::Bytes(Crops::new(count, each)),
            }
        };
        let classes = |group: &GroupSpec| {
            group.classes.then(|| Crops::new(group.views * config.batch, group.size * group.size))
        };
        let groups = config.recipe.groups();
        Self {
            step,
            classes: groups.iter().map(classes).collect(),
            groups: groups.into_iter().map(|group| (group, buffer(&group))).collect(),
            indices: (0..config.batch).map(|_| AtomicUsize::new(0)).collect(),
        }
    }

    /// All crops of place `slot`, group by group.
    ///
    /// # Safety
    /// While they live, no other call may ask for the same place.
    pub unsafe fn crops(&self, slot: usize) -> Vec<Values<'_>> {
        let batch = self.indices.len();
        let mut all = Vec::new();
        for ((group, buffer), classes) in self.groups.iter().zip(&self.classes) {
            for view in 0..group.views {
                let i = view * batch + slot;
                // SAFETY: no view of a place is that of another one, and no other call has this place.
                let (values, classes) = unsafe { (buffer.crop(i), classes.as_ref().map(|all| all.crop(i))) };
                all.push(match (values, classes) {
                    (Values::Bytes(values), Some(classes)) => Values::Mapped(values, classes),
                    (values, _) => values,
                });
            }
        }
        all
    }

    /// Notes that place `slot` of the batch has image `index` of the source.
    pub fn note(&self, slot: usize, index: usize) {
        // whoever finishes the batch has seen that the image was counted as done
        self.indices[slot].store(index, Ordering::Relaxed);
    }

    /// The batch, once all crops are written.
    pub fn finish(self, config: &LoaderConfig, source: &dyn Source) -> Result<Batch> {
        let (recipe, by) = (&config.recipe, config.recipe.normalization());
        let at = BatchNumber { seed: config.seed, step: self.step, rank: config.share.rank };
        let all = self.groups.into_iter().zip(self.classes);
        let groups = all.map(|((GroupSpec { name, views, size, .. }, buffer), classes)| CropGroup {
            name,
            views,
            channels: by.channels(),
            size,
            pixels: match buffer {
                Buffer::Bytes(crops) => Pixels::Bytes(crops.into_vec(), by.clone()),
                Buffer::Floats(crops) => Pixels::Floats(crops.into_vec()),
            },
            masks: match classes {
                Some(classes) => Some(Masks { side: size, values: classes.into_vec() }),
                None => recipe.masks(name, at, views * config.batch),
            },
        });
        let groups = groups.collect();
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
struct Crops<T> {
    values: *mut [T],
    each: usize,
}

// SAFETY: the buffer is owned, and `crop` leaves it to its callers to share it out without overlap.
unsafe impl<T: Send> Send for Crops<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Crops<T> {}

impl<T: Copy + Default> Crops<T> {
    fn new(count: usize, each: usize) -> Self {
        Self { values: Box::into_raw(vec![T::default(); count * each].into_boxed_slice()), each }
    }

    /// The values of crop `i`.
    ///
    /// # Safety
    /// While the slice lives, no other call may ask for the same crop.
    #[allow(clippy::mut_from_ref)] // disjoint parts of one buffer
    unsafe fn crop(&self, i: usize) -> &mut [T] {
        assert!((i + 1) * self.each <= self.values.len(), "crop within the batch");
        // SAFETY: within the allocation, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.values.cast::<T>().add(i * self.each), self.each) }
    }

    fn into_vec(self) -> Vec<T> {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: from `Box::into_raw`, and not used again.
        unsafe { Box::from_raw(this.values) }.into_vec()
    }
}

impl<T> Drop for Crops<T> {
    fn drop(&mut self) {
        // SAFETY: from `Box::into_raw`, and not used again.
        drop(unsafe { Box::from_raw(self.values) });
    }
}

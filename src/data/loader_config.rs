//! What the loader is told.

use crate::data::augment::CropConfig;
use crate::data::masks::MaskConfig;

/// What the loader makes.
#[derive(Clone, Debug)]
pub struct LoaderConfig {
    /// Images a batch, B.
    pub batch: usize,
    /// The seed of order, crops and masks.
    pub seed: u64,
    /// Worker threads; 0 makes every batch in `Loader::next` itself.
    pub threads: usize,
    /// Batches made ahead.
    pub prefetch: usize,
    /// The crops of every image.
    pub crops: CropConfig,
    /// The masks of the global crops.
    pub masks: MaskConfig,
    /// The first step to make: where a resumed run goes on.
    pub start_step: u64,
}

//! What a classifier is trained on: one crop of every labelled image, augmented as timm does, and the mixing of
//! batches.
//!
//! ```text
//! settings.rs  the section `augment`
//! augment.rs   every random choice of a crop (`draw`) and what it does (`apply_into`)
//!   rand_augment.rs  RandAugment's draws    operations.rs  what they do to colours    geometry.rs  and to geometry
//!   erasing.rs  rectangles of noise
//! recipe.rs    what the loader makes by it
//! mixup.rs     Mixup and CutMix of a batch
//! ```

mod augment;
mod erasing;
mod geometry;
mod mixup;
mod operations;
mod rand_augment;
mod recipe;
mod settings;

pub use augment::{Choices, Cut, apply_into, draw};
pub use erasing::Erased;
pub use mixup::{Mix, Mixing, partners};
pub use rand_augment::{Operation, OperationSet};
pub use recipe::ClassifyCrops;
pub use settings::ClassifyAugment;

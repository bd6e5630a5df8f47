//! Images with a class for every pixel: where they come from, how their masks are read, and the crops that a network learns
//! from.
//!
//! ```text
//! registry.rs    the kinds: `open("ade20k:DIR")`, `open("pairs:IMAGES::MASKS")`, `open("shapes")`
//! pairs.rs       images and masks of the same names in two folders
//! mask_file.rs   from a mask file to classes, as meaning.rs says: indices or colours, what is ignored
//! crops.rs       what the loader makes of an image and its mask; distortion.rs  its colours
//! ```

pub mod crops;
mod distortion;
mod mask_file;
pub mod meaning;
mod pairs;
pub mod registry;

pub use crops::{SegmentationAugment, SegmentationCrops};
pub use meaning::Meaning;
pub use registry::open;

//! From a folder of images (or the embedded data set) to training batches.
//!
//! ```text
//! source.rs    what a data set is; `open("folder:DIR")`, `open("shapes")`; train and held-out parts
//!   folder.rs  images under a folder                shapes.rs  the embedded, generated data set
//! augment.rs   every random choice of a crop (`draw`) and what it does (`apply`)
//!   resize.rs  crop and bicubic resize    color.rs  jitter, grey, solarize    blur.rs  Gaussian blur
//! masks.rs     which patches of which global crop are hidden
//! order.rs     which images make up which step
//! loader.rs    worker threads           assembly.rs  the batch they write to
//! rng.rs       the random stream of every purpose
//! ```
//! Every random choice follows from (seed, epoch, index) or (seed, step) alone, so a batch has the same bits for any
//! number of threads and after a resume.

mod assembly;
pub mod augment;
mod blur;
mod color;
pub mod folder;
pub mod loader;
pub mod masks;
pub mod order;
mod resize;
pub mod rng;
pub mod shapes;
pub mod source;

pub use augment::{BlurProbabilities, Choices, Crop, CropConfig, Jitter, View, apply, draw, evaluation_view};
pub use loader::{Batch, Loader, LoaderConfig};
pub use masks::MaskConfig;
pub use source::{BadSample, HeldOut, Source, open, split};

//! From images in files (or the embedded data set) to training batches.
//!
//! ```text
//! source.rs    what a data set is; its train and held-out parts    labelled_part.rs  a share of every class, or listed images
//! registry.rs  the kinds: `open("folder:DIR")`, `open("shapes")`, ...
//!   folder.rs  images under a folder                list.rs    paths and labels in a text file, as list_text.rs reads it
//!   webdataset.rs  tar shards; shard.rs indexes one, tar.rs reads its headers
//!   braces.rs  the names that `{000..146}` stands for; spec.rs  paths that are no text
//!   cifar.rs   CIFAR-10 and CIFAR-100               shapes.rs  the embedded, generated data set
//!   labels.rs  from labels as written to classes    decode/  from bytes to RGB, as reading.rs says
//! pixels.rs    decoded images           channels.rs  the images of a source with other channels
//! bad_samples.rs  images that cannot be used, and why; bad_samples_file.rs  those of a run, on disk; unusable.rs  what it says of them
//! augment.rs   every random choice of a crop (`draw`) and what it does (`apply`)
//!   normalization.rs  means and deviations
//!   resize.rs  crop and bicubic resize    color.rs  jitter, grey, solarize    blur.rs  Gaussian blur
//!   draws.rs   random choices they share    scratch.rs  buffers
//! classify/    the augmentation that classifiers are trained with, and the mixing of their batches
//! segmentation/  images with a class for every pixel, and the crops that heads of segmentation learn from
//! recipe.rs    what a loader makes of every image: multi_crop.rs crops with masks, large_and_small.rs
//!              one large crop and small ones, classify/ one crop with its label
//! masks.rs     which patches of which global crop are hidden        npy.rs  masks of objects in NumPy's files
//! order.rs     which images make up which step, on any number of ranks
//! batch.rs     what a task gets: groups of crops with masks, labels and indices
//! loader.rs    worker threads           assembly.rs  the batch they write to
//!   waiting.rs  the images in work
//! settings.rs  the sections of a recipe; loader_config.rs  what the loader is told
//! ```
//! Every random choice follows from (seed, epoch, index) or (seed, step, rank) alone, so a batch has the same bits
//! for any number of threads and after a resume.

mod assembly;
pub mod augment;
pub mod bad_samples;
pub mod bad_samples_file;
pub mod batch;
mod blur;
mod braces;
pub mod channels;
pub mod cifar;
pub mod classify;
mod color;
pub mod decode;
mod draws;
pub mod folder;
pub mod labelled_part;
pub mod labels;
pub mod large_and_small;
pub mod list;
mod list_text;
pub mod loader;
pub mod loader_config;
pub mod masks;
pub mod multi_crop;
pub mod normalization;
pub mod npy;
pub mod order;
pub mod pixels;
pub mod reading;
pub mod recipe;
pub mod registry;
mod resize;
pub mod scratch;
pub mod segmentation;
pub mod settings;
pub mod shapes;
mod shard;
pub mod source;
mod spec;
mod tar;
pub mod unusable;
mod waiting;
pub mod webdataset;

pub use augment::{BlurProbabilities, Choices, Crop, CropConfig, EvaluationView, Jitter, View, apply, draw};
pub use bad_samples::{BadKind, BadSample};
pub use batch::{Batch, CropGroup, Masks};
pub use loader::Loader;
pub use loader_config::LoaderConfig;
pub use masks::MaskConfig;
pub use multi_crop::MultiCrop;
pub use normalization::Normalization;
pub use pixels::Image;
pub use reading::Reading;
pub use registry::{open, open_setting};
pub use source::{HeldOut, Source, hold_out, labelled, split};
pub use spec::spec_text;

//! Heads that make a class of every pixel from maps of features. Their parameters have the names of mmsegmentation.
//!
//! ```text
//! head.rs      what a head is            registry.rs  the heads by their kinds
//! linear.rs    maps side by side, one layer     upernet.rs  pyramid pooling and a feature pyramid (arXiv 1807.10221)
//! neck.rs      maps of one size as a pyramid
//! layers.rs    a convolution with BatchNorm and ReLU, a linear layer for every pixel, changes of size
//! ```

mod head;
mod layers;
mod linear;
mod neck;
mod registry;
mod upernet;

pub use head::{Head, HeadKind, HeadSizes, Logits};
pub use layers::{Factors, Mode, Running, dropout_factors};
pub use registry::open;

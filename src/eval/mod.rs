//! How good features are: k-NN and linear probes of any sub-networks, over images that are decoded as they
//! are needed; features to a file; pictures of what a network sees.

mod ahead;
pub mod classification;
pub mod export;
pub mod images;
pub mod knn;
pub mod linear;
mod pass;
mod pca;
pub mod probe;
pub mod settings;
mod shared;
pub mod visualize;

pub use classification::Classification;
pub use images::LabelledImages;
pub use knn::{KnnOptions, knn_accuracies};
pub use linear::{LinearOptions, LinearReport, linear_probes};
pub use pass::Progress;

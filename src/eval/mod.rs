//! How good features are: k-NN, linear probes, clusters and retrieval of any sub-networks, over images that are decoded
//! as they are needed; classifiers; features to a file; pictures of what a network sees.

pub mod agreement;
pub(crate) mod ahead;
pub mod budget;
pub mod classification;
pub mod classify;
pub mod clusters;
pub mod correspondence;
pub mod export;
pub mod images;
pub mod kmeans;
pub mod knn;
pub mod knn_bank;
pub mod linear;
mod pass;
mod pca;
pub mod probe;
pub mod prototype_pictures;
pub mod prototypes;
pub mod retrieval;
pub mod robustness;
pub mod segmentation;
pub mod settings;
mod shared;
pub mod visualize;

pub use classification::Classification;
pub use clusters::{ClusterOptions, ClusterScores, cluster_scores};
pub use images::LabelledImages;
pub use knn::{KnnOptions, knn_accuracies};
pub use linear::{LinearOptions, LinearReport, linear_probes};
pub use pass::Progress;
pub use retrieval::{RetrievalOptions, RetrievalScores, retrieval_scores};

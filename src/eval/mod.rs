//! How good features are.

pub mod features;
pub mod knn;

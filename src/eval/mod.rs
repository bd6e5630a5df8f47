//! How good features are.

pub mod knn;

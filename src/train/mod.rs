//! The training loop and what it leaves on disk.

pub mod bad_samples;
pub mod evaluation;
pub mod health;
pub mod metrics;
pub mod numbers;
pub mod profiling;
pub mod progress;
pub mod reports;
pub mod run_folder;
pub mod save;
pub mod settings;
pub mod trainer;

//! The training loop for any task, and what it leaves on disk.

mod boundaries;
mod bulletin;
pub mod gradient_sum;
pub mod metrics;
mod numbers;
pub mod plan;
pub mod profiling;
pub mod progress;
pub mod reports;
pub mod run_folder;
pub mod save;
pub mod settings;
pub mod step;
pub mod task;
pub mod trainer;

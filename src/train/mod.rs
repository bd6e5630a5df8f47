//! The training loop and what it leaves on disk.

pub mod checkpoint;
pub mod metrics;
pub mod progress;
pub mod run_folder;
pub mod save;
pub mod tensor_file;
pub mod trainer;

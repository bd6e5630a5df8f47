//! POA pre-training on any GPU: an autodiff tensor engine on wgpu, elastic vision backbones, and the trainer.
//! `ARCHITECTURE.md` says how the pieces fit together.
#![warn(missing_docs)]
#![warn(clippy::print_stdout, clippy::print_stderr)] // they panic where nothing can be written

pub mod autograd;
pub mod bench;
pub mod checks;
pub mod cli;
mod cpu;
pub mod data;
pub mod error;
pub mod eval;
pub mod files;
pub mod gpu;
mod layout;
pub mod logging;
pub mod models;
pub mod nn;
pub mod ops;
pub mod optim;
pub mod plot;
pub mod poa;
mod pool;
pub mod profile;
pub mod recipes;
pub mod tensor;
pub mod train;
pub mod verify;
pub mod weights;

pub use error::{Error, Result};

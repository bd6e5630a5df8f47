//! POA pre-training on any GPU: an autodiff tensor engine on wgpu, elastic vision backbones, and the trainer.
//! `ARCHITECTURE.md` says how the pieces fit together.
#![warn(missing_docs)]

pub mod autograd;
pub mod cli;
pub mod config;
mod cpu;
pub mod error;
pub mod gpu;
pub mod models;
pub mod ops;
pub mod optim;
mod pool;
pub mod tensor;
pub mod train;

pub use error::{Error, Result};

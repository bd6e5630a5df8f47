//! An autodiff tensor engine on wgpu and the CPU, a trainer for whatever is made of it, and POA: pre-training
//! of a whole family of vision backbones in one run. `ARCHITECTURE.md` says how the pieces fit together.
//!
//! | feature | modules |
//! |---|---|
//! | none: the engine | [`train`], [`optim`], [`nn`], [`ops`], [`autograd`], [`tensor`], [`gpu`], [`cpu`], [`files`], ... |
//! | `images` | [`data`] |
//! | `charts` | [`plot`] |
//! | `poa` | [`models`], [`eval`], [`mod@poa`], [`weights`], [`recipes`], [`verify`], [`mod@bench`], [`report`] |
//! | `mpi` | ranks that are processes: `collective::Mpi` |
//! | `cli` (default) | [`cli`], and a bar on terminals: `progress` |
//!
//! The engine by itself: tensors on a device, operations under a tape, gradients in the parameters' buffers,
//! and a step of AdamW. [`train::task::Task`] makes more of such a model: a run with checkpoints, exact
//! resume and logs (`examples/mlp.rs`).
//!
//! ```
//! use poa_gpu::autograd::{Tape, Var};
//! use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Init, ParameterSpec, Parameters};
//! use poa_gpu::ops::linear::{LinearWeights, linear};
//! use poa_gpu::optim::adamw::{AdamW, AdamWConfig, Multipliers, StepSettings};
//! use poa_gpu::tensor::{Device, Tensor};
//! use poa_gpu::train::step::{Trained, apply};
//!
//! # fn main() -> poa_gpu::Result<()> {
//! let device = Device::cpu();
//! let layout = FlatLayout::new(&[ParameterSpec::new("net.weight", &[1, 2], Init::Constant(0.5))], usize::MAX)?;
//! let values = FlatBuffers::zeros(&layout, &device)?;
//! values.write("net.weight", &[0.5, 0.5])?;
//! let parameters = Parameters::trained(values)?;
//!
//! // y = x·Wᵀ
//! let tape = Tape::new();
//! let x = Var::constant(Tensor::from_slice(&device, &[1, 2], &[3.0f32, 4.0])?);
//! let layer = LinearWeights { weight: parameters.var("net.weight")?, bias: None, alpha: 1.0 };
//! let y = linear(&tape, &x, &layer)?;
//! assert_eq!(y.value().to_vec::<f32>()?, [3.5]);
//!
//! // dy/dW = x
//! tape.backward(vec![(&y, Tensor::from_slice(&device, &[1, 1], &[1.0f32])?)])?;
//! assert_eq!(parameters.gradients().unwrap().read("net.weight")?, [3.0, 4.0]);
//!
//! // AdamW's first step goes against the gradient's sign, by the learning rate
//! let mut optimizer = AdamW::new(&layout, &device, AdamWConfig::default(), vec![Multipliers::default()])?;
//! let mut trained = Trained { parameters: &parameters, teacher: None, optimizer: &mut optimizer };
//! let settings = StepSettings { lr: 0.1, last_layer_lr: 0.1, weight_decay: 0.0, teacher_momentum: 0.0 };
//! let report = apply(&mut trained, y.value(), settings)?;
//! assert!(report.finite && report.norms == [5.0]);
//! let updated = parameters.values().read("net.weight")?;
//! assert!(updated.iter().all(|w| (w - 0.4).abs() < 1e-6));
//! # Ok(())
//! # }
//! ```
#![warn(clippy::print_stdout, clippy::print_stderr)] // they panic where nothing can be written
#![warn(clippy::disallowed_methods)] // names are not printed as they are (clippy.toml)

// the engine
pub mod autograd;
pub mod checks;
pub mod collective;
pub mod cpu;
pub mod error;
pub mod files;
pub mod gpu;
pub mod guard;
mod layout;
pub mod logging;
pub mod memory;
pub mod nn;
pub mod ops;
pub mod optim;
mod pool;
pub mod profile;
pub mod rng;
pub mod share;
pub mod shown;
pub mod stop;
pub mod tensor;
pub mod train;

// what it is used for
#[cfg(feature = "poa")]
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "images")]
pub mod data;
#[cfg(feature = "poa")]
pub mod eval;
#[cfg(feature = "poa")]
pub mod models;
#[cfg(feature = "charts")]
pub mod plot;
#[cfg(feature = "poa")]
pub mod poa;
#[cfg(feature = "poa")]
pub mod recipes;
#[cfg(feature = "poa")]
pub mod report;
#[cfg(feature = "poa")]
pub mod tasks;
#[cfg(feature = "poa")]
pub mod verify;
#[cfg(feature = "poa")]
pub mod weights;

pub use error::{Error, Result};

//! A sub-network as an ONNX model, which onnxruntime, tract and others run.
//!
//! ```text
//! schema.rs   the messages of the format, as far as they are needed
//! tensors.rs  weights and constants as they lie in the file
//! write.rs    model.onnx, and model.onnx.data where it would be larger than a message can be
//! ```

pub mod schema;
mod tensors;
mod write;

pub use write::{DATA, MODEL, OnnxOptions, write_onnx};

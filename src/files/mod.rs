//! Files as other programs know them, and files that are whole or not there: safetensors, checkpoints with
//! checksums, TensorBoard's events.

pub mod checkpoint;
pub mod durable;
mod foreign;
pub mod own;
pub mod regular;
pub mod tensor_file;
mod tensor_header;
pub mod tensor_writer;
pub mod tensorboard;
pub mod whole;

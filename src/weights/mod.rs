//! Weights in and out: plain networks cut from a teacher, weights of others as a start. What is particular to
//! a backbone, it says itself (`Backbone::plain`, `Backbone::plain_name`).
//!
//! ```text
//! names.rs     which tensor of a file is which parameter     sizes.rs  the sizes that an extracted network says
//! networks.rs  which sub-networks a command line asks for
//! extract.rs   a sub-network as a plain network                describe.rs  its config.json
//! folder.rs    its folder, whole or not there              onnx/        as an ONNX model
//! card.rs      its model card
//! transformers.rs  what Hugging Face's transformers reads beside the tensors
//! heads.rs     projection heads beside it
//! import.rs    parameters from a file of another program       resample.rs  for another grid or patch size
//! filling.rs   what a file has for each parameter             foreign/  what other libraries call it
//! start.rs     what a file's network is without, and whether it is enough to start from
//! ```

pub mod card;
mod describe;
pub mod extract;
mod filling;
mod folder;
pub mod foreign;
pub mod heads;
pub mod import;
pub mod names;
pub mod networks;
pub mod onnx;
mod resample;
pub mod sizes;
mod start;
mod transformers;

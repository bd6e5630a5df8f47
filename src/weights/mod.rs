//! Weights in and out: plain networks cut from a teacher, weights of others as a start.
//!
//! ```text
//! names.rs     official names <-> those of timm and DINOv2; which tensor of a file is which parameter
//! networks.rs  which sub-networks a command line asks for
//! extract.rs   a sub-network as a plain network                describe.rs, describe_resnet.rs  the config.json
//! import.rs    parameters from a file of another program       resample.rs  for another grid or patch size
//! ```

mod describe;
mod describe_resnet;
pub mod extract;
pub mod import;
pub mod names;
pub mod networks;
mod resample;

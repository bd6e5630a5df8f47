//! Backbones and the grids of sub-networks they contain.

pub mod backbone;
pub mod encoder;
pub mod graph;
pub mod grid;
pub mod maps;
pub mod plain;
pub mod registry;
pub mod resnet;
pub mod settings;
pub mod swin;
pub mod vit;

pub use registry::Student;

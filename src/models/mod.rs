//! Backbones and the grids of sub-networks they contain.

pub mod backbone;
pub mod encoder;
pub mod grid;
pub mod plain;
pub mod resnet;
pub mod swin;
pub mod vit;

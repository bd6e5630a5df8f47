//! Backbones and the grids of sub-networks they contain.

pub mod encoder;
pub mod grid;
pub mod vit;

//! Backbones and the grids of sub-networks they contain.

pub mod grid;
pub mod vit;

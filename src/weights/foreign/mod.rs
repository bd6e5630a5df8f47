//! Networks that other libraries wrote: their names as those of timm and DINOv2, which the rest knows. A file a family of names.

mod clip;
mod dialect;
mod dinov3;
mod hub;
mod open_clip;
mod tensors;
mod vit;

pub use tensors::Tensors;

//! Every operation on both devices: outputs, gradients, ragged shapes, strides, offsets, every variant.

#[path = "support/mod.rs"]
mod support;

#[path = "kernels/elementwise.rs"]
mod elementwise;
#[path = "kernels/layer_norm.rs"]
mod layer_norm;
#[path = "kernels/linear.rs"]
mod linear;
#[path = "kernels/matmul.rs"]
mod matmul;
#[path = "kernels/shaders.rs"]
mod shaders;
#[path = "kernels/gather.rs"]
mod gather;
#[path = "kernels/patch_embed.rs"]
mod patch_embed;
#[path = "kernels/position.rs"]
mod position;
#[path = "kernels/residual.rs"]
mod residual;
#[path = "kernels/tokens.rs"]
mod tokens;

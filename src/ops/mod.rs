//! Operations: one file each, with its shape rule, its plan, the GPU launch, the CPU kernel and the gradient.
//!
//! Functions on [`crate::tensor::Tensor`] compute; functions that take a [`crate::autograd::Tape`] also record the
//! gradient. Every function runs on both devices.

pub mod elementwise;
pub mod fill;
pub mod gather;
pub mod layer_norm;
pub mod linear;
pub mod matmul;
pub mod patch_embed;
pub mod position;
pub mod reduce;
pub mod residual;
pub mod tokens;

use crate::gpu::{Caps, Kernel};

/// Every kernel variant that an adapter with these capabilities may be asked for, for validation without a GPU.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    [
        elementwise::kernels(caps),
        fill::kernels(caps),
        gather::kernels(caps),
        layer_norm::kernels(caps),
        patch_embed::kernels(caps),
        reduce::kernels(caps),
        residual::kernels(caps),
        tokens::kernels(caps),
    ]
    .concat()
}

//! Operations: one file each, with its shape rule, its plan, the GPU launch, the CPU kernel and the gradient.
//!
//! Functions on [`crate::tensor::Tensor`] compute; functions that take a [`crate::autograd::Tape`] also
//! record the gradient. Every function runs on both devices.

pub mod argmax;
pub mod attention;
pub mod avg_pool;
pub mod batch_norm;
pub mod cast;
pub mod ceiling;
pub mod conv;
pub mod cross_entropy;
pub mod gather;
pub mod gelu;
pub mod group_norm;
pub mod group_sum;
pub mod joint_sinkhorn;
pub mod koleo;
pub mod l2_normalize;
pub mod label_cross_entropy;
pub mod layer_norm;
pub mod linear;
pub mod lookup;
pub mod maps;
pub mod mask_rows;
pub mod matmul;
pub mod max_pool;
mod open;
pub mod patch_embed;
pub mod patch_merge;
pub mod position;
pub mod prototype_loss;
pub mod queue_distillation;
pub mod reduce;
mod registry;
pub mod resample;
pub mod residual;
pub mod row_subset;
pub mod rows;
pub mod scale_channels;
pub mod segment_mean;
pub mod sinkhorn;
pub mod soft_cross_entropy;
pub mod softmax;
pub mod swiglu;
pub mod tokens;
pub mod top_k;
pub mod weight_norm;
pub mod window_attention;

pub use open::{open, open_within};
pub use registry::{chosen_variants, kernels};

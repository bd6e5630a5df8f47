//! Operations: one file each, with its shape rule, its plan, the GPU launch, the CPU kernel and the gradient.
//!
//! Functions on [`crate::tensor::Tensor`] compute; functions that take a [`crate::autograd::Tape`] also record the
//! gradient. Every function runs on both devices.

pub mod attention;
pub mod avg_pool;
pub mod cast;
pub mod ceiling;
pub mod conv;
pub mod cross_entropy;
pub mod elementwise;
pub mod fill;
pub mod gather;
pub mod group_norm;
pub mod koleo;
pub mod l2_normalize;
pub mod label_cross_entropy;
pub mod layer_norm;
pub mod linear;
pub mod mask_rows;
pub mod matmul;
pub mod max_pool;
pub mod patch_embed;
pub mod patch_merge;
pub mod position;
pub mod prototype_loss;
pub mod reduce;
pub mod residual;
pub mod rows;
pub mod segment_mean;
pub mod sinkhorn;
pub mod softmax;
pub mod strided_copy;
pub mod tokens;
pub mod top_k;
pub mod weight_norm;
pub mod window_attention;

use crate::gpu::{Caps, Kernel};
use crate::tensor::DType;

/// The types that activations have on an adapter with these capabilities.
pub(crate) fn activation_types(caps: &Caps) -> impl Iterator<Item = DType> {
    [DType::F32, DType::F16].into_iter().take(1 + usize::from(caps.f16))
}

/// The constant that builds a kernel for activations of this type.
pub(crate) fn half_define(dtype: DType) -> Option<(&'static str, u32)> {
    (dtype == DType::F16).then_some(("HALF", 1))
}

/// Every kernel variant that an adapter with these capabilities may be asked for, for validation without a GPU.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    [
        attention::kernels(caps),
        avg_pool::kernels(caps),
        cast::kernels(caps),
        ceiling::kernels(caps),
        cross_entropy::kernels(caps),
        elementwise::kernels(caps),
        fill::kernels(caps),
        gather::kernels(caps),
        group_norm::kernels(caps),
        koleo::kernels(caps),
        l2_normalize::kernels(caps),
        label_cross_entropy::kernels(caps),
        layer_norm::kernels(caps),
        mask_rows::kernels(caps),
        matmul::kernels(caps),
        max_pool::kernels(caps),
        patch_embed::kernels(caps),
        patch_merge::kernels(caps),
        prototype_loss::kernels(caps),
        reduce::kernels(caps),
        residual::kernels(caps),
        segment_mean::kernels(caps),
        sinkhorn::kernels(caps),
        softmax::kernels(caps),
        strided_copy::kernels(caps),
        tokens::kernels(caps),
        top_k::kernels(caps),
        weight_norm::kernels(caps),
        window_attention::kernels(caps),
    ]
    .concat()
}

/// What an adapter with these capabilities would use at the sizes of ViT-S training: (kernel family, variant).
pub fn chosen_variants(caps: &Caps) -> Vec<(&'static str, String)> {
    let product = |precision, m, n, k| {
        let problem = matmul::Problem {
            batch: 1,
            m,
            n,
            k,
            k_groups: 1,
            a_along_m: false,
            b_along_k: true,
            a_aligned: true,
            b_aligned: true,
            grouped: false,
            window: false,
            precision,
            wide: true,
            ending: matmul::Ending::Plain,
        };
        format!("{:?}", matmul::plan(&problem, caps).variant)
    };
    let mut all = Vec::new();
    if caps.f16 {
        all.push(("matmul, half", product(matmul::Precision::Half, 12_608, 1536, 384)));
    }
    let groups = vec![attention::SequenceGroup { count: 64, length: 197 }];
    let problem = attention::Problem { groups, heads: 6, head_dim: 64, half: false };
    all.extend([
        ("matmul, large", product(matmul::Precision::Single, 12_608, 1536, 384)),
        ("matmul, small", product(matmul::Precision::Single, 16, 384, 384)),
        (
            "attention",
            attention::plan(&problem, caps).map_or_else(|e| e.to_string(), |p| format!("{:?}", p.variant)),
        ),
    ]);
    all
}

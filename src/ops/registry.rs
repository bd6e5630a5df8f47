//! The list of all kernels, and what would be chosen among them.

use super::{
    argmax, attention, avg_pool, batch_norm, ceiling, cross_entropy, gather, gelu, group_norm, group_sum,
    koleo, l2_normalize, label_cross_entropy, layer_norm, lookup, mask_rows, matmul, max_pool, patch_embed,
    patch_merge, prototype_loss, reduce, resample, residual, row_subset, scale_channels, segment_mean,
    sinkhorn, soft_cross_entropy, softmax, swiglu, tokens, top_k, weight_norm, window_attention,
};
use crate::gpu::{Caps, Kernel};
use crate::tensor;

/// Every kernel variant of this floor and those below that an adapter with these capabilities may be asked
/// for, for validation without a GPU.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    [
        tensor::kernels(caps),
        argmax::kernels(caps),
        attention::kernels(caps),
        avg_pool::kernels(caps),
        batch_norm::kernels(caps),
        ceiling::kernels(caps),
        cross_entropy::kernels(caps),
        gather::kernels(caps),
        gelu::kernels(caps),
        group_norm::kernels(caps),
        group_sum::kernels(caps),
        koleo::kernels(caps),
        l2_normalize::kernels(caps),
        label_cross_entropy::kernels(caps),
        layer_norm::kernels(caps),
        lookup::kernels(caps),
        mask_rows::kernels(caps),
        matmul::kernels(caps),
        max_pool::kernels(caps),
        patch_embed::kernels(caps),
        patch_merge::kernels(caps),
        prototype_loss::kernels(caps),
        reduce::kernels(caps),
        resample::kernels(caps),
        residual::kernels(caps),
        row_subset::kernels(caps),
        scale_channels::kernels(caps),
        segment_mean::kernels(caps),
        sinkhorn::kernels(caps),
        soft_cross_entropy::kernels(caps),
        softmax::kernels(caps),
        swiglu::kernels(caps),
        tokens::kernels(caps),
        top_k::kernels(caps),
        weight_norm::kernels(caps),
        window_attention::kernels(caps),
    ]
    .concat()
}

/// What an adapter with these capabilities would use at the sizes of ViT-S training: (kernel family,
/// variant).
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
            c_aligned: true,
            grouped: false,
            window: false,
            precision,
            wide: true,
            c_wide: true,
            epilogue: matmul::EpilogueKind::Plain,
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

//! transformers' ViT, DeiT, ViTMAE, DINOv2 and DINOv2 with registers.

use super::dialect::Dialect;

pub(super) const VIT: Dialect = Dialect {
    whose: "transformers' ViT, DeiT, MAE or DINOv2",
    blocks: &["encoder.layer."],
    inside: &[
        ("attention.output.dense", "attn.proj"),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("norm1", "norm1"),
        ("norm2", "norm2"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
        ("mlp.weights_in", "mlp.w12"),
        ("mlp.weights_out", "mlp.w3"),
    ],
    qkv: Some(["attention.attention.query", "attention.attention.key", "attention.attention.value"]),
    outside: &[
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.distillation_token", "dist_token"),
        ("embeddings.mask_token", "mask_token"),
        ("embeddings.register_tokens", "register_tokens"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("layernorm", "norm"),
    ],
    dropped: &[],
};

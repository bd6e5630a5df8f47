//! transformers' DINOv3. Its positions are rotary, which our ViTs are without: they learn theirs.

use super::dialect::Dialect;

pub(super) const DINOV3: Dialect = Dialect {
    whose: "transformers' DINOv3",
    blocks: &["model.layer.", "layer."],
    inside: &[
        ("attention.o_proj", "attn.proj"),
        ("norm1", "norm1"),
        ("norm2", "norm2"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("mlp.up_proj", "mlp.fc1"),
        ("mlp.down_proj", "mlp.fc2"),
        // with it the MLP is another one, which is said of this name
        ("mlp.gate_proj", "mlp.gate_proj"),
    ],
    qkv: Some(["attention.q_proj", "attention.k_proj", "attention.v_proj"]),
    outside: &[
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.mask_token", "mask_token"),
        ("embeddings.register_tokens", "register_tokens"),
        ("embeddings.patch_embeddings", "patch_embed.proj"),
    ],
    dropped: &[],
};

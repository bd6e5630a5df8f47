//! The vision tower of transformers' CLIP.

use super::dialect::Dialect;

/// What is said of the norm before the first block, which ours are without.
pub(super) const PRE_NORM: &str = "its norm before the first block has no place in this model and is dropped, so that features begin far from \
                                   the file's";

pub(super) const CLIP: Dialect = Dialect {
    whose: "transformers' CLIP",
    blocks: &["encoder.layers."],
    inside: &[
        ("self_attn.out_proj", "attn.proj"),
        ("layer_norm1", "norm1"),
        ("layer_norm2", "norm2"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ],
    qkv: Some(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    outside: &[
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("embeddings.position_embedding.weight", "pos_embed"),
        ("post_layernorm", "norm"),
    ],
    // misspelt there
    dropped: &[("pre_layrnorm", PRE_NORM), ("pre_layernorm", PRE_NORM)],
};

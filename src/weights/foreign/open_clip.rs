//! The vision tower of OpenCLIP, and of OpenAI's CLIP.

use super::clip::PRE_NORM;
use super::dialect::Dialect;

pub(super) const OPEN_CLIP: Dialect = Dialect {
    whose: "OpenCLIP",
    blocks: &["transformer.resblocks."],
    inside: &[
        ("attn.in_proj_weight", "attn.qkv.weight"),
        ("attn.in_proj_bias", "attn.qkv.bias"),
        ("attn.out_proj", "attn.proj"),
        ("ln_1", "norm1"),
        ("ln_2", "norm2"),
        ("ls_1.gamma", "ls1.gamma"),
        ("ls_2.gamma", "ls2.gamma"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ],
    qkv: None,
    outside: &[
        ("class_embedding", "cls_token"),
        ("conv1", "patch_embed.proj"),
        ("positional_embedding", "pos_embed"),
        ("ln_post", "norm"),
    ],
    dropped: &[("ln_pre", PRE_NORM)],
};

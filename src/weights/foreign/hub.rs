//! What files with timm's or DINOv2's names call otherwise: DINOv3's hub, BEiT and its kin, timm's CLIP.

use super::clip::PRE_NORM;

/// Tensors beside the blocks: their name and ours.
pub(super) const OUTSIDE: [(&str, &str); 1] = [("storage_tokens", "register_tokens")];
/// Tensors without a place, and what is said of them.
pub(super) const DROPPED: [(&str, &str); 1] = [("norm_pre.weight", PRE_NORM)];
/// What is added to a bias's name for what it is multiplied by: zeros for keys.
pub(super) const MASK: &str = "_mask";
/// Biases of queries and of values, where keys have none.
pub(super) const HALVES: [(&str, usize); 2] = [("attn.q_bias", 0), ("attn.v_bias", 2)];

//! How the learning rate falls through a ViT.

use crate::optim::groups::LayerRule;

/// The rule of a ViT of `depth` blocks: id 0 for what makes the tokens, then one id a block.
pub fn layer_rule(depth: usize) -> LayerRule {
    LayerRule { top: depth + 1, id: Box::new(layer_id), patch_embed: Some("patch_embed.") }
}

fn layer_id(name: &str) -> Option<usize> {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    match first {
        "patch_embed" | "pos_embed" | "cls_token" | "register_tokens" | "mask_token" => Some(0),
        "blocks" => rest.split('.').next()?.parse::<usize>().ok().map(|block| block + 1),
        _ => None,
    }
}

//! A sub-network of a ViT as a plain one, for timm and DINOv2.
//!
//! The elastic model has a level more in its names than a plain one: `attn.qkv.linear.weight`,
//! `norm1.norm.weight`. The official extraction drops it with the prefix `backbone.`, which leaves the names
//! of DINOv2; timm has the same but for the mask token.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::models::grid::{Network, block_ids};
use crate::models::plain::{Format, Pieces, PlainName, PlainNetwork, decimal, first_conv, parts, renumbered};
use crate::models::vit::sizes::{NORM_EPS, VitSizes, vit_specs};

/// timm's plain ViTs of 224 pixels with patches of 16, by width, depth and heads.
const TIMM: [(&str, [usize; 3]); 4] = [
    ("vit_tiny_patch16_224", [192, 12, 3]),
    ("vit_small_patch16_224", [384, 12, 6]),
    ("vit_base_patch16_224", [768, 12, 12]),
    ("vit_large_patch16_224", [1024, 24, 16]),
];

/// How a plain network has the parameter of this official name.
pub(super) fn name(official: &str, format: Format) -> Option<PlainName> {
    let name = official.strip_prefix("backbone.")?;
    if format == Format::Timm && name == "mask_token" {
        return None;
    }
    let mut levels: Vec<&str> = name.split('.').collect();
    if let Some(level) = levels.len().checked_sub(2)
        && (levels[level] == "linear" || levels[level] == "norm" && level > 0)
    {
        levels.remove(level);
    }
    // queries, keys and values are cut each
    let pieces = levels.contains(&"qkv").then(|| Pieces { axis: 0, order: vec![0, 1, 2] });
    Some(PlainName { name: levels.join("."), pieces })
}

/// A sub-network of a ViT of these sizes.
pub(super) fn network(sizes: &VitSizes, network: Network, format: Format) -> Result<PlainNetwork> {
    let Network { width, depth, .. } = network;
    let fits = (1..=sizes.width).contains(&width) && (1..=sizes.depth).contains(&depth);
    if !fits || !width.is_multiple_of(sizes.head_dim) {
        return Err(Error::Usage(format!(
            "there is no sub-network {network} in a ViT of {}x{}; widths are multiples of {}",
            sizes.width, sizes.depth, sizes.head_dim
        )));
    }
    let blocks = block_ids(sizes.depth, depth);
    let plain = sizes.plain(network);
    let original = |name: &str| renumbered(name, "backbone.blocks.", &blocks);
    let mut parts = parts(&vit_specs(sizes), vit_specs(&plain), original, |official| name(official, format));
    for part in parts.iter_mut().filter(|part| part.source.ends_with(".linear.weight")) {
        part.fold_alpha(1);
    }
    Ok(PlainNetwork { parts, channels: sizes.channels, image: sizes.image, config: config(&plain, format) })
}

fn config(sizes: &VitSizes, format: Format) -> Value {
    let shared = json!({
        "img_size": sizes.image,
        "patch_size": sizes.patch,
        "in_chans": sizes.channels,
        "embed_dim": sizes.width,
        "depth": sizes.depth,
        "num_heads": sizes.width / sizes.head_dim,
        "mlp_ratio": sizes.mlp_ratio,
        "qkv_bias": true,
        "init_values": decimal(sizes.layerscale),
    });
    match format {
        Format::Timm => timm(shared, sizes),
        Format::Dinov2 | Format::Poa => {
            let mut all = shared;
            all["layer_norm_eps"] = json!(decimal(NORM_EPS));
            all
        }
    }
}

/// timm takes what `model_args` does not say from the architecture, whose LayerNorm has our ε.
fn timm(mut model_args: Value, sizes: &VitSizes) -> Value {
    model_args["class_token"] = json!(true);
    model_args["global_pool"] = json!("token");
    json!({
        "architecture": architecture(sizes),
        "num_features": sizes.width,
        "global_pool": "token",
        "model_args": model_args,
        "pretrained_cfg": {
            "fixed_input_size": true,
            "pool_size": null,
            "first_conv": first_conv(sizes.channels, "patch_embed.proj"),
            "classifier": "head",
        },
    })
}

/// timm's network with the fewest other sizes, of several the nearest in width.
fn architecture(sizes: &VitSizes) -> &'static str {
    let own = [sizes.width, sizes.depth, sizes.width / sizes.head_dim];
    let difference = |(_, theirs): &&(&str, [usize; 3])| {
        (own.iter().zip(theirs).filter(|(a, b)| a != b).count(), own[0].abs_diff(theirs[0]))
    };
    TIMM.iter().min_by_key(difference).map_or(TIMM[0].0, |(name, _)| name)
}

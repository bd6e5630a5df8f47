//! A sub-network of a ViT as a plain one, for timm and DINOv2.
//!
//! The elastic model has a level more in its names than a plain one: `attn.qkv.linear.weight`,
//! `norm1.norm.weight`. The official extraction drops it with the prefix `backbone.`, which leaves the names
//! of DINOv2; timm has the same but for the mask token, the registers (`reg_token`) and SwiGLU (`mlp.fc1` for `w12`,
//! `mlp.fc2` for `w3`). With registers timm has no position of the class token, so it is added to the token, as in timm's
//! own copies of DINOv2's networks. So it is in ONNX models, whose graph is in `graph.rs`.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::models::grid::{Network, block_ids};
use crate::models::plain::{
    Format, Part, Pieces, PlainName, PlainNetwork, decimal, first_conv, parts, renumbered,
};
use crate::models::vit::ffn::Ffn;
use crate::models::vit::sizes::{NORM_EPS, VitSizes, vit_specs};
use crate::models::vit::transformers;

/// timm's plain ViTs of 224 pixels with patches of 16, by width, depth and heads.
const TIMM: [(&str, [usize; 3]); 4] = [
    ("vit_tiny_patch16_224", [192, 12, 3]),
    ("vit_small_patch16_224", [384, 12, 6]),
    ("vit_base_patch16_224", [768, 12, 12]),
    ("vit_large_patch16_224", [1024, 24, 16]),
];
/// timm's ViTs with SwiGLU whose gate comes first, without and with registers: what it cannot be told by arguments.
const TIMM_SWIGLU: [&str; 2] = ["vit_giant_patch14_dinov2", "vit_giant_patch14_reg4_dinov2"];

/// How a plain network has the parameter of this official name. For transformers, where queries, keys and values are
/// tensors of their own, `transformers.rs` makes theirs of DINOv2's names.
pub(super) fn name(official: &str, format: Format) -> Option<PlainName> {
    let name = official.strip_prefix("backbone.")?;
    if format.is_named_as_timm() && name == "mask_token" {
        return None;
    }
    let mut levels: Vec<&str> = name.split('.').collect();
    if let Some(level) = levels.len().checked_sub(2)
        && (levels[level] == "linear" || levels[level] == "norm" && level > 0)
    {
        levels.remove(level);
    }
    // queries, keys and values are cut each, and gate and value of SwiGLU
    let groups = if levels.contains(&"qkv") { 3 } else { 1 + usize::from(levels.contains(&"w12")) };
    let pieces = (groups > 1).then(|| Pieces::all(0, 0..groups));
    if format.is_named_as_timm() {
        let theirs = [("register_tokens", "reg_token"), ("w12", "fc1"), ("w3", "fc2")];
        for level in &mut levels {
            if let Some((_, name)) = theirs.iter().find(|(own, _)| *own == *level) {
                *level = name;
            }
        }
    }
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
    let hidden = sizes.hidden(width);
    if sizes.ffn == Ffn::SwiGlu && format == Format::Dinov2 && !hidden.is_multiple_of(8) {
        return Err(Error::Usage(format!(
            "{network} has {hidden} hidden channels in its SwiGLU, and DINOv2's code makes multiples of 8 alone; give \
             --format timm or poa"
        )));
    }
    let blocks = block_ids(sizes.depth, depth);
    let plain = sizes.plain(network);
    let config = match format {
        Format::Transformers => transformers::config(&plain, network)?,
        _ => config(&plain, format),
    };
    let original = |name: &str| renumbered(name, "backbone.blocks.", &blocks);
    let mut parts = parts(&vit_specs(sizes), vit_specs(&plain), original, |official| name(official, format));
    for part in parts.iter_mut().filter(|part| part.source.ends_with(".linear.weight")) {
        part.fold_alpha(1, sizes.input_scale);
    }
    if format == Format::Onnx || format == Format::Timm && sizes.registers > 0 {
        position_to_class_token(&mut parts);
    }
    if format == Format::Transformers {
        parts = transformers::parts(parts);
    }
    Ok(PlainNetwork { parts, channels: sizes.channels, image: sizes.image, config })
}

/// Adds the class token's position to it and leaves that out of the position embedding.
fn position_to_class_token(parts: &mut [Part]) {
    let Some(positions) = parts.iter_mut().find(|part| part.name == "pos_embed") else { return };
    let first = positions.clone();
    positions.shape[1] -= 1;
    positions.skipped = 1;
    if let Some(class) = parts.iter_mut().find(|part| part.name == "cls_token") {
        class.plus = Some(Box::new(Part { shape: class.shape.clone(), ..first }));
    }
}

/// A ratio that a constructor which computes `int(width · ratio)` makes `product` of.
fn ratio(product: usize, width: usize) -> f64 {
    let exact = product as f64 / width as f64;
    match (width as f64 * exact) as usize == product {
        true => exact,
        false => (product as f64 + 0.25) / width as f64,
    }
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
        Format::Dinov2 | Format::Poa | Format::Transformers | Format::Onnx => {
            let mut all = shared;
            all["layer_norm_eps"] = json!(decimal(NORM_EPS));
            if sizes.registers > 0 {
                all["num_register_tokens"] = json!(sizes.registers);
            }
            if sizes.ffn == Ffn::SwiGlu {
                all["ffn_layer"] = json!(sizes.ffn.name());
                let hidden = sizes.hidden(sizes.width);
                if hidden != sizes.ffn.hidden(sizes.width, sizes.mlp_ratio) {
                    // DINOv2 takes two thirds of it
                    all["mlp_ratio"] = json!(ratio(hidden * 3 / 2, sizes.width));
                }
                if format != Format::Dinov2 {
                    all["swiglu_hidden"] = json!(hidden);
                }
            }
            all
        }
    }
}

/// timm takes what `model_args` does not say from the architecture, whose LayerNorm has our ε.
fn timm(mut model_args: Value, sizes: &VitSizes) -> Value {
    model_args["class_token"] = json!(true);
    model_args["global_pool"] = json!("token");
    if sizes.registers > 0 {
        model_args["reg_tokens"] = json!(sizes.registers);
        model_args["no_embed_class"] = json!(true);
    }
    if sizes.ffn == Ffn::SwiGlu {
        // of gate and value together
        model_args["mlp_ratio"] = json!(ratio(sizes.hidden_columns(sizes.width), sizes.width));
    }
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
    if sizes.ffn == Ffn::SwiGlu {
        return TIMM_SWIGLU[usize::from(sizes.registers > 0)];
    }
    let own = [sizes.width, sizes.depth, sizes.width / sizes.head_dim];
    let difference = |(_, theirs): &&(&str, [usize; 3])| {
        (own.iter().zip(theirs).filter(|(a, b)| a != b).count(), own[0].abs_diff(theirs[0]))
    };
    TIMM.iter().min_by_key(difference).map_or(TIMM[0].0, |(name, _)| name)
}

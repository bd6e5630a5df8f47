//! A sub-network of a Swin as a plain one.
//!
//! Tensors have the names and the order of timm's Swins: patch merging stands at the beginning of a stage and
//! takes its four neighbours column by column. timm expresses a network whose patch embedding is as wide as
//! its first stage and whose blocks alternate between plain and shifted windows; a narrower one is normed
//! over the intact network's channels before it is cut, a shallower one keeps blocks of the third stage with
//! their shifts. For all there are the sizes, and a loader of plain PyTorch in docs/plain_swin.py.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::models::grid::Network;
use crate::models::plain::{Format, Pieces, PlainName, PlainNetwork, decimal, first_conv, parts, renumbered};
use crate::models::swin::transformers;
use crate::models::swin::{NORM_EPS, SwinShape, swin_specs};

/// The neighbours of a patch merging, row by row, as timm has them: column by column.
const NEIGHBOURS: [usize; 4] = [0, 2, 1, 3];

/// How a plain network has the parameter of this official name. The mask token is left out for timm, the
/// norms between the stages, which nothing uses, for all.
pub(super) fn name(official: &str, format: Format) -> Option<PlainName> {
    let name = official.strip_prefix("backbone.")?;
    let levels: Vec<&str> = name.split('.').collect();
    let neighbours = |axis| Some(Pieces::all(axis, NEIGHBOURS));
    let merging = |stage: &str| Some(stage.parse::<usize>().ok()? + 1);
    let (name, pieces) = match levels[..] {
        ["mask_token"] if format.is_named_as_timm() || format == Format::Transformers => return None,
        ["norm0" | "norm1" | "norm2", ..] => return None,
        ["norm3", "norm", part] => (format!("norm.{part}"), None),
        ["patch_embed", "norm", "norm", part] => (format!("patch_embed.norm.{part}"), None),
        ["stages", stage, "downsample", "norm", "norm", part] => {
            (format!("layers.{}.downsample.norm.{part}", merging(stage)?), neighbours(0))
        }
        ["stages", stage, "downsample", "reduction", "linear", part] => {
            (format!("layers.{}.downsample.reduction.{part}", merging(stage)?), neighbours(1))
        }
        ["stages", stage, "blocks", block, ref rest @ ..] => {
            let (rest, pieces) = in_block(rest)?;
            (format!("layers.{stage}.blocks.{block}.{rest}"), pieces)
        }
        _ => (name.to_string(), None),
    };
    Some(PlainName { name, pieces })
}

/// A name inside a block.
fn in_block(levels: &[&str]) -> Option<(String, Option<Pieces>)> {
    Some(match levels {
        [norm, "norm", part] => (format!("{norm}.{part}"), None),
        // queries, keys and values are cut each
        ["attn", "w_msa", "qkv", "linear", part] => (format!("attn.qkv.{part}"), Some(Pieces::all(0, 0..3))),
        ["attn", "w_msa", "proj", "linear", part] => (format!("attn.proj.{part}"), None),
        ["attn", "w_msa", table] => (format!("attn.{table}"), None),
        ["ffn", layer, "linear", part] => (format!("mlp.{layer}.{part}"), None),
        _ => return None,
    })
}

/// A sub-network of a Swin of this shape. What the format cannot express is an error.
pub(super) fn network(shape: &SwinShape, network: Network, format: Format) -> Result<PlainNetwork> {
    shape.demand(network)?;
    let plain = shape.plain(network);
    let config = match format {
        Format::Timm => timm(&plain)?,
        Format::Transformers => transformers::config(&plain).or_else(|reason| {
            timm(&plain).map_err(|_| {
                Error::Usage(format!("transformers has no Swin as {network}: {reason}; take --format poa"))
            })
        })?,
        Format::Poa | Format::Onnx => sizes(&plain),
        Format::Dinov2 => {
            return Err(Error::Usage(
                "DINOv2 has no Swins; take --format poa, or timm for the intact one".into(),
            ));
        }
    };
    let kept = shape.block_ids(network);
    let original = |name: &str| {
        let prefix = |stage: usize| format!("backbone.stages.{stage}.blocks.");
        kept.iter().enumerate().find_map(|(stage, ids)| renumbered(name, &prefix(stage), ids))
    };
    let names = |official: &str| name(official, format);
    let mut parts = parts(&swin_specs(shape), swin_specs(&plain), original, names);
    for part in parts.iter_mut().filter(|part| part.source.ends_with(".linear.weight")) {
        part.fold_alpha(1, shape.input_scale);
    }
    if config["model_type"].is_string() {
        parts = transformers::parts(parts);
    }
    Ok(PlainNetwork { parts, channels: shape.channels, image: shape.image, config })
}

fn sizes(s: &SwinShape) -> Value {
    json!({
        "arch": "swin",
        "img_size": s.image,
        "patch_size": s.patch,
        "in_chans": s.channels,
        "patch_embed_dim": s.embedding,
        "embed_dim": s.width,
        "depths": s.depths,
        "shifted": s.shifted,
        "num_heads": s.heads(),
        "window_size": s.window,
        "mlp_ratio": s.mlp_ratio,
        "layer_norm_eps": decimal(NORM_EPS),
    })
}

/// What timm's constructor takes; its LayerNorm has our ε. With `always_partition` a map no larger than a
/// window is shifted as any other.
fn timm(s: &SwinShape) -> Result<Value> {
    if let Some(reason) = beyond_timm(s) {
        return Err(Error::Usage(format!(
            "timm's Swin cannot be {}: {reason}; take --format poa, which docs/plain_swin.py loads, into timm too",
            s.network()
        )));
    }
    let last = s.side(3);
    Ok(json!({
        "architecture": "swin_base_patch4_window7_224",
        "num_features": s.width << 3,
        "global_pool": "avg",
        "model_args": {
            "img_size": s.image,
            "patch_size": s.patch,
            "in_chans": s.channels,
            "embed_dim": s.width,
            "depths": s.depths,
            "num_heads": s.heads(),
            "window_size": s.window,
            "always_partition": true,
            "mlp_ratio": s.mlp_ratio,
        },
        "pretrained_cfg": {
            "fixed_input_size": true,
            "pool_size": [last, last],
            "first_conv": first_conv(s.channels, "patch_embed.proj"),
            "classifier": "head.fc",
        },
    }))
}

/// Why timm's constructor cannot build a network of this shape, if it cannot.
fn beyond_timm(s: &SwinShape) -> Option<String> {
    let uneven = |stage: usize| s.shifted[stage].contains(&true) && !s.side(stage).is_multiple_of(s.window);
    if let Some(reason) = s.irregularity() {
        return Some(reason);
    }
    let stage = (0..4).find(|stage| uneven(*stage))?;
    Some(format!(
        "it pads a map after the shift instead of before, and maps of {} cells are no multiple of windows of {}",
        s.side(stage),
        s.window
    ))
}

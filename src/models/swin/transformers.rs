//! A plain Swin as Hugging Face's transformers has it: their `SwinModel`. Names are those of the files on the hub, which all
//! versions of the library read.

use serde_json::{Value, json};

use crate::models::plain::{Part, decimal};
use crate::models::swin::{NORM_EPS, SwinShape};

/// timm's name of a tensor in a block, or the beginning of it, and theirs.
const INSIDE: [(&str, &str); 6] = [
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("attn.proj.", "attention.output.dense."),
    ("attn.relative_position_bias_table", "attention.self.relative_position_bias_table"),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
];
/// Pieces of timm's `attn.qkv`.
const ATTENTION: [&str; 3] = ["query", "key", "value"];

/// The parts under their names. Patch merging stands at the end of a stage, where timm has it at the beginning of the next.
pub(super) fn parts(parts: Vec<Part>) -> Vec<Part> {
    parts.into_iter().flat_map(renamed).collect()
}

fn renamed(part: Part) -> Vec<Part> {
    let levels: Vec<&str> = part.name.split('.').collect();
    let name = match levels[..] {
        ["patch_embed", "proj", kind] => format!("embeddings.patch_embeddings.projection.{kind}"),
        ["patch_embed", "norm", kind] => format!("embeddings.norm.{kind}"),
        ["norm", kind] => format!("layernorm.{kind}"),
        ["layers", stage, "downsample", layer, kind] => {
            let before = stage.parse::<usize>().map_or(0, |stage| stage.saturating_sub(1));
            format!("encoder.layers.{before}.downsample.{layer}.{kind}")
        }
        ["layers", stage, "blocks", block, ref rest @ ..] => {
            let at = format!("encoder.layers.{stage}.blocks.{block}");
            if let ["attn", "qkv", kind] = rest {
                let name = |of| format!("{at}.attention.self.{of}.{kind}");
                return ATTENTION.iter().enumerate().map(|(k, of)| part.piece(k, name(of))).collect();
            }
            let rest = rest.join(".");
            let begin = |(ours, theirs): &(&str, &str)| Some(format!("{theirs}{}", rest.strip_prefix(ours)?));
            format!("{at}.{}", INSIDE.iter().find_map(begin).unwrap_or_else(|| rest.clone()))
        }
        _ => part.name.clone(),
    };
    vec![Part { name, ..part }]
}

/// What their constructor takes, or why it cannot build this network. It pads a map before the shift, as we do, but makes a
/// window of a map that is no larger than one, which it does not shift.
pub(super) fn config(s: &SwinShape) -> Result<Value, String> {
    if let Some(reason) = s.irregularity() {
        return Err(reason);
    }
    let small = |stage: &usize| match s.side(*stage) {
        side if side < s.window => true,
        side => side == s.window && s.shifted[*stage].contains(&true),
    };
    if let Some(stage) = (0..4).find(small) {
        return Err(format!(
            "it neither shifts nor pads the windows of maps of {} cells, which are no larger than windows of {}",
            s.side(stage),
            s.window
        ));
    }
    Ok(json!({
        "architectures": ["SwinModel"],
        "model_type": "swin",
        "dtype": "float32",
        "image_size": s.image,
        "patch_size": s.patch,
        "num_channels": s.channels,
        "embed_dim": s.width,
        "hidden_size": s.width << 3,
        "depths": s.depths,
        "num_heads": s.heads(),
        "window_size": s.window,
        "mlp_ratio": s.mlp_ratio,
        "qkv_bias": true,
        "hidden_act": "gelu",
        "layer_norm_eps": decimal(NORM_EPS),
        "use_absolute_embeddings": false,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "initializer_range": 0.02,
    }))
}

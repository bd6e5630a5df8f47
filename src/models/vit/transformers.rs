//! A plain ViT as Hugging Face's transformers has it: their `Dinov2Model`, or with registers `Dinov2WithRegistersModel`. Names
//! are those of the files on the hub, which all versions of the library read.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::models::grid::Network;
use crate::models::plain::{Part, decimal};
use crate::models::vit::ffn::Ffn;
use crate::models::vit::sizes::{NORM_EPS, VitSizes};

/// DINOv2's name of a tensor outside of blocks, or the beginning of it, and theirs.
const OUTSIDE: [(&str, &str); 6] = [
    ("cls_token", "embeddings.cls_token"),
    ("register_tokens", "embeddings.register_tokens"),
    ("mask_token", "embeddings.mask_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("norm.", "layernorm."),
];
/// The same inside of a block. Of gate and value they make two layers themselves.
const INSIDE: [(&str, &str); 5] = [
    ("attn.proj.", "attention.output.dense."),
    ("ls1.gamma", "layer_scale1.lambda1"),
    ("ls2.gamma", "layer_scale2.lambda1"),
    ("mlp.w12.", "mlp.weights_in."),
    ("mlp.w3.", "mlp.weights_out."),
];
/// Pieces of DINOv2's `attn.qkv`.
const ATTENTION: [&str; 3] = ["query", "key", "value"];

/// The largest ratio of hidden to outer channels that is tried for SwiGLU, whose constructor takes whole ones.
const RATIOS: usize = 64;

/// The parts under their names.
pub(super) fn parts(parts: Vec<Part>) -> Vec<Part> {
    let renamed = |part: Part| {
        let Some((block, rest)) = part.name.strip_prefix("blocks.").and_then(|name| name.split_once('.'))
        else {
            let name = replaced(&part.name, &OUTSIDE);
            return vec![Part { name, ..part }];
        };
        let layer = format!("encoder.layer.{block}");
        if let Some(kind) = rest.strip_prefix("attn.qkv.") {
            let name = |of| format!("{layer}.attention.attention.{of}.{kind}");
            return ATTENTION.iter().enumerate().map(|(k, of)| part.piece(k, name(of))).collect();
        }
        let name = format!("{layer}.{}", replaced(rest, &INSIDE));
        vec![Part { name, ..part }]
    };
    parts.into_iter().flat_map(renamed).collect()
}

fn replaced(name: &str, table: &[(&str, &str)]) -> String {
    let begin = |(ours, theirs): &(&str, &str)| Some(format!("{theirs}{}", name.strip_prefix(ours)?));
    table.iter().find_map(begin).unwrap_or_else(|| name.to_string())
}

/// What their constructor takes. A SwiGLU whose hidden width it does not compute is an error.
pub(super) fn config(sizes: &VitSizes, network: Network) -> Result<Value> {
    let hidden = sizes.hidden(sizes.width);
    let ratio = match sizes.ffn {
        Ffn::Mlp => sizes.mlp_ratio,
        Ffn::SwiGlu => {
            (1..=RATIOS).find(|ratio| sizes.ffn.hidden(sizes.width, *ratio) == hidden).ok_or_else(|| {
                Error::Usage(format!(
                    "{network} has {hidden} hidden channels in its SwiGLU, and transformers makes two thirds of a whole \
                     multiple of its {} channels, rounded up to a multiple of 8; give --format timm or poa",
                    sizes.width
                ))
            })?
        }
    };
    let (class, kind) = match sizes.registers {
        0 => ("Dinov2Model", "dinov2"),
        _ => ("Dinov2WithRegistersModel", "dinov2_with_registers"),
    };
    let mut all = json!({
        "architectures": [class],
        "model_type": kind,
        "dtype": "float32",
        "image_size": sizes.image,
        "patch_size": sizes.patch,
        "num_channels": sizes.channels,
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.width / sizes.head_dim,
        "mlp_ratio": ratio,
        "use_swiglu_ffn": sizes.ffn == Ffn::SwiGlu,
        "qkv_bias": true,
        "hidden_act": "gelu",
        "layer_norm_eps": decimal(NORM_EPS),
        "layerscale_value": decimal(sizes.layerscale),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0,
        "initializer_range": 0.02,
    });
    if sizes.registers > 0 {
        all["num_register_tokens"] = json!(sizes.registers);
    }
    Ok(all)
}

//! The `config.json` beside an extracted network.

use serde_json::{Value, json};

use crate::data::augment::{MEAN, STD};
use crate::models::grid::Network;
use crate::models::vit::{NORM_EPS, VitSizes};
use crate::weights::names::Format;

/// timm's plain ViTs of 224 pixels with patches of 16, by width, depth and heads.
const TIMM: [(&str, [usize; 3]); 4] = [
    ("vit_tiny_patch16_224", [192, 12, 3]),
    ("vit_small_patch16_224", [384, 12, 6]),
    ("vit_base_patch16_224", [768, 12, 12]),
    ("vit_large_patch16_224", [1024, 24, 16]),
];

/// Share of the resized image that evaluation keeps: 224 of 256 pixels.
pub(super) const CROP: f64 = 0.875;

/// What `config.json` says of a plain network of these sizes.
pub fn describe(format: Format, sizes: &VitSizes) -> Value {
    let network = Network::new(sizes.width, sizes.depth);
    let shared = json!({
        "img_size": sizes.image,
        "patch_size": sizes.patch,
        "embed_dim": sizes.width,
        "depth": sizes.depth,
        "num_heads": sizes.width / sizes.head_dim,
        "mlp_ratio": sizes.mlp_ratio,
        "qkv_bias": true,
        "init_values": decimal(sizes.layerscale),
    });
    match format {
        Format::Timm => timm(shared, sizes, network),
        Format::Dinov2 | Format::Poa => {
            let mut all = shared;
            all["format"] = json!(format.name());
            all["layer_norm_eps"] = json!(decimal(NORM_EPS));
            all["mean"] = json!(MEAN.map(decimal));
            all["std"] = json!(STD.map(decimal));
            all["poa_network"] = json!(network.to_string());
            all
        }
    }
}

/// The form of Hugging Face's hub. timm takes what `model_args` does not say from the architecture, whose LayerNorm
/// has our ε.
fn timm(mut model_args: Value, sizes: &VitSizes, network: Network) -> Value {
    model_args["class_token"] = json!(true);
    model_args["global_pool"] = json!("token");
    json!({
        "architecture": architecture(sizes),
        "num_classes": 0,
        "num_features": sizes.width,
        "global_pool": "token",
        "model_args": model_args,
        "poa_network": network.to_string(),
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, sizes.image, sizes.image],
            "fixed_input_size": true,
            "pool_size": null,
            "crop_pct": CROP,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": MEAN.map(decimal),
            "std": STD.map(decimal),
            "first_conv": "patch_embed.proj",
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

/// The 64-bit float that is written as the 32-bit one is: 0.485, not 0.48500001430511475.
pub(super) fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

//! The `config.json` beside an extracted ResNet.
//!
//! Tensors have the names of torchvision's and timm's ResNets. timm expresses a ResNet with 64 channels after the first
//! convolution, 32 groups a norm and strides of 1, 2, 2, 2 (`resnet50_gn` with other `layers`, `base_width` and `channels`);
//! for others there are the sizes alone, and a loader of plain PyTorch in docs/extracted-resnets.md.

use serde_json::{Value, json};

use crate::data::augment::{MEAN, STD};
use crate::error::{Error, Result};
use crate::models::resnet::{NORM_EPS, ResNetShape, STAGES};
use crate::weights::describe::{CROP, decimal};
use crate::weights::names::Format;

/// What `config.json` says of a plain network of these sizes. What the format cannot express is an error.
pub fn describe_resnet(format: Format, s: &ResNetShape) -> Result<Value> {
    let stages = |of: &dyn Fn(usize) -> usize| (0..STAGES).map(of).collect::<Vec<_>>();
    let network = s.network().to_string();
    match format {
        Format::Dinov2 => {
            Err(Error::Usage("DINOv2 has no ResNets; take --format timm or --format poa".into()))
        }
        Format::Poa => Ok(json!({
            "format": format.name(),
            "arch": "resnet_gn",
            "img_size": s.image,
            "stem_channels": s.stem,
            "depths": s.depths,
            "strides": s.strides,
            "middle_channels": stages(&|stage| s.middle(stage)),
            "out_channels": stages(&|stage| s.outputs(stage)),
            "num_groups": s.groups,
            "group_norm_eps": decimal(NORM_EPS),
            "mean": MEAN.map(decimal),
            "std": STD.map(decimal),
            "poa_network": network,
        })),
        Format::Timm => timm(s, &stages(&|stage| s.outputs(stage) / 4), &network),
    }
}

/// The form of Hugging Face's hub. A middle layer of timm has planes · base_width / 64 channels.
fn timm(s: &ResNetShape, channels: &[usize], network: &str) -> Result<Value> {
    let whole = (64 * s.middle).is_multiple_of(channels[0]);
    if s.stem != 64 || s.groups != 32 || s.strides != [1, 2, 2, 2] || !whole {
        return Err(Error::Usage(format!(
            "timm's ResNets have 64 channels after the first convolution and 32 groups a norm, this one {} and {}; \
             take --format poa",
            s.stem, s.groups
        )));
    }
    Ok(json!({
        "architecture": "resnet50_gn",
        "num_classes": 0,
        "num_features": s.outputs(STAGES - 1),
        "global_pool": "avg",
        "model_args": {
            "layers": s.depths,
            "base_width": 64 * s.middle / channels[0],
            "channels": channels,
        },
        "poa_network": network,
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, s.image, s.image],
            "pool_size": [s.image / 32, s.image / 32],
            "crop_pct": CROP,
            "crop_mode": "center",
            "interpolation": "bicubic",
            "mean": MEAN.map(decimal),
            "std": STD.map(decimal),
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }))
}

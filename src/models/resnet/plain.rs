//! A sub-network of a ResNet as a plain one.
//!
//! Tensors have the names of torchvision's and timm's ResNets. timm expresses a ResNet with 64 channels after
//! the first convolution, 32 groups a norm and strides of 1, 2, 2, 2 (`resnet50_gn` with other `layers`,
//! `base_width` and `channels`); for others there are the sizes alone, and a loader of plain PyTorch in
//! docs/extracted-resnets.md.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::models::grid::{Network, block_ids};
use crate::models::plain::{Format, PlainName, PlainNetwork, decimal, first_conv, parts, renumbered};
use crate::models::resnet::settings::STAGES;
use crate::models::resnet::sizes::{NORM_EPS, ResNetShape, resnet_specs};

/// How a plain network has the parameter of this official name: without the levels of elastic layers, norms
/// as `bn`.
pub(super) fn name(official: &str, format: Format) -> Option<PlainName> {
    let name = official.strip_prefix("backbone.")?;
    if (format.is_named_as_timm() || format == Format::Transformers) && name == "mask_token" {
        return None;
    }
    let norm = |name: &str| match name.strip_prefix("norm") {
        Some(number) => format!("bn{number}"),
        None => name.to_string(),
    };
    let levels: Vec<&str> = name.split('.').collect();
    Some(PlainName::new(match levels[..] {
        ["norm1", part] => format!("bn1.{part}"),
        [stage, "layers", block, layer, ref rest @ ..] => {
            let rest: Vec<&str> = rest.iter().copied().filter(|level| *level != "conv").collect();
            format!("{stage}.{block}.{}.{}", norm(layer), rest.join("."))
        }
        _ => name.to_string(),
    }))
}

/// A sub-network of a ResNet of this shape. What the format cannot express is an error.
pub(super) fn network(shape: &ResNetShape, network: Network, format: Format) -> Result<PlainNetwork> {
    shape.demand(network)?;
    let plain = shape.plain(network);
    let config = config(&plain, format)?;
    let blocks: Vec<Vec<usize>> =
        shape.depths.iter().zip(network.stages).map(|(most, depth)| block_ids(*most, depth)).collect();
    let original = |name: &str| {
        let prefix = |stage: usize| format!("backbone.layer{}.layers.", stage + 1);
        blocks.iter().enumerate().find_map(|(stage, ids)| renumbered(name, &prefix(stage), ids))
    };
    let names = |official: &str| name(official, format);
    let mut parts = parts(&resnet_specs(shape), resnet_specs(&plain), original, names);
    let elastic = [".conv2.conv.weight", ".conv3.conv.weight"];
    for part in parts.iter_mut().filter(|part| elastic.iter().any(|end| part.source.ends_with(end))) {
        part.fold_alpha(1, shape.input_scale);
    }
    Ok(PlainNetwork { parts, channels: shape.channels, image: shape.image, config })
}

fn config(s: &ResNetShape, format: Format) -> Result<Value> {
    let stages = |of: &dyn Fn(usize) -> usize| (0..STAGES).map(of).collect::<Vec<_>>();
    match format {
        Format::Dinov2 => {
            Err(Error::Usage("DINOv2 has no ResNets; take --format timm or --format poa".into()))
        }
        Format::Poa | Format::Onnx => Ok(json!({
            "arch": "resnet_gn",
            "img_size": s.image,
            "in_chans": s.channels,
            "stem_channels": s.stem,
            "depths": s.depths,
            "strides": s.strides,
            "middle_channels": stages(&|stage| s.middle(stage)),
            "out_channels": stages(&|stage| s.outputs(stage)),
            "num_groups": s.groups,
            "group_norm_eps": decimal(NORM_EPS),
        })),
        // transformers' own ResNets have BatchNorm; its wrapper loads timm's
        Format::Timm | Format::Transformers => timm(s, &stages(&|stage| s.outputs(stage) / 4)),
    }
}

/// A middle layer of timm has planes · base_width / 64 channels.
fn timm(s: &ResNetShape, channels: &[usize]) -> Result<Value> {
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
        "num_features": s.outputs(STAGES - 1),
        "global_pool": "avg",
        "model_args": {
            "in_chans": s.channels,
            "layers": s.depths,
            "base_width": 64 * s.middle / channels[0],
            "channels": channels,
        },
        "pretrained_cfg": {
            "pool_size": [s.image / 32, s.image / 32],
            "first_conv": first_conv(s.channels, "conv1"),
            "classifier": "fc",
        },
    }))
}

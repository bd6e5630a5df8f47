//! The sizes of an extracted network, from the `config.json` beside it.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::models::{Student, vit};
use crate::weights::extract::CONFIG;

/// What the folder of an extracted network says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Settings of which it is the only network.
    pub student: Student,
    /// Side of its images, pixels.
    pub image: usize,
    /// Mean of every channel of them; empty where it does not say.
    pub mean: Vec<f64>,
    /// Standard deviation of every channel.
    pub std: Vec<f64>,
}

/// A ViT in the folder of an extracted network. `None` where there is no `config.json`, and for what is no ViT with a plain perceptron: its sizes have to be
/// given.
pub fn student_in(dir: &Path) -> Result<Option<Described>> {
    let path = dir.join(CONFIG);
    if !path.is_file() {
        return Ok(None);
    }
    let read = |e: &dyn std::fmt::Display| Error::file(&path, format!("cannot be read: {e}"));
    let text = std::fs::read_to_string(&path).map_err(|e| read(&e))?;
    let all: Value = serde_json::from_str(&text).map_err(|e| read(&e))?;
    // timm's constructor gets them as arguments, other formats have them beside all else
    let sizes = if all["model_args"].is_object() { &all["model_args"] } else { &all };
    let number = |key: &str| sizes[key].as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    let (Some(width), Some(depth), Some(heads), Some(patch), Some(image), Some(ratio)) = (
        number("embed_dim"),
        number("depth"),
        number("num_heads"),
        number("patch_size"),
        number("img_size"),
        number("mlp_ratio"),
    ) else {
        return Ok(None);
    };
    if !width.is_multiple_of(heads) || sizes["ffn_layer"].as_str().is_some_and(|name| name != "mlp") {
        return Ok(None);
    }
    let mut settings = vit::Settings { min_depth: depth, max_depth: depth, ..vit::Settings::default() };
    (settings.attention.min_embed_dim, settings.attention.max_embed_dim) = (width, width);
    (settings.attention.head_dim, settings.attention.mlp_ratio) = (width / heads, ratio);
    settings.elastic.patch_size = patch;
    settings.elastic.in_chans = number("in_chans").unwrap_or(3);
    settings.num_register_tokens =
        number("reg_tokens").or_else(|| number("num_register_tokens")).unwrap_or(0);
    let images = if all["pretrained_cfg"].is_object() { &all["pretrained_cfg"] } else { &all };
    let values = |key: &str| -> Vec<f64> {
        images[key].as_array().map_or_else(Vec::new, |all| all.iter().filter_map(Value::as_f64).collect())
    };
    Ok(Some(Described { student: Student::Vit(settings), image, mean: values("mean"), std: values("std") }))
}

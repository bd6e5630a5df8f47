//! What Hugging Face's transformers reads beside the tensors of a network for it: how images are prepared, and the names of
//! the classes. What its constructors take, the backbone says.

use serde_json::{Map, Value, json};

use crate::data::Normalization;
use crate::models::plain::{PlainNetwork, decimal};

/// File that says how images are prepared.
pub const PREPROCESSOR: &str = "preprocessor_config.json";

/// Whether a class of transformers itself loads a network with this `config.json`, and not its wrapper of timm, which reads
/// timm's.
pub fn is_native(config: &Value) -> bool {
    config["model_type"].is_string()
}

/// Adds what `config.json` says of the classes of a network with a classifier.
pub fn add_classes(config: &mut Value, classes: &[String]) {
    if classes.is_empty() || !is_native(config) {
        return;
    }
    if let Some(class) = config["architectures"][0].as_str().and_then(|class| class.strip_suffix("Model")) {
        config["architectures"] = json!([format!("{class}ForImageClassification")]);
    }
    let names = classes.iter().enumerate();
    let by_number: Map<String, Value> = names.clone().map(|(k, name)| (k.to_string(), json!(name))).collect();
    let by_name: Map<String, Value> = names.map(|(k, name)| (name.clone(), json!(k))).collect();
    config["id2label"] = by_number.into();
    config["label2id"] = by_name.into();
}

/// What stands before the names of the backbone's tensors beside a classifier.
pub fn prefix(config: &Value) -> Option<String> {
    Some(format!("{}.", config["model_type"].as_str()?))
}

/// The classifier of a class of transformers, of one `[classes, width]`: DINOv2's reads the mean patch token too, which gets
/// zeros.
pub fn widened(config: &Value, weight: &[f32], width: usize) -> Vec<f32> {
    match config["model_type"].as_str() {
        Some(kind) if kind.starts_with("dinov2") => {
            let row = |row: &[f32]| row.iter().copied().chain(vec![0.0; width]).collect::<Vec<_>>();
            weight.chunks(width.max(1)).flat_map(row).collect()
        }
        _ => weight.to_vec(),
    }
}

/// How images are prepared: the short side resized to 256/224 of the size, the centre cut out, as evaluation does.
pub fn preprocessor(plain: &PlainNetwork, normalization: &Normalization) -> Value {
    let decimals = |values: &[f32]| values.iter().copied().map(decimal).collect::<Vec<_>>();
    json!({
        "image_processor_type": "BitImageProcessor",
        "do_resize": true,
        "size": { "shortest_edge": plain.image * 256 / 224 },
        "resample": 3,
        "do_center_crop": true,
        "crop_size": { "height": plain.image, "width": plain.image },
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": decimals(normalization.mean()),
        "image_std": decimals(normalization.std()),
        "do_convert_rgb": plain.channels == 3,
    })
}

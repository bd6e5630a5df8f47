//! The `config.json` beside an extracted network.

use serde_json::{Value, json};

use crate::data::Normalization;
use crate::models::grid::Network;
use crate::models::plain::{Format, PlainNetwork, decimal};
use crate::weights::transformers;

/// Share of the resized image that evaluation keeps: 224 of 256 pixels.
pub(super) const CROP: f64 = 0.875;

/// What `config.json` says of a plain network: what its backbone does, its name, and how images are
/// normalised; of one with a classifier the names of its classes. For timm it has the form of Hugging Face's hub.
pub fn describe(
    plain: &PlainNetwork,
    network: Network,
    format: Format,
    normalization: &Normalization,
    classes: &[String],
) -> Value {
    let images = json!({ "mean": decimals(normalization.mean()), "std": decimals(normalization.std()) });
    let mut all = plain.config.clone();
    all["poa_network"] = json!(network.to_string());
    match format {
        Format::Transformers if transformers::is_native(&all) => {
            transformers::add_classes(&mut all, classes);
            return all;
        }
        Format::Timm | Format::Transformers => {
            let shared = json!({
                "num_classes": classes.len(),
                "input_size": [plain.channels, plain.image, plain.image],
                "crop_pct": CROP,
                "crop_mode": "center",
                "interpolation": "bicubic",
            });
            all["num_classes"] = json!(classes.len());
            add(&mut all["pretrained_cfg"], shared);
            add(&mut all["pretrained_cfg"], images);
        }
        Format::Dinov2 | Format::Poa | Format::Onnx => {
            all["format"] = json!(format.name());
            add(&mut all, images);
        }
    }
    if !classes.is_empty() {
        all["label_names"] = json!(classes);
    }
    all
}

fn decimals(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(decimal).collect()
}

fn add(to: &mut Value, more: Value) {
    if let (Value::Object(to), Value::Object(more)) = (to, more) {
        to.extend(more);
    }
}

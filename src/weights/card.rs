//! The model card beside an extracted network: a `README.md` as Hugging Face's hub shows it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::data::Normalization;
use crate::models::backbone::Cost;
use crate::models::grid::Network;
use crate::models::plain::{Format, PlainNetwork, decimal};
use crate::shown::shown;
use crate::weights::transformers::is_native;

/// File of the card in the folder of an extracted network.
pub const CARD: &str = "README.md";
/// What a card begins with after its front matter. A file without it is someone else's.
const MARK: &str = "<!-- poa-gpu extract wrote this card; it is replaced as long as this line is here -->";
/// Names of classes that a card lists.
const LISTED: usize = 100;

/// What a card says of a network.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Which sub-network it is.
    pub network: Network,
    /// For whom it is.
    pub format: Format,
    /// Its sizes and tensors.
    pub plain: &'a PlainNetwork,
    /// How its images are normalised.
    pub normalization: &'a Normalization,
    /// The names of its classes, where it has a classifier.
    pub classes: &'a [String],
    /// Its parameters and operations at its size of images.
    pub cost: Cost,
    /// Width of its features.
    pub width: usize,
    /// The run it comes from, where that is known.
    pub run: Option<RunFacts>,
}

/// What a card says of the run that a network comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct RunFacts {
    /// The name of its folder.
    pub name: String,
    /// The family, as `student.arch` has it.
    pub arch: String,
    /// The intact network.
    pub intact: Network,
    /// Where its images came from, as a recipe has it. The card leaves out the folders that it lies in.
    pub data: String,
    /// Steps that were done.
    pub steps: u64,
    /// Images that were trained on, each as often as it was.
    pub seen: Option<u64>,
    /// The run's seed.
    pub seed: u64,
    /// Number of neighbours and k-NN accuracy of this very network, from 0 to 1, with the steps done before.
    pub knn: Vec<(u64, usize, f64)>,
}

/// Whether the card of a folder may be written: there is none yet, or one of ours.
pub fn may_write(dir: &Path) -> bool {
    let path = dir.join(CARD);
    match fs::symlink_metadata(&path) {
        Err(_) => true,
        // what is not read as text is not ours
        Ok(_) => fs::read_to_string(&path).is_ok_and(|text| text.contains(MARK)),
    }
}

/// The text of a card.
pub fn card(facts: &Facts) -> String {
    let mut text = front_matter(facts);
    let title = match &facts.run {
        Some(run) => format!("{} of {}", facts.network, markdown(&run.name)),
        None => facts.network.to_string(),
    };
    // writing to a string cannot fail
    let _ = write!(text, "\n{MARK}\n\n# {title}\n\n{}\n\n", introduction(facts));
    text += &sizes(facts);
    text += &training(facts);
    text += &classes(facts.classes);
    let _ = write!(text, "## Use\n\n{}", usage(facts));
    text
}

fn front_matter(facts: &Facts) -> String {
    let task = if facts.classes.is_empty() { "image-feature-extraction" } else { "image-classification" };
    let library = match facts.format {
        Format::Timm => "timm",
        Format::Transformers => "transformers",
        Format::Onnx => "onnx",
        Format::Dinov2 | Format::Poa => "pytorch",
    };
    format!(
        "---\n\
         # yours to choose: https://huggingface.co/docs/hub/repositories-licenses\n\
         license: unknown\n\
         library_name: {library}\n\
         pipeline_tag: {task}\n\
         tags:\n- self-supervised-learning\n- image-feature-extraction\n- poa\n- poa-gpu\n\
         ---\n"
    )
}

fn introduction(facts: &Facts) -> String {
    let family = match &facts.run {
        Some(run) => format!("{} ", family(&run.arch)),
        None => String::new(),
    };
    let of = match &facts.run {
        Some(run) if run.intact != facts.network => {
            format!(", a sub-network of an elastic network of {}", run.intact)
        }
        _ => String::new(),
    };
    format!(
        "A {family}backbone of size {}{of}, trained without labels by [POA](https://arxiv.org/abs/2408.01031) with \
         [poa-gpu](https://crates.io/crates/poa-gpu) and written by `poa-gpu extract --format {}`.",
        facts.network, facts.format
    )
}

fn family(arch: &str) -> &str {
    match arch {
        _ if arch.starts_with("vit") => "ViT",
        _ if arch.starts_with("swin") => "Swin",
        _ if arch.starts_with("resnet") => "ResNet",
        _ => arch,
    }
}

fn sizes(facts: &Facts) -> String {
    let Facts { plain, normalization, cost, .. } = facts;
    let list = |values: &[f32]| {
        values.iter().map(|value| decimal(*value).to_string()).collect::<Vec<_>>().join(", ")
    };
    let rows = [
        ("size", facts.network.to_string()),
        ("features", facts.width.to_string()),
        ("parameters", cost.parameters.to_string()),
        ("operations", format!("{:.3} GFLOPs an image of {} pixels", cost.flops as f64 / 1e9, plain.image)),
        ("images", format!("{} channels, {1}x{1} pixels", plain.channels, plain.image)),
        (
            "preparation",
            format!(
                "short side to {} pixels (bicubic), centre of {}, values divided by 255",
                plain.image * 256 / 224,
                plain.image
            ),
        ),
        ("mean", list(normalization.mean())),
        ("std", list(normalization.std())),
    ];
    table("The network", &rows)
}

fn training(facts: &Facts) -> String {
    let Some(run) = &facts.run else { return String::new() };
    let mut rows = vec![
        ("run", run.name.clone()),
        ("architecture", run.arch.clone()),
        ("intact network", run.intact.to_string()),
        ("data", without_folders(&run.data)),
        ("steps", run.steps.to_string()),
    ];
    rows.extend(run.seen.map(|seen| ("images seen", seen.to_string())));
    rows.push(("seed", run.seed.to_string()));
    let mut text = table("Training", &rows.iter().map(|(k, v)| (*k, v.clone())).collect::<Vec<_>>());
    if !run.knn.is_empty() {
        text += "### k-NN accuracy on the run's held-out images\n\n| after steps | k | top-1 |\n|---:|---:|---:|\n";
        for (step, k, top1) in &run.knn {
            let _ = writeln!(text, "| {step} | {k} | {:.1}% |", 100.0 * top1);
        }
        text.push('\n');
    }
    text
}

fn classes(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let listed: Vec<String> = names.iter().take(LISTED).map(|name| markdown(name)).collect();
    let more = if names.len() > LISTED { ", … (all are in config.json)" } else { "" };
    format!("## Classes\n\n{}: {}{more}\n\n", names.len(), listed.join(", "))
}

fn table(title: &str, rows: &[(&str, String)]) -> String {
    let mut text = format!("## {title}\n\n| | |\n|---|---|\n");
    for (name, value) in rows {
        let _ = writeln!(text, "| {name} | {} |", markdown(value));
    }
    text.push('\n');
    text
}

/// A foreign text as Markdown shows it as it is, on one line.
fn markdown(text: &str) -> String {
    let special = |c: char| "\\`*_{}[]<>#|!~$&".contains(c);
    let one_line = shown(text).to_string();
    one_line.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

/// Where data came from, without the folders it lies in: these are nobody's business.
fn without_folders(spec: &str) -> String {
    let last = |path: &str| {
        path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default().to_string()
    };
    match spec.rsplit_once(':') {
        // a drive's letter is no kind of data
        Some((kind, path)) => format!("{}:{}", kind.split(':').next().unwrap_or_default(), last(path)),
        None => last(spec),
    }
}

fn usage(facts: &Facts) -> String {
    let config: &Value = &facts.plain.config;
    match facts.format {
        Format::Timm => "In this folder:\n\n```python\n\
            import timm\n\n\
            model = timm.create_model(\"local-dir:.\", pretrained=True).eval()\n\
            prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n\
            features = model(prepare(image).unsqueeze(0))  # of a PIL image\n```\n"
            .into(),
        Format::Transformers => {
            let class =
                if facts.classes.is_empty() { "AutoModel" } else { "AutoModelForImageClassification" };
            let result = if facts.classes.is_empty() { "pooler_output" } else { "logits" };
            let pooled = match (is_native(config), facts.classes.is_empty()) {
                // the last two axes of maps are of length one or left out
                (_, true) => format!("model(**inputs).{result}.flatten(1)"),
                _ => format!("model(**inputs).{result}"),
            };
            let note = match is_native(config) {
                true => "",
                false => {
                    "transformers loads this network by its wrapper of timm, which has to be installed. "
                }
            };
            format!(
                "{note}In this folder:\n\n```python\n\
                 from transformers import AutoImageProcessor, {class}\n\n\
                 model = {class}.from_pretrained(\".\").eval()\n\
                 prepare = AutoImageProcessor.from_pretrained(\".\")\n\
                 inputs = prepare(image, return_tensors=\"pt\")  # of a PIL image\n\
                 result = {pooled}\n```\n"
            )
        }
        Format::Onnx => {
            let (result, of) = match facts.classes.is_empty() {
                true => ("cls", "class token; patch_tokens are the parts of the image"),
                false => ("logits", "classes"),
            };
            format!(
                "In this folder, with images prepared as above:\n\n```python\n\
                 import onnxruntime\n\n\
                 model = onnxruntime.InferenceSession(\"model.onnx\")\n\
                 [result] = model.run([\"{result}\"], {{\"images\": images}})  # float32 [batch, {}, height, width]; {of}\n```\n",
                facts.plain.channels
            )
        }
        Format::Dinov2 | Format::Poa => {
            "The tensors are in `model.safetensors`, the sizes in `config.json`. Without a \
            library:\n\n```python\n\
            import json\nfrom safetensors.torch import load_file\n\n\
            tensors = load_file(\"model.safetensors\")\n\
            sizes = json.load(open(\"config.json\"))\n```\n"
                .into()
        }
    }
}

//! A network that was fine-tuned, with its classifier, as `best/` in a run's folder holds it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data::{EvaluationView, Reading};
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;
use crate::models::backbone::Backbone;
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use crate::tasks::finetune::Settings;
use crate::tasks::finetune::evaluation::BEST;
use crate::tensor::{Device, Tensor};
use crate::train::run_folder::CONFIG as RUN_CONFIG;
use crate::weights::extract::{CONFIG, MODEL};
use crate::weights::import::Import;
use crate::weights::sizes::student_in;

/// What reads the settings that a run has stored: recipes, which lie above.
pub type ReadSettings = fn(&str, &Path) -> Result<Settings>;

/// A network with its classifier, ready to be run.
pub struct Tuned {
    /// The folder of the network.
    pub dir: PathBuf,
    /// The network, which has no others.
    pub network: Network,
    /// The names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// How images are shown to it.
    pub view: EvaluationView,
    /// How image files are read.
    pub reading: Reading,
    /// The classifier's weights `[classes, width]`.
    pub weight: Tensor,
    /// The classifier's bias `[classes]`.
    pub bias: Tensor,
    device: Device,
    backbone: Box<dyn Backbone>,
    parameters: Parameters,
}

impl Tuned {
    /// Loads the folder of a run that fine-tunes, or the folder `best` in it, wherever it has been copied to. Of a Swin or
    /// ResNet the run's `config.toml` must be beside it, which has the sizes; `stored` reads it. A network without a classifier is an error.
    pub fn open(path: &Path, device: &Device, stored: ReadSettings) -> Result<Self> {
        let dir = match path.join(BEST).join(CONFIG).is_file() {
            true => path.join(BEST),
            false => path.to_path_buf(),
        };
        let described = dir.join(CONFIG);
        let without = |what: &str| {
            let fix = "give a run of `poa-gpu finetune` or its folder best (a pre-trained run goes to --checkpoint)";
            Error::file(&dir, format!("{what}; {fix}"))
        };
        if !described.is_file() {
            return Err(without("holds no network with a classifier"));
        }
        let text = std::fs::read_to_string(&described);
        let text = text.map_err(|e| Error::file(&described, format!("cannot be read: {e}")))?;
        let about: Value =
            serde_json::from_str(&text).map_err(|e| Error::file(&described, format!("is no JSON: {e}")))?;
        let names = about["label_names"].as_array().into_iter().flatten();
        let classes: Vec<String> = names.filter_map(|name| Some(name.as_str()?.to_string())).collect();
        if classes.is_empty() {
            return Err(without("is a network without a classifier"));
        }
        let settings = settings_of(path, &dir, stored)?;
        let backbone = settings.backbone()?;
        let specs = backbone.specs();
        let values = FlatBuffers::zeros(&FlatLayout::new(&specs, device.max_tensor_bytes())?, device)?;
        Import::open(&dir, &*backbone, &specs)?.fill_all(
            &*backbone,
            &values,
            "section student and finetune.network",
        )?;
        let network = backbone.grid().intact();
        let head = about["pretrained_cfg"]["classifier"].as_str().unwrap_or("head");
        let tensors = TensorFile::open(dir.join(MODEL))?;
        let read = |part: &str, shape: &[usize]| -> Result<Tensor> {
            Tensor::from_slice(device, shape, &tensors.read_f32_as(&format!("{head}.{part}"), shape)?)
        };
        Ok(Self {
            weight: read("weight", &[classes.len(), backbone.feature_width(network)])?,
            bias: read("bias", &[classes.len()])?,
            network,
            classes,
            view: settings.view()?,
            reading: settings.data.data.reading(),
            device: device.clone(),
            parameters: Parameters::frozen(values),
            backbone,
            dir,
        })
    }

    /// The network, to be run.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { device: &self.device, backbone: &*self.backbone, parameters: &self.parameters }
    }
}

/// The settings that a network in `dir` was fine-tuned with, of the run that `path` is or `dir` lies in; without a run
/// those that its `config.json` says.
fn settings_of(path: &Path, dir: &Path, stored: ReadSettings) -> Result<Settings> {
    let beside = dir.parent().filter(|_| dir.ends_with(BEST)).map(|run| run.join(RUN_CONFIG));
    let own = [Some(path.join(RUN_CONFIG)), beside];
    if let Some(config) = own.into_iter().flatten().find(|config| config.is_file()) {
        let text = std::fs::read_to_string(&config);
        let text = text.map_err(|e| Error::file(&config, format!("cannot be read: {e}")))?;
        return stored(&text, &config);
    }
    let described = student_in(dir)?.ok_or_else(|| {
        Error::file(dir, "does not say the sizes of its network in a form that is known; give the run's folder, with its config.toml")
    })?;
    let mut settings = Settings { student: described.student, ..Settings::default() };
    settings.finetune.image_size = described.image;
    (settings.data.data.mean, settings.data.data.std) = (described.mean, described.std);
    Ok(settings)
}

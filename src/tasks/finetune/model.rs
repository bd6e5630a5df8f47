//! A network with a linear classifier, the moving average of both, and their optimiser.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::backbone::{Backbone, CropBatch, Token};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::nn::parameters::{FlatBuffers, FlatLayout, Init, ParameterSpec, Parameters};
use crate::ops::linear::{LinearWeights, linear};
use crate::optim::adamw::{AdamW, Multipliers};
use crate::optim::groups::{LayerRule, param_group};
use crate::tasks::finetune::Settings;
use crate::tensor::{Device, Tensor};
use crate::train::step::Trained;
use crate::weights::import::Import;

/// `[classes, width]`
pub(super) const HEAD_WEIGHT: &str = "head.weight";
/// `[classes]`
pub(super) const HEAD_BIAS: &str = "head.bias";
/// What has no weight decay beside biases, norms and scales.
const NO_DECAY: [&str; 4] = ["cls_token", "pos_embed", "mask_token", "relative_position_bias_table"];

/// All the state of a run that fine-tunes.
pub struct FinetuneModel {
    /// Where it lives.
    pub device: Device,
    /// The network, by itself.
    pub backbone: Box<dyn Backbone>,
    /// Its name.
    pub network: Network,
    /// How many classes there are.
    pub classes: usize,
    /// What is trained.
    pub parameters: Parameters,
    /// The moving average of that: what is judged and written.
    pub average: Parameters,
    /// AdamW.
    pub optimizer: AdamW,
}

impl FinetuneModel {
    /// A model with random weights, drawn from the settings' seed: the classifier's as PyTorch draws a linear layer's.
    pub fn new(settings: &Settings, classes: usize, device: &Device) -> Result<Self> {
        let backbone = settings.backbone()?;
        let network = backbone.grid().intact();
        let width = backbone.feature_width(network);
        let init = Init::Uniform(1.0 / (width as f32).sqrt());
        let mut specs = backbone.specs();
        specs.push(ParameterSpec::new(HEAD_WEIGHT, &[classes, width], init));
        specs.push(ParameterSpec::new(HEAD_BIAS, &[classes], init));
        let layout = FlatLayout::new(&specs, device.max_tensor_bytes())?;
        let mut rng = ChaCha8Rng::seed_from_u64(settings.train.seed);
        let values = FlatBuffers::initialised(&layout, device, &mut rng)?;
        let average = FlatBuffers::zeros(&layout, device)?;
        average.copy_from(&values)?;
        let rule = backbone.layer_rule();
        let multipliers = specs.iter().map(|spec| multipliers(spec, &rule, settings)).collect();
        Ok(Self {
            device: device.clone(),
            network,
            classes,
            parameters: Parameters::trained(values)?,
            average: Parameters::frozen(average),
            optimizer: AdamW::new(&layout, device, settings.adamw(), multipliers)?,
            backbone,
        })
    }

    /// Takes the network's weights from a file; the classifier stays. The file must have all of them, of these sizes, but
    /// for the mask token, which nothing uses. Returns what there is to say.
    pub fn start_from(&mut self, import: &Import) -> Result<String> {
        import.fill_all(&*self.backbone, self.parameters.values(), "section student and finetune.network")?;
        self.average.values().copy_from(self.parameters.values())?;
        self.trained().values_changed()?;
        Ok(import.summary())
    }

    /// What a step trains.
    pub fn trained(&mut self) -> Trained<'_> {
        Trained { parameters: &self.parameters, teacher: Some(&self.average), optimizer: &mut self.optimizer }
    }

    /// The logits `[n, classes]` of normalised images `[n, channels, side, side]`, with stochastic depth where there are
    /// random numbers for it.
    pub fn logits(&self, tape: &Tape, images: &Tensor, drop_path: Option<&mut ChaCha8Rng>) -> Result<Var> {
        let crops = [CropBatch::new(images.clone())];
        let tokens = self.backbone.forward(tape, &self.parameters, self.network, &crops, drop_path)?;
        let cls: Vec<Token> = (0..images.dim(0)).map(|crop| Token::Cls { group: 0, crop }).collect();
        classify(tape, &tokens.features(tape, &cls)?, &self.parameters)
    }

    /// The average of the network, to be judged.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { device: &self.device, backbone: &*self.backbone, parameters: &self.average }
    }

    /// The logits `[n, classes]` that the average of the classifier gives features `[n, width]`.
    pub fn average_logits(&self, features: &Tensor) -> Result<Tensor> {
        let logits = classify(&Tape::no_grad(), &Var::constant(features.clone()), &self.average)?;
        Ok(logits.value().clone())
    }
}

/// The classifier.
fn classify(tape: &Tape, features: &Var, parameters: &Parameters) -> Result<Var> {
    let (weight, bias) = (parameters.operand(HEAD_WEIGHT)?, Some(parameters.var(HEAD_BIAS)?));
    linear(tape, features, &LinearWeights { weight, bias, alpha: 1.0 })
}

/// How one parameter learns: the embeddings slowest, the last norm and the classifier at the full rate (official
/// `poa/eval/utils.py`).
fn multipliers(spec: &ParameterSpec, rule: &LayerRule, settings: &Settings) -> Multipliers {
    let f = &settings.finetune;
    let group = param_group(&spec.name, rule, f.layer_decay, 1.0);
    let matrix = group.wd_multiplier > 0.0 && spec.shape.len() > 1;
    let decays = matrix && !NO_DECAY.iter().any(|part| spec.name.contains(part));
    let learns = !f.freeze || !spec.name.starts_with("backbone.");
    Multipliers {
        lr: if learns { group.lr_multiplier } else { 0.0 },
        weight_decay: f64::from(decays && learns),
        last_layer: false,
    }
}

//! A network with a head on its maps, and their optimiser.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::autograd::Tape;
use crate::error::Result;
use crate::models::backbone::Backbone;
use crate::models::grid::Network;
use crate::nn::parameters::{FlatBuffers, FlatLayout, ParameterSpec, Parameters};
use crate::optim::adamw::{AdamW, Multipliers};
use crate::optim::groups::{LayerRule, param_group};
use crate::tasks::segment::Settings;
use crate::tasks::segment::heads::{self, Head, Logits, Mode, Running};
use crate::tensor::{Device, Tensor};
use crate::train::step::Trained;
use crate::weights::import::Import;

/// What has no weight decay beside vectors.
const NO_DECAY: [&str; 4] = ["cls_token", "pos_embed", "mask_token", "relative_position_bias_table"];

/// All the state of a run that learns to segment.
pub struct SegmentModel {
    /// Where it lives.
    pub device: Device,
    /// The network, by itself.
    pub backbone: Box<dyn Backbone>,
    /// Its name.
    pub network: Network,
    /// How many classes there are.
    pub classes: usize,
    /// The places whose maps the head sees.
    pub places: Vec<usize>,
    /// The head.
    pub head: Box<dyn Head>,
    /// Whether the head alone learns.
    pub frozen: bool,
    /// Network and head.
    pub parameters: Parameters,
    /// The running statistics of the head's norms.
    pub running: Running,
    /// AdamW.
    pub optimizer: AdamW,
}

impl SegmentModel {
    /// A model with random weights, drawn from the settings' seed.
    pub fn new(settings: &Settings, classes: usize, device: &Device) -> Result<Self> {
        let backbone = settings.backbone()?;
        let network = backbone.grid().intact();
        let (numbers, places) = settings.places(&*backbone);
        let head = heads::open(settings.segment.head, settings.head(classes), &places)?;
        let mut specs = backbone.specs();
        specs.extend(head.specs());
        let layout = FlatLayout::new(&specs, device.max_tensor_bytes())?;
        let mut rng = ChaCha8Rng::seed_from_u64(settings.train.seed);
        let values = FlatBuffers::initialised(&layout, device, &mut rng)?;
        let rule = backbone.layer_rule();
        let multipliers = specs.iter().map(|spec| multipliers(spec, &rule, settings)).collect();
        Ok(Self {
            device: device.clone(),
            network,
            classes,
            places: numbers,
            frozen: settings.segment.freeze,
            running: Running::new(device, &head.norms())?,
            head,
            parameters: Parameters::trained(values)?,
            optimizer: AdamW::new(&layout, device, settings.adamw(), multipliers)?,
            backbone,
        })
    }

    /// Takes the network's weights from a file; the head stays. The file must have all of them that the maps need, of these
    /// sizes. Returns what there is to say.
    pub fn start_from(&mut self, import: &Import) -> Result<String> {
        import.fill_all(&*self.backbone, self.parameters.values(), "section student and segment.network")?;
        self.trained().values_changed()?;
        Ok(import.summary())
    }

    /// What a step trains.
    pub fn trained(&mut self) -> Trained<'_> {
        Trained { parameters: &self.parameters, teacher: None, optimizer: &mut self.optimizer }
    }

    /// The logits of normalised images `[n, channels, side, side]`, with stochastic depth where there are random numbers for it
    /// and the network learns.
    pub fn logits(
        &self,
        tape: &Tape,
        images: &Tensor,
        drop_path: Option<&mut ChaCha8Rng>,
        mode: &Mode<'_>,
    ) -> Result<Logits> {
        let frozen = Tape::no_grad();
        let (of_network, drop_path) = if self.frozen { (&frozen, None) } else { (tape, drop_path) };
        let (network, places) = (self.network, &self.places);
        let maps = self.backbone.maps(of_network, &self.parameters, network, images, places, drop_path)?;
        self.head.forward(tape, &self.parameters, &self.running, &maps, mode)
    }
}

/// How one parameter learns: the embeddings slowest, the head at the full rate.
fn multipliers(spec: &ParameterSpec, rule: &LayerRule, settings: &Settings) -> Multipliers {
    let s = &settings.segment;
    let group = param_group(&spec.name, rule, s.layer_decay, 1.0);
    let matrix = group.wd_multiplier > 0.0 && spec.shape.len() > 1;
    let decays = matrix && !NO_DECAY.iter().any(|part| spec.name.contains(part));
    let learns = !s.freeze || !spec.name.starts_with("backbone.");
    Multipliers {
        lr: if learns { group.lr_multiplier } else { 0.0 },
        weight_decay: f64::from(decays && learns),
        last_layer: false,
    }
}

//! Teacher, students, heads and optimiser: all the state of a run.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::error::Result;
use crate::models::backbone::{self, Backbone};
use crate::models::encoder::Encoder;
use crate::models::grid::ElasticGrid;
use crate::nn::head::{HeadSizes, ProjectionHead};
use crate::nn::parameters::{FlatBuffers, FlatLayout, ParameterSpec, Parameters};
use crate::optim::adamw::{AdamW, AdamWConfig, Multipliers};
use crate::optim::groups::{LayerRule, param_group};
use crate::poa::losses::{LossWeights, Part};
use crate::recipes::{Centering, Config, Precision};
use crate::tensor::{DType, Device, Tensor};

/// A head, the rows it sees, and its centres where targets are centred.
pub struct PoaHead {
    /// Its layers.
    pub projection: ProjectionHead,
    /// The rows it sees.
    pub part: Part,
    /// Centres of the cls and of the masked patch targets, `[K]`, in `centering` mode.
    pub centers: Option<[Tensor; 2]>,
}

/// Settings of the losses that do not change during a run.
#[derive(Clone, Debug, PartialEq)]
pub struct PoaSettings {
    /// Weights.
    pub weights: LossWeights,
    /// τs.
    pub student_temp: f64,
    /// Iterations of Sinkhorn-Knopp.
    pub sinkhorn_iterations: usize,
    /// Bytes of a student's logits at a time; `None` for what suits the device.
    pub logits_budget: Option<usize>,
    /// Local crops L.
    pub locals: usize,
    /// Whether the students' blocks are computed again on the way back.
    pub checkpoint_blocks: bool,
}

/// All the state of a run.
pub struct PoaModel {
    /// Where it lives.
    pub device: Device,
    /// The backbone.
    pub backbone: Box<dyn Backbone>,
    /// Its sub-networks.
    pub grid: ElasticGrid,
    /// The heads.
    pub heads: Vec<PoaHead>,
    /// The intact student's parameters, of which the elastic student's are slices.
    pub student: Parameters,
    /// The teacher's.
    pub teacher: Parameters,
    /// The teacher's as they are evaluated: in single precision.
    exact_teacher: Parameters,
    /// AdamW.
    pub optimizer: AdamW,
    /// Settings of the losses.
    pub settings: PoaSettings,
}

impl PoaModel {
    /// A model for a resolved config with weights drawn from `seed`; the teacher starts as a copy of the student.
    pub fn new(config: &Config, device: &Device, seed: u64) -> Result<Self> {
        let backbone = backbone::open(config)?;
        let grid = backbone.grid().clone();
        let heads = heads(config, backbone.feature_width(grid.intact()), device)?;
        let mut specs = backbone.specs();
        // the official order: every head's MLP, then its prototypes, module by module
        for head in &heads {
            specs.extend(head.projection.mlp_specs());
            specs.extend(head.projection.prototype_specs());
        }
        let layout = FlatLayout::new(&specs, device.max_tensor_bytes())?;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values = FlatBuffers::initialised(&layout, device, &mut rng)?;
        let teacher = FlatBuffers::zeros(&layout, device)?;
        teacher.copy_from(&values)?;
        let o = &config.optim;
        let optimizer = AdamW::new(
            &layout,
            device,
            AdamWConfig {
                beta1: o.adamw_beta1,
                beta2: o.adamw_beta2,
                eps: o.adamw_eps,
                clip_grad: o.clip_grad,
            },
            multipliers(&specs, &backbone.layer_rule(), config),
        )?;
        let exact_teacher = Parameters::frozen(teacher.clone());
        let (mut student, mut teacher) = (Parameters::trained(values)?, Parameters::frozen(teacher));
        let mut optimizer = optimizer;
        if config.train.precision == Precision::Mixed && why_single(device).is_none() {
            (student, teacher) = (student.with_halves()?, teacher.with_halves()?);
            let halves = [&student, &teacher].map(|p| p.halves().expect("just made").clone());
            optimizer = optimizer.with_mixed_precision(halves)?;
        }
        Ok(Self {
            device: device.clone(),
            grid,
            backbone,
            heads,
            student,
            teacher,
            exact_teacher,
            optimizer,
            settings: PoaSettings {
                weights: LossWeights::from_config(config),
                student_temp: config.dino.student_temp,
                sinkhorn_iterations: config.dino.sinkhorn_iterations,
                logits_budget: (config.train.prototype_chunk > 0).then_some(config.train.prototype_chunk),
                locals: config.crops.local_crops_number,
                checkpoint_blocks: config.train.checkpoint_blocks,
            },
        })
    }

    /// The teacher's backbone, to be evaluated, in single precision.
    pub fn teacher_encoder(&self) -> Encoder<'_> {
        Encoder { device: &self.device, backbone: &*self.backbone, parameters: &self.exact_teacher }
    }

    /// To be called when something else than the optimiser has changed the values of student or teacher.
    pub fn values_changed(&self) -> Result<()> {
        self.student.round()?;
        self.teacher.round()
    }
}

/// Why a device trains in single precision although mixed is asked for; `None` where it can train in mixed.
pub fn why_single(device: &Device) -> Option<String> {
    match device {
        Device::Cpu(_) => Some("the cpu device has no half precision".into()),
        Device::Gpu(gpu) if !gpu.caps().mixed_precision() => {
            Some("the adapter has no 16-bit floats in shaders, or binds fewer than ten buffers".into())
        }
        Device::Gpu(_) => None,
    }
}

fn heads(config: &Config, input: usize, device: &Device) -> Result<Vec<PoaHead>> {
    let (dino, ibot) = (&config.dino, &config.ibot);
    let make = |module: &str, part: Part, prototypes: &[usize], hidden: usize, bottleneck: usize| {
        let head = |(index, &prototypes): (usize, &usize)| {
            let sizes = HeadSizes { input, hidden, bottleneck, prototypes };
            let center = || Tensor::zeros(device, &[prototypes], DType::F32);
            let centers = match config.train.centering {
                Centering::Centering => Some([center()?, center()?]),
                Centering::SinkhornKnopp => None,
            };
            Ok(PoaHead { projection: ProjectionHead { module: module.into(), index, sizes }, part, centers })
        };
        prototypes.iter().enumerate().map(head).collect::<Result<Vec<_>>>()
    };
    let part = if ibot.separate_head { Part::Cls } else { Part::All };
    let mut all =
        make("dino_head", part, &dino.head_n_prototypes, dino.head_hidden_dim, dino.head_bottleneck_dim)?;
    if ibot.separate_head {
        let (hidden, bottleneck) = (ibot.head_hidden_dim, ibot.head_bottleneck_dim);
        all.extend(make("ibot_head", Part::Masked, &ibot.head_n_prototypes, hidden, bottleneck)?);
    }
    Ok(all)
}

fn multipliers(specs: &[ParameterSpec], rule: &LayerRule, config: &Config) -> Vec<Multipliers> {
    let o = &config.optim;
    specs
        .iter()
        .map(|s| param_group(&s.name, rule, o.layerwise_decay, o.patch_embed_lr_mult))
        .map(|g| Multipliers {
            lr: g.lr_multiplier,
            weight_decay: g.wd_multiplier,
            last_layer: g.is_last_layer,
        })
        .collect()
}

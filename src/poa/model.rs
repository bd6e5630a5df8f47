//! Teacher, students, heads and optimiser: all the state of a run.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::models::backbone::Backbone;
use crate::models::encoder::Encoder;
use crate::models::grid::ElasticGrid;
use crate::nn::elastic::InputScale;
use crate::nn::head::{HeadSizes, ProjectionHead};
use crate::nn::parameters::{FlatBuffers, FlatLayout, ParameterSpec, Parameters};
use crate::ops::matmul::multiplies_bf16;
use crate::optim::adamw::{AdamW, Multipliers};
use crate::optim::groups::{LayerRule, param_group};
use crate::optim::shard::Shard;
use crate::poa::branches::Branches;
use crate::poa::rows::{LossWeights, Part};
use crate::poa::settings::{Centering, Heads, Precision, Settings};
use crate::share::Share;
use crate::tensor::{DType, Device, Tensor};
use crate::train::step::Trained;

/// A head, the rows it sees, and its centres where targets are centred.
pub struct PoaHead {
    /// Its layers.
    pub projection: ProjectionHead,
    /// The rows it sees.
    pub part: Part,
    /// Centres of the cls and of the masked patch targets, `[K]`, in `centering` mode.
    pub centers: Option<[Tensor; 2]>,
}

/// What a step computes with that does not change during a run.
#[derive(Clone, Debug, PartialEq)]
pub struct StepConstants {
    /// Which networks run.
    pub branches: Branches,
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
    /// Whether products are of bfloat16.
    pub bf16: bool,
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
    pub settings: StepConstants,
    /// The ranks that train the same model.
    pub ranks: Collective,
}

impl PoaModel {
    /// A model for resolved settings with weights drawn from `seed`; the teacher starts as a copy of the
    /// student.
    pub fn new(settings: &Settings, device: &Device, seed: u64) -> Result<Self> {
        Self::of_rank(settings, device, seed, (Share::ALL, &Collective::alone()))
    }

    /// The model of one of several ranks, whose steps are theirs together: which of them it is, and the way to the
    /// others. A rehearsal is alone although it has the share of one of several.
    pub fn of_rank(
        settings: &Settings,
        device: &Device,
        seed: u64,
        (share, ranks): (Share, &Collective),
    ) -> Result<Self> {
        let backbone = settings.backbone()?;
        let grid = backbone.grid().clone();
        let heads = heads(settings, backbone.feature_width(grid.intact()), device)?;
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
        let multipliers = multipliers(&specs, &backbone.layer_rule(), settings);
        let shard = match settings.optim.shard && share.ranks > 1 {
            true => Some(Shard::new(&layout, device, share, ranks)?),
            false => None,
        };
        let mut optimizer = AdamW::of_shard(&layout, device, settings.optim.adamw(), multipliers, shard)?;
        let exact_teacher = Parameters::frozen(teacher.clone());
        let (mut student, mut teacher) = (Parameters::trained(values)?, Parameters::frozen(teacher));
        let lower = settings.step.precision;
        let lower = if why_single(device, lower).is_none() { lower } else { Precision::F32 };
        if lower == Precision::Mixed {
            (student, teacher) = (student.with_halves()?, teacher.with_halves()?);
            let [ours, averaged] = [&student, &teacher].map(|p| p.halves().expect("just made").clone());
            optimizer = optimizer.with_mixed_precision(ours, Some(averaged))?;
        }
        let step = &settings.step;
        Ok(Self {
            device: device.clone(),
            grid,
            backbone,
            heads,
            student,
            teacher,
            exact_teacher,
            optimizer,
            settings: StepConstants {
                branches: settings.dino.branches,
                weights: LossWeights::of(settings),
                student_temp: settings.dino.student_temp,
                sinkhorn_iterations: settings.dino.sinkhorn_iterations,
                logits_budget: (step.prototype_chunk_bytes > 0).then_some(step.prototype_chunk_bytes),
                locals: settings.crops.local_crops_number,
                checkpoint_blocks: step.checkpoint_blocks,
                bf16: lower == Precision::Bf16,
            },
            ranks: ranks.clone(),
        })
    }

    /// The teacher's backbone, to be evaluated, in single precision.
    pub fn teacher_encoder(&self) -> Encoder<'_> {
        Encoder { device: &self.device, backbone: &*self.backbone, parameters: &self.exact_teacher }
    }

    /// What a step trains, as the protocol of steps takes it.
    pub fn trained(&mut self) -> Trained<'_> {
        Trained { parameters: &self.student, teacher: Some(&self.teacher), optimizer: &mut self.optimizer }
    }
}

/// Why a device trains in single precision although another is asked for; `None` where it does as asked.
pub fn why_single(device: &Device, precision: Precision) -> Option<String> {
    match (precision, device) {
        (Precision::F32, _) => None,
        (Precision::Mixed, Device::Cpu(_)) => Some("the cpu device has no half precision".into()),
        (Precision::Mixed, Device::Gpu(gpu)) if !gpu.caps().mixed_precision() => {
            Some("the adapter has no 16-bit floats in shaders, or binds fewer than ten buffers".into())
        }
        (Precision::Mixed, Device::Gpu(_)) => None,
        (Precision::Bf16, Device::Cpu(_)) if !multiplies_bf16() => {
            Some("this processor has no dot products of bfloat16 (AVX512-BF16)".into())
        }
        (Precision::Bf16, Device::Cpu(_)) => None,
        (Precision::Bf16, Device::Gpu(_)) => {
            Some("a GPU's shaders have no bfloat16 (\"mixed\" is for them)".into())
        }
    }
}

fn heads(settings: &Settings, input: usize, device: &Device) -> Result<Vec<PoaHead>> {
    let (dino, ibot) = (&settings.dino, &settings.ibot);
    let make = |module: &str, part: Part, heads: &Heads| {
        if heads.head_n_prototypes.is_empty() {
            let key = format!("{}.head_n_prototypes", module.trim_end_matches("_head"));
            return Err(Error::config(
                key,
                "is empty, and how many follow from the images is not known here; give one number for each head, for \
                 example [8192, 16384]",
            ));
        }
        let (hidden, bottleneck) = (heads.head_hidden_dim, heads.head_bottleneck_dim);
        let head = |(index, &prototypes): (usize, &usize)| {
            let (init_std, input_scale) =
                (heads.head_init_std, InputScale(settings.student.elastic().input_scale));
            let sizes = HeadSizes { input, hidden, bottleneck, prototypes, input_scale, init_std };
            let center = || Tensor::zeros(device, &[prototypes], DType::F32);
            let centers = match settings.step.centering {
                Centering::Centering => Some([center()?, center()?]),
                Centering::SinkhornKnopp => None,
            };
            Ok(PoaHead { projection: ProjectionHead { module: module.into(), index, sizes }, part, centers })
        };
        heads.head_n_prototypes.iter().enumerate().map(head).collect::<Result<Vec<_>>>()
    };
    let part = if ibot.separate_head { Part::Cls } else { Part::All };
    let mut all = make("dino_head", part, &dino.heads)?;
    if ibot.separate_head {
        all.extend(make("ibot_head", Part::Masked, &ibot.heads)?);
    }
    Ok(all)
}

fn multipliers(specs: &[ParameterSpec], rule: &LayerRule, settings: &Settings) -> Vec<Multipliers> {
    let o = &settings.optim;
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

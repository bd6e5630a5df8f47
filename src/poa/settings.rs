//! The settings of POA: heads, losses, teacher, and how a step is computed; and all that the task needs, of
//! its own and of the floors below.

use serde::{Deserialize, Serialize};

use crate::checks::{Problems, settings};
use crate::data::settings::{Crops, Data, Loading, Masking};
use crate::data::{EvaluationView, LoaderConfig, MultiCrop, Normalization};
use crate::error::{Error, Result};
use crate::eval::settings::Evaluation;
use crate::models::Student;
use crate::models::backbone::Backbone;
use crate::optim::settings::{Length, Optim};
use crate::poa::branches::Branches;
use crate::train::plan::RunPlan;
use crate::train::settings::Train;

/// How the KoLeo terms of the intact and of the elastic student are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KoleoMix {
    /// Half of their sum, as the official code computes it.
    Half,
    /// Their sum, as the paper writes it.
    Sum,
}

/// How the teacher's targets are kept from collapsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Centering {
    /// Sinkhorn-Knopp normalisation over the batch.
    SinkhornKnopp,
    /// Subtraction of a moving average.
    Centering,
}

/// What activations and products are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    F32,
    /// Half precision with sums, reductions, losses and weights in single, and a dynamic loss scale. On a
    /// GPU; other devices train in single precision.
    Mixed,
    /// Single precision but for what products multiply, which is rounded to bfloat16. On processors with
    /// AVX512-BF16; other devices train in single precision.
    Bf16,
}

impl Precision {
    /// As it is written in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Mixed => "mixed",
            Self::Bf16 => "bf16",
        }
    }
}

settings! {
    /// Projection heads: in section `dino` all, in section `ibot` those of patch tokens where they are
    /// separate.
    pub struct Heads {
        /// Prototypes of each projection head; as many heads as entries. [] takes two heads, with numbers that
        /// follow from the number of images: one for 20 images, as in the paper, 16 times head_bottleneck_dim
        /// at least, and half as many in the first.
        pub head_n_prototypes: Vec<usize> = vec![8192, 16384, 32768, 65536],
        /// Width of the normalised layer before the prototypes, in channels.
        pub head_bottleneck_dim: usize = 256,
        /// Linear layers of a head before the prototypes; only 3 can be built.
        pub head_nlayers: usize = 3,
        /// Width of the hidden layers of a head, in channels.
        pub head_hidden_dim: usize = 2048,
        /// Standard deviation of the first weights of a head; 0 takes 1/√inputs for each layer. Narrow networks
        /// need that: with 0.02, biases soon outweigh what passes through a few hundred channels, and all images
        /// look alike to the head.
        pub head_init_std: f64 = 0.02,
    }
}

settings! {
    /// Section `dino`: projection heads, the losses on the class token, KoLeo.
    pub struct Dino: heads: Heads {
        /// Weight of the losses between class tokens.
        pub loss_weight: f64 = 1.0,
        /// Weight of the KoLeo regulariser, which spreads the class tokens of a batch.
        pub koleo_loss_weight: f64 = 0.1,
        /// How the KoLeo terms of the two students are put together: "half" of their sum as in the official
        /// code, or their "sum" as in the paper.
        pub koleo: KoleoMix = KoleoMix::Half,
        /// Which networks run in a step and are compared: "poa"; "alone" for one network and its teacher without elastic
        /// student, as DINOv2 and iBOT train it (student.fixed_network says which); or the paper's variants "v1" (elastic
        /// teacher and student of the same size), "v2" (intact teacher, elastic student), "v3" (poa and an elastic teacher).
        pub branches: Branches = Branches::Poa,
        /// Weight of the intact student's loss; the elastic student has the rest. Less than 1: without elastic student
        /// branches is "alone".
        pub lambda_ie: f64 = 0.8,
        /// Whether class tokens of the elastic student are compared with the teacher's of the other view (the paper's
        /// L_ES1). The masked-patch loss is not meant.
        pub elastic_cross_view: bool = true,
        /// Whether they are compared with the intact student's of the same view (L_ES2).
        pub elastic_same_view: bool = true,
        /// Temperature of the students' softmax.
        pub student_temp: f64 = 0.1,
        /// Rounds of the Sinkhorn-Knopp normalisation of the teacher's targets.
        pub sinkhorn_iterations: usize = 3,
    }
}

settings! {
    /// Section `ibot`: the masked-patch loss.
    pub struct Ibot: masking: Masking, heads: Heads {
        /// Weight of the masked-patch loss.
        pub loss_weight: f64 = 1.0,
        /// Whether patch tokens have projection heads of their own, built from the `head_` keys of this
        /// section.
        pub separate_head: bool = false,
    }
}

settings! {
    /// Section `teacher`: the moving average of the student and the temperature of its targets.
    pub struct Teacher {
        /// Share of the old teacher in the average at the first step.
        pub momentum_teacher: f64 = 0.992,
        /// The same at the end of the cosine.
        pub final_momentum_teacher: f64 = 0.9999,
        /// Temperature of the targets at the first step.
        pub warmup_teacher_temp: f64 = 0.04,
        /// Temperature of the targets after the warm-up.
        pub teacher_temp: f64 = 0.07,
        /// Epochs over which the temperature moves from the first to the second.
        pub warmup_teacher_temp_epochs: usize = 30,
    }
}

settings! {
    /// Of section `optim`: when the masked-patch loss begins.
    pub struct Activation {
        /// Epoch from which on the masked-patch loss counts.
        pub ibot_activate_epochs: usize = 30,
    }
}

settings! {
    /// Of section `train`: how a step is computed.
    pub struct Step {
        /// How the teacher's targets are kept from collapsing: "sinkhorn_knopp" normalises them over the
        /// batch, "centering" subtracts a moving average.
        pub centering: Centering = Centering::SinkhornKnopp,
        /// What activations and products are made of: "f32", "mixed" for half precision on a GPU, or "bf16" for products
        /// of bfloat16 on a processor with AVX512-BF16.
        pub precision: Precision = Precision::F32,
        /// Keeps of each block of the students its input alone and computes the rest again on the way back:
        /// much less memory, and about a fifth more time. The numbers are the same to the bit.
        pub checkpoint_blocks: bool = false,
        /// Bytes of a student's logits that are in memory at a time; 0 takes as many as suit the device: a new
        /// run on a GPU with memory for it writes down 512 MiB. The order of sums depends on it.
        pub prototype_chunk_bytes: usize = 0,
        /// Whether on several ranks each draws its own sub-network in a step, as the official code does; false
        /// shares one.
        pub network_per_rank: bool = true,
    }
}

/// Everything that decides what a run of POA computes: the settings of the task and of the floors below, as
/// `recipes` reads them from the sections of a TOML file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// The elastic backbone.
    pub student: Student,
    /// Crops and augmentation.
    pub crops: Crops,
    /// Projection heads and the losses on the class token.
    pub dino: Dino,
    /// The masked-patch loss.
    pub ibot: Ibot,
    /// The moving average of the student.
    pub teacher: Teacher,
    /// AdamW and its schedules.
    pub optim: Optim,
    /// When the masked-patch loss begins.
    pub activation: Activation,
    /// Length of the run, checkpoints, reports.
    pub train: Train,
    /// How batches are made.
    pub loading: Loading,
    /// How a step is computed.
    pub step: Step,
    /// The images.
    pub data: Data,
    /// Evaluation during the run.
    pub evaluation: Evaluation,
}

impl Settings {
    /// The backbone: elastic, or the one network that is trained alone. One that there is not is an error.
    pub fn backbone(&self) -> Result<Box<dyn Backbone>> {
        let elastic = self.student.open(self.crops.global_crops_size)?;
        if self.dino.branches.draws() {
            return Ok(elastic);
        }
        let (grid, name) = (elastic.grid(), self.student.elastic().fixed_network.as_str());
        let network = match name {
            "" => grid.intact(),
            name => grid.named(name).map_err(|e| Error::config("student.fixed_network", e))?,
        };
        elastic.alone(network)
    }

    /// Channels of the images.
    pub fn channels(&self) -> usize {
        self.student.elastic().in_chans
    }

    /// What is done to the values of images.
    pub fn normalization(&self) -> Result<Normalization> {
        self.data.normalization(self.channels())
    }

    /// How images of `size` pixels a side are shown where the networks are evaluated.
    pub fn evaluation_view(&self, size: usize) -> Result<EvaluationView> {
        Ok(EvaluationView { size, normalization: self.normalization()? })
    }

    /// The loader of the run's batches, from the first step on. A backbone that cannot be opened is an error.
    pub fn loader(&self) -> Result<LoaderConfig> {
        let side = self.backbone()?.cells(self.crops.global_crops_size);
        let crops = self.crops.config(self.normalization()?);
        let masks = self.ibot.masking.config(side);
        Ok(self.loading.config(self.train.seed, MultiCrop { crops, masks }))
    }

    /// The length of the run.
    pub fn length(&self) -> Length {
        self.train.length(self.optim.epochs)
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> usize {
        self.length().steps
    }

    /// Steps that so many epochs take.
    pub fn steps_of_epochs(&self, epochs: usize) -> usize {
        self.length().steps_of_epochs(epochs)
    }

    /// How long the run is, and what is done when.
    pub fn plan(&self) -> RunPlan {
        self.train.plan(&self.length(), self.evaluation.eval_period_iterations)
    }

    /// Fills in what follows from the number of images: of prototypes, where none are given.
    pub fn fit(&mut self, images: usize) {
        self.dino.heads.fit(images);
        self.ibot.heads.fit(images);
    }

    /// Images of a step on one rank.
    pub fn images_per_step(&self) -> usize {
        self.loading.batch_size_per_gpu.saturating_mul(self.train.accumulation_steps)
    }

    /// The first step in which the masked-patch loss counts.
    pub fn ibot_start_step(&self) -> usize {
        self.steps_of_epochs(self.activation.ibot_activate_epochs)
    }
}

/// Images a prototype stands for in numbers that follow from the images, as in the paper's largest head (1,281,167
/// images, 65,536 prototypes).
const IMAGES_A_PROTOTYPE: usize = 20;
/// Prototypes a channel of the bottleneck: with few more than channels, one point is equally near to all of them.
const PROTOTYPES_A_CHANNEL: usize = 16;
/// The fewest prototypes that follow, however few the images are.
const FEWEST_PROTOTYPES: usize = 64;

/// Numbers of prototypes for so many images: powers of two, at most half as many as there are images.
pub fn fitting_prototypes(images: usize, bottleneck: usize) -> [usize; 2] {
    let most = (images / 2).max(FEWEST_PROTOTYPES).ilog2();
    let wanted = (images / IMAGES_A_PROTOTYPE).max(PROTOTYPES_A_CHANNEL.saturating_mul(bottleneck));
    // the nearest power of two, by ratio
    let nearest = (wanted.max(1) as f64).log2().round() as u32;
    let largest = 1 << nearest.clamp(FEWEST_PROTOTYPES.ilog2(), most.min(16));
    [largest / 2, largest]
}

impl Heads {
    /// Fills in the numbers of prototypes where they are to follow from the images.
    fn fit(&mut self, images: usize) {
        if self.head_n_prototypes.is_empty() {
            self.head_n_prototypes = fitting_prototypes(images, self.head_bottleneck_dim).to_vec();
        }
    }

    /// Checks every range, as keys of a section.
    fn check(&self, section: &str, problems: &mut Problems) {
        let key = |name: &str| format!("{section}.{name}");
        for &count in &self.head_n_prototypes {
            // of one prototype the softmax is always 1: there is nothing to learn
            problems.within(&key("head_n_prototypes"), count, 2..=1 << 24, 8192);
        }
        problems.within(&key("head_bottleneck_dim"), self.head_bottleneck_dim, 1..=1 << 16, 256);
        problems.within(&key("head_hidden_dim"), self.head_hidden_dim, 1..=1 << 16, 2048);
        problems.within(&key("head_init_std"), self.head_init_std, 0.0..=2.0, 0.02);
        problems.demand(self.head_nlayers == 3, &key("head_nlayers"), || {
            format!("is {}, and heads can be built with 3 layers only; it must be 3", self.head_nlayers)
        });
    }
}

impl Dino {
    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        self.heads.check("dino", problems);
        problems.within("dino.loss_weight", self.loss_weight, 0.0..=1e6, 1.0);
        problems.within("dino.koleo_loss_weight", self.koleo_loss_weight, 0.0..=1e6, 1.0);
        self.check_branches(problems);
        problems.positive("dino.student_temp", self.student_temp, 0.1);
        problems.within("dino.sinkhorn_iterations", self.sinkhorn_iterations, 1..=100, 3);
    }
}

impl Dino {
    /// Checks what the branches of a step have a use for.
    fn check_branches(&self, problems: &mut Problems) {
        let (branches, usual) = (self.branches, Self::default());
        let name = branches.name();
        problems.within("dino.lambda_ie", self.lambda_ie, 0.0..=1.0, usual.lambda_ie);
        if branches.shares() {
            problems.demand(self.lambda_ie != 1.0, "dino.lambda_ie", || {
                "is 1, which leaves nothing to the elastic student: to train a network without one write \
                 dino.branches = \"alone\" instead"
                    .into()
            });
            problems.demand(
                self.elastic_cross_view || self.elastic_same_view,
                "dino.elastic_same_view",
                || {
                    "is false, and so is dino.elastic_cross_view: the elastic student's class token is compared with \
                     nothing; let one of them be true, or write dino.branches = \"alone\""
                        .into()
                },
            );
            return;
        }
        problems.demand(self.lambda_ie == usual.lambda_ie, "dino.lambda_ie", || {
            let (given, usual) = (self.lambda_ie, usual.lambda_ie);
            format!("is {given}, and with dino.branches = \"{name}\" one student has all of the loss: leave it at {usual}")
        });
        for (key, on) in [
            ("dino.elastic_cross_view", self.elastic_cross_view),
            ("dino.elastic_same_view", self.elastic_same_view),
        ] {
            problems.demand(on, key, || {
                format!(
                    "is false, and dino.branches = \"{name}\" has one loss between class tokens: leave it out"
                )
            });
        }
    }
}

impl Ibot {
    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        self.masking.check(problems);
        self.heads.check("ibot", problems);
        problems.within("ibot.loss_weight", self.loss_weight, 0.0..=1e6, 1.0);
    }
}

impl Teacher {
    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        problems.within("teacher.momentum_teacher", self.momentum_teacher, 0.0..=1.0, 0.992);
        problems.within("teacher.final_momentum_teacher", self.final_momentum_teacher, 0.0..=1.0, 0.9999);
        problems.positive("teacher.warmup_teacher_temp", self.warmup_teacher_temp, 0.04);
        problems.positive("teacher.teacher_temp", self.teacher_temp, 0.07);
    }
}

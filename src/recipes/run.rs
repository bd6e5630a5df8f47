//! The sections that describe a run: `optim`, `crops`, `train`, `data` and `evaluation`.
//!
//! Keys carry the names of the official POA recipe where it has them; the defaults are those of its ViT recipe
//! (`vit_ee1200`).

use serde::{Deserialize, Serialize};

/// How the learning rate follows the number of images in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScalingRule {
    /// `base_lr · sqrt(images / 1024)`, as the official code computes it.
    #[serde(rename = "sqrt_wrt_1024", alias = "sqrt")]
    Sqrt,
    /// `base_lr · images / 1024`, as the paper writes it.
    #[serde(rename = "linear_wrt_1024", alias = "linear")]
    Linear,
    /// `base_lr`, whatever the batch.
    None,
}

/// Section `optim`: AdamW, its schedules, and the length of the run in epochs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optim {
    /// Epochs of `train.OFFICIAL_EPOCH_LENGTH` steps.
    pub epochs: usize,
    /// Epoch from which on the masked-patch loss counts.
    pub ibot_activate_epochs: usize,
    /// Weight decay at the first step.
    pub weight_decay: f64,
    /// Weight decay at the end of the cosine.
    pub weight_decay_end: f64,
    /// Learning rate of a step of 1024 images.
    pub base_lr: f64,
    /// Learning rate after the warm-up; 0 computes it from `base_lr` and `scaling_rule`.
    pub lr: f64,
    /// Epochs over which the learning rate grows from 0.
    pub warmup_epochs: usize,
    /// Learning rate at the end of the cosine.
    pub min_lr: f64,
    /// Largest gradient norm of a top module (backbone, heads); 0 does not clip.
    pub clip_grad: f64,
    /// Epochs in which the prototypes do not move.
    pub freeze_last_layer_epochs: usize,
    /// How the learning rate follows the number of images in a step.
    pub scaling_rule: ScalingRule,
    /// Factor on the learning rate of the patch embedding.
    pub patch_embed_lr_mult: f64,
    /// Factor on the learning rate from each block to the one below it.
    pub layerwise_decay: f64,
    /// Decay of the first moment.
    pub adamw_beta1: f64,
    /// Decay of the second moment.
    pub adamw_beta2: f64,
    /// Added to the square root of the second moment.
    pub adamw_eps: f64,
    /// Share of the cosines that the run covers; 1 runs them to their end.
    pub iter_num_scale: f64,
}

impl Default for Optim {
    fn default() -> Self {
        Self {
            epochs: 346,
            ibot_activate_epochs: 30,
            weight_decay: 0.04,
            weight_decay_end: 0.4,
            base_lr: 0.004,
            lr: 0.0,
            warmup_epochs: 10,
            min_lr: 2e-5,
            clip_grad: 1.5,
            freeze_last_layer_epochs: 1,
            scaling_rule: ScalingRule::Sqrt,
            patch_embed_lr_mult: 0.2,
            layerwise_decay: 0.9,
            adamw_beta1: 0.9,
            adamw_beta2: 0.999,
            adamw_eps: 1e-8,
            iter_num_scale: 0.78,
        }
    }
}

/// Which crops are blurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blur {
    /// View a always, view b with probability 0.1, local crops with 0.5: the paper's table.
    Paper,
    /// View a never, view b with probability 0.9, local crops with 0.5: what the official code does.
    Code,
    /// No crop.
    None,
}

impl Blur {
    /// Probabilities of blurring global view a, global view b and a local crop.
    pub fn probabilities(self) -> [f64; 3] {
        match self {
            Self::Paper => [1.0, 0.1, 0.5],
            Self::Code => [0.0, 0.9, 0.5],
            Self::None => [0.0; 3],
        }
    }
}

/// Section `crops`: crops and augmentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crops {
    /// Smallest and largest share of the image's area in a global crop.
    pub global_crops_scale: [f64; 2],
    /// Local crops of an image.
    pub local_crops_number: usize,
    /// Smallest and largest share of the image's area in a local crop.
    pub local_crops_scale: [f64; 2],
    /// Side of a global crop, in pixels.
    pub global_crops_size: usize,
    /// Side of a local crop, in pixels.
    pub local_crops_size: usize,
    /// Probability of a left-right flip.
    pub flip_probability: f64,
    /// Strengths of the jitter of brightness, contrast, saturation and hue.
    pub color_jitter: [f64; 4],
    /// Probability of a colour jitter.
    pub color_jitter_probability: f64,
    /// Probability of dropping the colours.
    pub grayscale_probability: f64,
    /// Which crops are blurred.
    pub blur: Blur,
    /// Probability of solarising the second global crop.
    pub solarize_probability: f64,
}

impl Default for Crops {
    fn default() -> Self {
        Self {
            global_crops_scale: [0.32, 1.0],
            local_crops_number: 8,
            local_crops_scale: [0.05, 0.32],
            global_crops_size: 224,
            local_crops_size: 96,
            flip_probability: 0.5,
            color_jitter: [0.4, 0.4, 0.2, 0.1],
            color_jitter_probability: 0.8,
            grayscale_probability: 0.2,
            blur: Blur::Paper,
            solarize_probability: 0.2,
        }
    }
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
    /// Half precision with sums, reductions, losses and weights in single, and a dynamic loss scale. For ViTs on a GPU; other
    /// devices train in single precision.
    Mixed,
}

/// Section `train`: batch, length of an epoch, checkpoints, reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Images that one device works on at a time.
    pub batch_size_per_gpu: usize,
    /// Batches of a step: their gradients are added up before the update, as if they were one batch, except that
    /// Sinkhorn-Knopp and KoLeo see one batch at a time. The learning rate follows the images of all of them.
    pub accumulation_steps: usize,
    /// Steps of an epoch.
    #[serde(rename = "OFFICIAL_EPOCH_LENGTH")]
    pub epoch_length: usize,
    /// Steps of the whole run; 0 is `optim.epochs` epochs. Another number runs the same recipe in that many steps:
    /// everything that is counted in epochs shrinks or grows in proportion.
    pub total_steps: usize,
    /// How the teacher's targets are kept from collapsing.
    pub centering: Centering,
    /// What activations and products are made of.
    pub precision: Precision,
    /// Start of every random sequence.
    pub seed: u64,
    /// Threads that prepare crops; 0 takes one a core.
    pub num_workers: usize,
    /// Epochs between checkpoints.
    pub saveckp_freq: usize,
    /// Minutes after which a checkpoint is written in any case; 0 for epochs alone.
    pub saveckp_minutes: usize,
    /// Newest checkpoints kept; older ones are removed. 0 keeps all.
    pub keep_checkpoints: usize,
    /// Every so many-th checkpoint is kept for good; 0 for none.
    pub keep_every: usize,
    /// Steps in a row with a loss or gradients that are not finite after which the run stops, with a checkpoint of the
    /// last good state; 0 goes on whatever happens. Such a step changes nothing.
    pub halt_after_skips: usize,
    /// Steps between reports.
    pub log_every: usize,
    /// Keeps of each block of the students its input alone and computes the rest again on the way back: much less memory,
    /// and about a fifth more time. The numbers are the same to the bit.
    pub checkpoint_blocks: bool,
    /// Prototypes whose logits are in memory at a time; 0 takes as many as the device has room for.
    pub prototype_chunk: usize,
}

impl Default for Train {
    fn default() -> Self {
        Self {
            batch_size_per_gpu: 50,
            accumulation_steps: 1,
            epoch_length: 800,
            total_steps: 0,
            centering: Centering::SinkhornKnopp,
            precision: Precision::F32,
            seed: 0,
            num_workers: 0,
            checkpoint_blocks: false,
            saveckp_freq: 20,
            saveckp_minutes: 30,
            keep_checkpoints: 3,
            keep_every: 0,
            halt_after_skips: 100,
            log_every: 10,
            prototype_chunk: 0,
        }
    }
}

/// Section `data`: where the images come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The source of images, such as `folder:DIR` or `shapes`.
    pub spec: String,
    /// Largest share of unreadable images before the run stops; at 1 it stops only where none can be read.
    pub max_bad_fraction: f64,
    /// Share of the labelled images kept out of training, for evaluation; `shapes` brings a part of its own.
    pub held_out: f64,
    /// Most images kept out of training.
    pub held_out_at_most: usize,
}

impl Default for Data {
    fn default() -> Self {
        Self { spec: String::new(), max_bad_fraction: 0.1, held_out: 0.1, held_out_at_most: 10_000 }
    }
}

/// Section `evaluation`: k-nearest-neighbour classification during a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Steps between evaluations; 0 evaluates at the end only.
    pub eval_period_iterations: usize,
    /// Labelled images that vote, such as `folder:imagenet/train`; empty takes the training images, if they have labels.
    pub train: String,
    /// Labelled images that are classified; empty takes those held out of training.
    pub val: String,
    /// Labelled images that vote; 0 takes all.
    pub train_images: usize,
    /// Images that are classified; 0 takes all.
    pub val_images: usize,
    /// Numbers of neighbours that vote.
    pub k: Vec<usize>,
    /// Temperature of the neighbours' weights.
    pub temperature: f64,
    /// Networks of the teacher that are evaluated: `smallest`, `middle`, `intact` or `WIDTHxDEPTH`.
    pub networks: Vec<String>,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            eval_period_iterations: 27680,
            train: String::new(),
            val: String::new(),
            // minutes at a time on a GPU, however many images there are
            train_images: 50_000,
            val_images: 10_000,
            k: vec![10, 20, 100, 200],
            temperature: 0.07,
            networks: vec!["smallest".into(), "middle".into(), "intact".into()],
        }
    }
}

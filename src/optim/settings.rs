//! The settings of AdamW and its schedules, and what follows from them.

use serde::{Deserialize, Serialize};

use crate::checks::{Problems, settings};
use crate::optim::adamw::AdamWConfig;

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

settings! {
    /// Section `optim`: AdamW, its schedules, and the length of the run in epochs.
    pub struct Optim {
        /// Epochs of `train.OFFICIAL_EPOCH_LENGTH` steps.
        pub epochs: usize = 346,
        /// Weight decay at the first step.
        pub weight_decay: f64 = 0.04,
        /// Weight decay at the end of the cosine.
        pub weight_decay_end: f64 = 0.4,
        /// Learning rate of a step of 1024 images.
        pub base_lr: f64 = 0.004,
        /// Learning rate after the warm-up; 0 computes it from `base_lr` and `scaling_rule`.
        pub lr: f64 = 0.0,
        /// Epochs over which the learning rate grows from 0.
        pub warmup_epochs: usize = 10,
        /// Learning rate at the end of the cosine.
        pub min_lr: f64 = 2e-5,
        /// Largest gradient norm of a top module (backbone, heads); 0 does not clip.
        pub clip_grad: f64 = 1.5,
        /// Epochs in which the prototypes do not move; all of them leaves the prototypes as they are drawn.
        pub freeze_last_layer_epochs: usize = 1,
        /// How the learning rate follows the number of images in a step: "sqrt_wrt_1024" as in the official
        /// code, "linear_wrt_1024" as in the paper, "none".
        pub scaling_rule: ScalingRule = ScalingRule::Sqrt,
        /// Factor on the learning rate of the patch embedding.
        pub patch_embed_lr_mult: f64 = 0.2,
        /// Factor on the learning rate from each block to the one below it.
        pub layerwise_decay: f64 = 0.9,
        /// Decay of the first moment.
        pub adamw_beta1: f64 = 0.9,
        /// Decay of the second moment.
        pub adamw_beta2: f64 = 0.999,
        /// Added to the square root of the second moment.
        pub adamw_eps: f64 = 1e-8,
        /// Share of the cosines that the run covers; 1 runs them to their end.
        pub iter_num_scale: f64 = 0.78,
        /// Splits AdamW and its moments over the ranks of a run: each keeps the moments of its part of the
        /// parameters, and updates that. The numbers stay the same; with one rank nothing is split.
        pub shard: bool = false,
    }
}

impl Optim {
    /// Checks every range and relation.
    pub fn check(&self, problems: &mut Problems) {
        problems.within("optim.epochs", self.epochs, 1..=1_000_000, 346);
        let (all, warmup, frozen) = (self.epochs, self.warmup_epochs, self.freeze_last_layer_epochs);
        problems.demand(all == 0 || warmup < all, "optim.warmup_epochs", || {
            format!("is {warmup}, not fewer than optim.epochs = {all}, for example {}", all / 10)
        });
        problems.demand(all == 0 || frozen <= all, "optim.freeze_last_layer_epochs", || {
            format!("is {frozen}, more than optim.epochs = {all}: with {all} the prototypes never move")
        });
        problems.within("optim.base_lr", self.base_lr, 0.0..=100.0, 0.004);
        problems.within("optim.lr", self.lr, 0.0..=100.0, 0.0);
        problems.within("optim.min_lr", self.min_lr, 0.0..=100.0, 2e-5);
        problems.within("optim.weight_decay", self.weight_decay, 0.0..=100.0, 0.04);
        problems.within("optim.weight_decay_end", self.weight_decay_end, 0.0..=100.0, 0.4);
        problems.within("optim.clip_grad", self.clip_grad, 0.0..=1e9, 1.5);
        problems.within("optim.patch_embed_lr_mult", self.patch_embed_lr_mult, 0.0..=100.0, 0.2);
        problems.within("optim.layerwise_decay", self.layerwise_decay, 1e-3..=1.0, 0.9);
        problems.within("optim.adamw_beta1", self.adamw_beta1, 0.0..=0.999999, 0.9);
        problems.within("optim.adamw_beta2", self.adamw_beta2, 0.0..=0.99999999, 0.999);
        problems.positive("optim.adamw_eps", self.adamw_eps, 1e-8);
        // beyond 1 the cosines would end before the run does
        problems.within("optim.iter_num_scale", self.iter_num_scale, 0.01..=1.0, 1.0);
    }

    /// The learning rate after warm-up that `base_lr` and `scaling_rule` give for steps of so many images.
    pub fn scaled_lr(&self, images: usize) -> f64 {
        let share = images as f64 / 1024.0;
        self.base_lr
            * match self.scaling_rule {
                ScalingRule::Sqrt => share.sqrt(),
                ScalingRule::Linear => share,
                ScalingRule::None => 1.0,
            }
    }

    /// The step at which the cosines of a run of this length end.
    pub fn layout(&self, length: &Length) -> usize {
        (length.steps as f64 / self.iter_num_scale) as usize
    }

    /// What AdamW is made with.
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig {
            beta1: self.adamw_beta1,
            beta2: self.adamw_beta2,
            eps: self.adamw_eps,
            clip_grad: self.clip_grad,
        }
    }
}

/// How long a run is, and how many steps its epochs take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Length {
    /// Epochs of the run, as its schedules count them.
    pub epochs: usize,
    /// Steps of the run.
    pub steps: usize,
}

impl Length {
    /// A run of so many epochs of so many steps each.
    pub fn of_epochs(epochs: usize, epoch_length: usize) -> Self {
        Self { epochs, steps: epochs.saturating_mul(epoch_length) }
    }

    /// The steps that so many epochs take: their share of the run's.
    pub fn steps_of_epochs(&self, epochs: usize) -> usize {
        let steps = epochs as u128 * self.steps as u128 / self.epochs.max(1) as u128;
        usize::try_from(steps).unwrap_or(usize::MAX)
    }
}

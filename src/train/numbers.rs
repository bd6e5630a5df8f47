//! The numbers of a step as they are logged: a function of seed, configuration and device alone.

use serde_json::{Value, json};

use crate::models::grid::Network;
use crate::optim::adamw::StepSettings;
use crate::poa::losses::{Health, LossReport};
use crate::recipes::Config;
use crate::train::metrics::number;

/// What is known of a step.
pub struct StepNumbers {
    /// The step, from 0.
    pub step: usize,
    /// The elastic student.
    pub network: Network,
    /// Learning rates, weight decay, momentum.
    pub settings: StepSettings,
    /// τt.
    pub teacher_temp: f64,
    /// The loss and its parts.
    pub losses: LossReport,
    /// Gradient norm of every module before clipping.
    pub gradient_norms: Vec<(String, f64)>,
    /// How targets and features are.
    pub health: Option<Health>,
    /// Steps skipped so far.
    pub skipped: u64,
    /// The step's loss scale, in mixed precision.
    pub loss_scale: Option<f64>,
}

impl StepNumbers {
    /// Images seen with this step.
    pub fn seen(&self, config: &Config) -> usize {
        (self.step + 1) * config.images_per_step()
    }

    /// Names and values, for a run on a data set of `images` images.
    pub fn values(&self, config: &Config, images: usize) -> Vec<(String, Value)> {
        let s = &self.settings;
        let seen = self.seen(config);
        let epoch = seen as f64 / images as f64;
        let mut all: Vec<(String, Value)> = vec![
            ("loss".into(), number(self.losses.total)),
            ("lr".into(), number(s.lr)),
            ("weight_decay".into(), number(s.weight_decay)),
            ("teacher_momentum".into(), number(s.teacher_momentum)),
            ("teacher_temp".into(), number(self.teacher_temp)),
            ("network".into(), json!(self.network.to_string())),
            ("skipped".into(), json!(self.skipped)),
            ("images".into(), json!(seen)),
            ("epoch".into(), number(epoch)),
            ("effective_epoch".into(), number(epoch * config.crops.effective_epochs_per_epoch())),
        ];
        all.extend(self.loss_scale.map(|scale| ("loss_scale".into(), number(scale))));
        all.extend(self.losses.components.iter().map(|(name, v)| (name.clone(), number(*v))));
        all.extend(self.gradient_norms.iter().map(|(m, norm)| (format!("grad_norm.{m}"), number(*norm))));
        if let Some(health) = &self.health {
            for head in &health.heads {
                all.push((format!("target_entropy_{}", head.index), number(head.entropy)));
                all.push((format!("target_kl_{}", head.index), number(head.kl)));
            }
            all.push(("feature_std".into(), number(health.feature_std)));
        }
        all
    }
}

//! How long a run that distils is, and what follows from that.

use crate::data::large_and_small::LargeAndSmall;
use crate::data::{EvaluationView, LoaderConfig};
use crate::error::Result;
use crate::optim::adamw::AdamWConfig;
use crate::optim::schedules::Cosine;
use crate::tasks::distill::Settings;
use crate::train::plan::RunPlan;

impl Settings {
    /// The loader of the run's batches, from the first step on.
    pub fn loader(&self) -> Result<LoaderConfig> {
        let crops = self.crops.config(self.normalization()?);
        Ok(self.train.loading.config(self.train.seed, LargeAndSmall { crops }))
    }

    /// How images are shown where the student is evaluated.
    pub fn view(&self) -> Result<EvaluationView> {
        Ok(EvaluationView { size: self.crops.global_crops_size, normalization: self.normalization()? })
    }

    /// Images of a step on `ranks` ranks.
    pub fn images_per_step(&self, ranks: usize) -> usize {
        let one = self.train.loading.batch_size_per_gpu.saturating_mul(self.train.accumulation_steps);
        one.saturating_mul(ranks)
    }

    /// How long a run on so many images is, and what is done when.
    pub fn plan(&self, images: usize, ranks: usize) -> RunPlan {
        // whole steps, but at least one
        let (t, epoch) = (&self.train, (images / self.images_per_step(ranks).max(1)).max(1));
        let steps = match t.total_steps {
            0 => self.distill.epochs.saturating_mul(epoch),
            steps => steps,
        };
        RunPlan {
            steps,
            accumulation: t.accumulation_steps,
            log_every: t.log_every,
            evaluate_every: self.evaluation.epochs.saturating_mul(epoch),
            save_every: t.saveckp_freq.saturating_mul(epoch),
            save_minutes: t.saveckp_minutes,
            keep: t.keep_checkpoints,
            keep_every: 0,
            halt_after_skips: t.halt_after_skips,
            seed: t.seed,
        }
    }

    /// The learning rate of a step of a run of so many.
    pub fn schedule(&self, steps: usize, ranks: usize) -> Cosine {
        let d = &self.distill;
        let factor = match d.lr_batch {
            0 => 1.0,
            batch => self.images_per_step(ranks) as f64 / batch as f64,
        };
        // with few images a step the rate may be below what it would end with
        let base = d.lr * factor;
        Cosine { base, end: d.min_lr.min(base), warmup: (d.warmup * steps as f64) as usize, layout: steps }
    }

    /// What AdamW is made with.
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig { clip_grad: self.distill.clip_grad, ..AdamWConfig::default() }
    }
}

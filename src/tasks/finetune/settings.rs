//! The sections of a recipe for fine-tuning, and what follows from them.

use crate::checks::{Problems, settings};
use crate::data::classify::{ClassifyAugment, ClassifyCrops};
use crate::data::settings::{Data, Loading};
use crate::data::{EvaluationView, LoaderConfig, Normalization};
use crate::error::{Error, Result};
use crate::models::Student;
use crate::models::backbone::Backbone;
use crate::models::grid::Network;
use crate::optim::adamw::AdamWConfig;
use crate::optim::schedules::Cosine;
use crate::shown::shown;
use crate::train::plan::RunPlan;
use crate::weights::networks::choose;

settings! {
    /// Section `finetune`: which network, how long, and how it learns.
    pub struct Finetune {
        /// What the run starts from: a run, a checkpoint, an extracted network's folder or a file of weights.
        pub init: String = String::new(),
        /// Whether the network starts from random weights instead.
        pub random: bool = false,
        /// The sub-network: WIDTHxDEPTH, smallest, middle, intact, or the paper's small, base, ...
        pub network: String = "intact".into(),
        /// Pixels a side of the images.
        pub image_size: usize = 224,
        /// Passes over the images.
        pub epochs: usize = 100,
        /// Learning rate after the warm-up, of the classifier and the last norm.
        pub lr: f64 = 1e-3,
        /// Images of a step that `lr` is for: with more or fewer it grows or falls in proportion. 0 leaves it as it is.
        pub lr_batch: usize = 0,
        /// Learning rate at the end of the cosine.
        pub min_lr: f64 = 1e-6,
        /// Share of the run over which the learning rate grows from 0.
        pub warmup: f64 = 0.1,
        /// Factor on the learning rate from each block to the one below it.
        pub layer_decay: f64 = 0.65,
        /// Weight decay of matrices; biases, norms, scales, and tokens and positions have none.
        pub weight_decay: f64 = 0.05,
        /// Largest gradient norm of the network and of the classifier; 0 does not clip.
        pub clip_grad: f64 = 0.0,
        /// Probability that a block's branch skips a sample, growing from 0 at the first block; of a ResNet there are none.
        pub drop_path: f64 = 0.1,
        /// Share of itself that the moving average of the weights keeps in a step. The average is what is judged and written.
        pub ema: f64 = 0.7,
        /// Passes over the images between two looks at those to be judged by.
        pub eval_epochs: usize = 1,
        /// Whether the classifier alone learns.
        pub freeze: bool = false,
    }
}

settings! {
    /// Section `train`: batch, checkpoints, reports.
    pub struct FinetuneTrain: loading: Loading {
        /// Batches of a step: their gradients are added up before the update.
        pub accumulation_steps: usize = 1,
        /// Steps of the whole run; 0 is `finetune.epochs` passes. Another number shrinks or grows the schedules with it.
        pub total_steps: usize = 0,
        /// Start of every random sequence.
        pub seed: u64 = 0,
        /// Passes between checkpoints.
        pub saveckp_freq: usize = 1,
        /// Minutes after which a checkpoint is written in any case; 0 for passes alone.
        pub saveckp_minutes: usize = 30,
        /// Newest checkpoints kept; older ones are removed. 0 keeps all.
        pub keep_checkpoints: usize = 2,
        /// Steps in a row with a loss or gradients that are not finite after which the run stops; 0 goes on whatever happens.
        pub halt_after_skips: usize = 100,
        /// Steps between reports.
        pub log_every: usize = 10,
        /// Seconds that a rank waits for the others before it takes them for hung and ends all; 0 waits for ever.
        pub rank_timeout: usize = 600,
    }
}

impl FinetuneTrain {
    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        self.loading.check(problems);
        problems.within("train.accumulation_steps", self.accumulation_steps, 1..=1 << 16, 1);
        problems.within("train.total_steps", self.total_steps, 0..=1_000_000_000_000, 0);
        problems.demand(self.seed <= i64::MAX as u64, "train.seed", || {
            format!("is {}; it must be 0 to 2^63 - 1", self.seed)
        });
        problems.within("train.saveckp_freq", self.saveckp_freq, 1..=1_000_000, 1);
        problems.within("train.saveckp_minutes", self.saveckp_minutes, 0..=1 << 20, 30);
        problems.within("train.log_every", self.log_every, 1..=1_000_000, 10);
        problems.within("train.rank_timeout", self.rank_timeout, 0..=1_000_000, 600);
    }
}

settings! {
    /// Section `data`: where the images come from.
    pub struct FinetuneSource: data: Data {
        /// Images to be judged by; empty takes those that `data.spec` brings or that are held out of it.
        pub val: String = String::new(),
        /// Share of each class's images that is learnt from, at least one of each: 0.01 and 0.1 are the semi-supervised protocols.
        pub fraction: f64 = 1.0,
        /// A text file that names the images to learn from, one a line, by path or file name; empty takes all.
        pub subset: String = String::new(),
    }
}

/// All settings of a run that fine-tunes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Section `student`: the elastic network that the sub-network is one of.
    pub student: Student,
    /// Section `finetune`.
    pub finetune: Finetune,
    /// Section `augment`.
    pub augment: ClassifyAugment,
    /// Section `train`.
    pub train: FinetuneTrain,
    /// Section `data`.
    pub data: FinetuneSource,
}

impl Settings {
    /// All that is wrong with them.
    pub fn problems(&self) -> Result<Problems> {
        let mut problems = Problems::new();
        let f = &self.finetune;
        problems.within("finetune.image_size", f.image_size, 1..=4096, 224);
        let mut own = Problems::new();
        self.student.check(f.image_size, &mut own);
        for (key, problem) in own.into_found() {
            // what pre-training calls it
            let key = if key == "crops.global_crops_size" { "finetune.image_size".into() } else { key };
            problems.add(key, problem);
        }
        let patch = self.student.elastic().patch_size;
        let fits =
            patch == 0 || f.image_size.is_multiple_of(patch) || !matches!(self.student, Student::Vit(_));
        problems.demand(fits, "finetune.image_size", || {
            let example = f.image_size.next_multiple_of(patch);
            format!(
                "is {}, not a multiple of student.patch_size = {patch}, for example {example}",
                f.image_size
            )
        });
        // a backbone of sizes that are wrong cannot be asked for anything
        if problems.is_empty() {
            match self.sub_network() {
                Err(Error::Usage(problem)) => problems.add("finetune.network", problem),
                other => drop(other?),
            }
        }
        problems.within("finetune.epochs", f.epochs, 1..=1_000_000, 100);
        problems.within("finetune.lr", f.lr, 0.0..=100.0, 1e-3);
        problems.within("finetune.lr_batch", f.lr_batch, 0..=1 << 24, 512);
        problems.within("finetune.min_lr", f.min_lr, 0.0..=100.0, 1e-6);
        problems.within("finetune.warmup", f.warmup, 0.0..=1.0, 0.1);
        problems.within("finetune.layer_decay", f.layer_decay, 1e-3..=1.0, 0.65);
        problems.within("finetune.weight_decay", f.weight_decay, 0.0..=100.0, 0.05);
        problems.within("finetune.clip_grad", f.clip_grad, 0.0..=1e9, 1.0);
        problems.within("finetune.drop_path", f.drop_path, 0.0..=0.95, 0.1);
        problems.within("finetune.ema", f.ema, 0.0..=1.0, 0.7);
        problems.within("finetune.eval_epochs", f.eval_epochs, 1..=1_000_000, 1);
        self.augment.check(&mut problems);
        self.augment.check_colours(self.channels(), &mut problems);
        self.train.check(&mut problems);
        self.data.data.check(&mut problems);
        problems.demand(self.data.fraction > 0.0 && self.data.fraction <= 1.0, "data.fraction", || {
            format!("is {}; it must be more than 0 and at most 1, for example 0.1", self.data.fraction)
        });
        Ok(problems)
    }

    /// The elastic backbone.
    fn whole(&self) -> Result<Box<dyn Backbone>> {
        self.student.clone().with_drop_path(self.finetune.drop_path).open(self.finetune.image_size)
    }

    /// The sub-network that is meant. One that there is not is an error that names those there are.
    pub fn sub_network(&self) -> Result<Network> {
        let name = &self.finetune.network;
        match choose(self.whole()?.grid(), &[name])?[..] {
            [one] => Ok(one),
            ref several => Err(Error::config(
                "finetune.network",
                format!("is `{}`, {} networks; one is fine-tuned at a time", shown(name), several.len()),
            )),
        }
    }

    /// The network as one of its own.
    pub fn backbone(&self) -> Result<Box<dyn Backbone>> {
        self.whole()?.alone(self.sub_network()?)
    }

    /// Channels of the images.
    pub fn channels(&self) -> usize {
        self.student.elastic().in_chans
    }

    /// What is done to the values of images.
    pub fn normalization(&self) -> Result<Normalization> {
        self.data.data.normalization(self.channels())
    }

    /// How images are shown to be judged by.
    pub fn view(&self) -> Result<EvaluationView> {
        Ok(EvaluationView { size: self.finetune.image_size, normalization: self.normalization()? })
    }

    /// The loader of the run's batches, from the first step on.
    pub fn loader(&self) -> Result<LoaderConfig> {
        let crops = ClassifyCrops {
            size: self.finetune.image_size,
            augment: self.augment.clone(),
            normalization: self.normalization()?,
        };
        Ok(self.train.loading.config(self.train.seed, crops))
    }

    /// Images of a step on `ranks` ranks.
    pub fn images_per_step(&self, ranks: usize) -> usize {
        let one = self.train.loading.batch_size_per_gpu.saturating_mul(self.train.accumulation_steps);
        one.saturating_mul(ranks)
    }

    /// Steps of a pass over so many images: whole ones, but at least one.
    pub fn steps_per_epoch(&self, images: usize, ranks: usize) -> usize {
        (images / self.images_per_step(ranks).max(1)).max(1)
    }

    /// How long a run on so many images is, and what is done when.
    pub fn plan(&self, images: usize, ranks: usize) -> RunPlan {
        let (t, epoch) = (&self.train, self.steps_per_epoch(images, ranks));
        let steps = match t.total_steps {
            0 => self.finetune.epochs.saturating_mul(epoch),
            steps => steps,
        };
        RunPlan {
            steps,
            accumulation: t.accumulation_steps,
            log_every: t.log_every,
            evaluate_every: self.finetune.eval_epochs.saturating_mul(epoch),
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
        let f = &self.finetune;
        let factor = match f.lr_batch {
            0 => 1.0,
            batch => self.images_per_step(ranks) as f64 / batch as f64,
        };
        let warmup = (f.warmup * steps as f64) as usize;
        // with few images a step the rate may be below what it would end with
        let base = f.lr * factor;
        Cosine { base, end: f.min_lr.min(base), warmup, layout: steps }
    }

    /// What AdamW is made with.
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig { clip_grad: self.finetune.clip_grad, ..AdamWConfig::default() }
    }
}

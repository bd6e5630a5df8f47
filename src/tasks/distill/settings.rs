//! The sections of a recipe for distillation.

use serde::{Deserialize, Serialize};

use crate::checks::{Problems, settings};
use crate::data::settings::{Blur, Crops, Data, Loading};
use crate::data::{BlurProbabilities, CropConfig, Normalization};
use crate::error::{Error, Result};
use crate::eval::settings::MOST_NEIGHBOURS;
use crate::models::Student;
use crate::models::backbone::Backbone;
use crate::models::grid::Network;
use crate::shown::shown;
use crate::weights::networks::choose;

/// What the student is to resemble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeacherOutput {
    /// The teacher's features: its class token, or the mean of its last map.
    Features,
    /// What a projection head of the teacher makes of them, before its prototypes; of checkpoints.
    Projection,
}

settings! {
    /// Section `distill`: teacher and student, what is compared, and how the student learns.
    pub struct Distill {
        /// The teacher: a run, a checkpoint, an extracted network's folder or a file of weights.
        pub teacher: String = String::new(),
        /// The teacher's sub-network: WIDTHxDEPTH, smallest, middle, intact, or the paper's small, base, ...
        pub teacher_network: String = "intact".into(),
        /// The student, a sub-network of section student, named in the same way.
        pub student: String = "smallest".into(),
        /// What the student is to resemble: the teacher's "features", or the "projection" that one of its heads makes of them.
        pub output: TeacherOutput = TeacherOutput::Features,
        /// Which of the teacher's projection heads.
        pub head: usize = 0,
        /// Hidden width of the student's head; 0 takes that of its features.
        pub hidden: usize = 0,
        /// Embeddings of the teacher that both are compared with.
        pub queue: usize = 65536,
        /// Temperature of the student's similarities.
        pub student_temp: f64 = 0.2,
        /// Temperature of the teacher's similarities.
        pub teacher_temp: f64 = 1e-4,
        /// Bytes of similarities at a time; 0 takes what suits the device.
        pub chunk_bytes: usize = 0,
        /// Passes over the images.
        pub epochs: usize = 200,
        /// Learning rate after the warm-up.
        pub lr: f64 = 5e-4,
        /// Images of a step that `lr` is for: with more or fewer it grows or falls in proportion. 0 leaves it as it is.
        pub lr_batch: usize = 256,
        /// Learning rate at the end of the cosine.
        pub min_lr: f64 = 1e-6,
        /// Share of the run over which the learning rate grows from 0.
        pub warmup: f64 = 0.025,
        /// Weight decay of matrices; biases, norms, scales, and tokens and positions have none.
        pub weight_decay: f64 = 0.04,
        /// Largest gradient norm of the network and of its head; 0 does not clip.
        pub clip_grad: f64 = 3.0,
        /// Probability that a block's branch skips a sample, growing from 0 at the first block; of a ResNet there are none.
        pub drop_path: f64 = 0.0,
        /// Share of itself that the moving average of the weights keeps in a step. The average is what is evaluated and
        /// written; with 0 it is the student itself.
        pub ema: f64 = 0.0,
    }
}

settings! {
    /// Section `crops`: the crops of every image, which student and teacher see alike.
    pub struct DistillCrops {
        /// Side of the large crop, in pixels.
        pub global_crops_size: usize = 224,
        /// Smallest and largest share of the image's area in the large crop.
        pub global_crops_scale: [f64; 2] = [0.2, 1.0],
        /// Small crops of an image, which are compared with a queue of their own; SEED's variant has 6.
        pub local_crops_number: usize = 0,
        /// Side of a small crop, in pixels.
        pub local_crops_size: usize = 96,
        /// Smallest and largest share of the image's area in a small crop.
        pub local_crops_scale: [f64; 2] = [0.05, 0.14],
        /// Probability of a left-right flip.
        pub flip_probability: f64 = 0.5,
        /// Strengths of the jitter of brightness, contrast, saturation and hue.
        pub color_jitter: [f64; 4] = [0.4, 0.4, 0.4, 0.1],
        /// Probability of a colour jitter.
        pub color_jitter_probability: f64 = 0.8,
        /// Probability of dropping the colours.
        pub grayscale_probability: f64 = 0.2,
        /// Probability of blurring a crop.
        pub blur_probability: f64 = 0.5,
    }
}

settings! {
    /// Section `train`: batch, checkpoints, reports.
    pub struct DistillTrain: loading: Loading {
        /// Batches of a step: their gradients are added up before the update.
        pub accumulation_steps: usize = 1,
        /// Steps of the whole run; 0 is `distill.epochs` passes. Another number shrinks or grows the schedules with it.
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

settings! {
    /// Section `evaluation`: k-nearest-neighbour classification by the student during a run.
    pub struct DistillEvaluation {
        /// Passes over the images between evaluations.
        pub epochs: usize = 10,
        /// Labelled images that vote; empty takes the training images, if they have labels.
        pub train: String = String::new(),
        /// Labelled images that are classified; empty takes those held out of training.
        pub val: String = String::new(),
        /// Labelled images that vote; 0 takes all.
        pub train_images: usize = 50_000,
        /// Images that are classified; 0 takes all.
        pub val_images: usize = 10_000,
        /// Numbers of neighbours that vote.
        pub k: Vec<usize> = vec![10, 20, 100, 200],
        /// Temperature of the neighbours' weights.
        pub temperature: f64 = 0.07,
    }
}

/// All settings of a run that distils.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Section `student`: the elastic network that the student is one of the sizes of.
    pub student: Student,
    /// Section `distill`.
    pub distill: Distill,
    /// Section `crops`.
    pub crops: DistillCrops,
    /// Section `train`.
    pub train: DistillTrain,
    /// Section `data`.
    pub data: Data,
    /// Section `evaluation`.
    pub evaluation: DistillEvaluation,
}

impl DistillCrops {
    /// The same as the settings of pre-training have it, which have no blur of this probability.
    fn crops(&self) -> Crops {
        Crops {
            global_crops_scale: self.global_crops_scale,
            local_crops_number: self.local_crops_number,
            local_crops_scale: self.local_crops_scale,
            global_crops_size: self.global_crops_size,
            local_crops_size: self.local_crops_size,
            flip_probability: self.flip_probability,
            color_jitter: self.color_jitter,
            color_jitter_probability: self.color_jitter_probability,
            grayscale_probability: self.grayscale_probability,
            blur: Blur::None,
            solarize_probability: 0.0,
        }
    }

    /// What is drawn of an image.
    pub(super) fn config(&self, normalization: Normalization) -> CropConfig {
        let [a, b, local] = [self.blur_probability; 3];
        CropConfig { blur: BlurProbabilities { a, b, local }, ..self.crops().config(normalization) }
    }
}

impl Settings {
    /// All that is wrong with them.
    pub fn problems(&self) -> Result<Problems> {
        let mut problems = Problems::new();
        self.check_student(&mut problems)?;
        self.check_distill(&mut problems);
        self.crops.crops().check(&mut problems);
        self.crops.crops().check_colours(self.channels(), &mut problems);
        problems.within("crops.blur_probability", self.crops.blur_probability, 0.0..=1.0, 0.5);
        let t = &self.train;
        t.loading.check(&mut problems);
        problems.within("train.accumulation_steps", t.accumulation_steps, 1..=1 << 16, 1);
        problems.within("train.total_steps", t.total_steps, 0..=1_000_000_000_000, 0);
        problems.demand(t.seed <= i64::MAX as u64, "train.seed", || {
            format!("is {}; it must be 0 to 2^63 - 1", t.seed)
        });
        problems.within("train.saveckp_freq", t.saveckp_freq, 1..=1_000_000, 1);
        problems.within("train.saveckp_minutes", t.saveckp_minutes, 0..=1 << 20, 30);
        problems.within("train.log_every", t.log_every, 1..=1_000_000, 10);
        problems.within("train.rank_timeout", t.rank_timeout, 0..=1_000_000, 600);
        self.data.check(&mut problems);
        match self.normalization() {
            Err(Error::Config { key, problem }) => problems.add(key, problem),
            other => drop(other?),
        }
        let e = &self.evaluation;
        problems.within("evaluation.epochs", e.epochs, 1..=1_000_000, 10);
        problems.demand(e.train.is_empty() == e.val.is_empty(), "evaluation.val", || {
            "and evaluation.train belong together: give both, or neither to hold some training images out"
                .into()
        });
        problems.demand(!e.k.is_empty(), "evaluation.k", || {
            "is empty; give one number or more, for example [10, 20]".into()
        });
        for &k in &e.k {
            problems.within("evaluation.k", k, 1..=MOST_NEIGHBOURS, 10);
        }
        problems.positive("evaluation.temperature", e.temperature, 0.07);
        Ok(problems)
    }

    fn check_student(&self, problems: &mut Problems) -> Result<()> {
        let (crops, patch) = (self.crops.crops(), self.student.elastic().patch_size);
        crops.check_sizes(problems);
        self.student.check(crops.global_crops_size, problems);
        // a backbone of sizes that are wrong cannot be asked for anything
        if problems.is_empty() {
            match self.network() {
                Err(Error::Usage(problem)) => problems.add("distill.student", problem),
                other => drop(other?),
            }
        }
        let sizes = [
            ("crops.global_crops_size", Some(crops.global_crops_size)),
            ("crops.local_crops_size", (crops.local_crops_number > 0).then_some(crops.local_crops_size)),
        ];
        for (key, size) in sizes {
            let Some(size) = size else { continue };
            problems.demand(patch == 0 || size.is_multiple_of(patch), key, || {
                let example = size.max(1).next_multiple_of(patch);
                format!("is {size}, not a multiple of student.patch_size = {patch}, for example {example}")
            });
        }
        Ok(())
    }

    fn check_distill(&self, problems: &mut Problems) {
        let d = &self.distill;
        problems.within("distill.hidden", d.hidden, 0..=1 << 16, 0);
        // its place is kept as a number of single precision
        problems.within("distill.queue", d.queue, 1..=1 << 24, 65536);
        problems.positive("distill.student_temp", d.student_temp, 0.2);
        problems.positive("distill.teacher_temp", d.teacher_temp, 1e-4);
        problems.demand(!d.student_temp.is_infinite(), "distill.student_temp", || "is infinite".into());
        problems.within("distill.epochs", d.epochs, 1..=1_000_000, 200);
        problems.within("distill.lr", d.lr, 0.0..=100.0, 5e-4);
        problems.within("distill.lr_batch", d.lr_batch, 0..=1 << 24, 256);
        problems.within("distill.min_lr", d.min_lr, 0.0..=100.0, 1e-6);
        problems.within("distill.warmup", d.warmup, 0.0..=1.0, 0.025);
        problems.within("distill.weight_decay", d.weight_decay, 0.0..=100.0, 0.04);
        problems.within("distill.clip_grad", d.clip_grad, 0.0..=1e9, 3.0);
        problems.within("distill.drop_path", d.drop_path, 0.0..=0.95, 0.1);
        problems.within("distill.ema", d.ema, 0.0..=1.0, 0.0);
    }

    /// The student's size. One that there is not is an error that names those there are.
    pub fn network(&self) -> Result<Network> {
        let name = &self.distill.student;
        let grid = self.student.open(self.crops.global_crops_size)?;
        match choose(grid.grid(), &[name])?[..] {
            [one] => Ok(one),
            ref several => Err(Error::Usage(format!(
                "`{}` is {} networks; one student learns at a time",
                shown(name),
                several.len()
            ))),
        }
    }

    /// Section `student` with the student as its only network.
    pub fn only(&self) -> Result<Student> {
        Ok(self.student.clone().only(self.network()?))
    }

    /// The student.
    pub fn backbone(&self) -> Result<Box<dyn Backbone>> {
        self.only()?.with_drop_path(self.distill.drop_path).open(self.crops.global_crops_size)
    }

    /// Channels of the images.
    pub fn channels(&self) -> usize {
        self.student.elastic().in_chans
    }

    /// What is done to the values of images.
    pub fn normalization(&self) -> Result<Normalization> {
        self.data.normalization(self.channels())
    }
}

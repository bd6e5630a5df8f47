//! The settings of images, crops and masks, and what the loader makes of them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::checks::{Problems, settings};
use crate::data::reading::MAX_PIXELS;
use crate::data::recipe::Recipe;
use crate::data::{BlurProbabilities, Crop, CropConfig, LoaderConfig, MaskConfig, Normalization, Reading};
use crate::error::Result;
use crate::share::Share;
use crate::train::task::Started;

/// Batches made ahead by the loader.
const PREFETCH: usize = 2;

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

/// Pixels a side that crops can have.
pub const MOST_PIXELS: usize = 4096;

settings! {
    /// Section `crops`: crops and augmentation.
    pub struct Crops {
        /// Smallest and largest share of the image's area in a global crop.
        pub global_crops_scale: [f64; 2] = [0.32, 1.0],
        /// Local crops of an image.
        pub local_crops_number: usize = 8,
        /// Smallest and largest share of the image's area in a local crop.
        pub local_crops_scale: [f64; 2] = [0.05, 0.32],
        /// Side of a global crop, in pixels.
        pub global_crops_size: usize = 224,
        /// Side of a local crop, in pixels.
        pub local_crops_size: usize = 96,
        /// Probability of a left-right flip.
        pub flip_probability: f64 = 0.5,
        /// Strengths of the jitter of brightness, contrast, saturation and hue.
        pub color_jitter: [f64; 4] = [0.4, 0.4, 0.2, 0.1],
        /// Probability of a colour jitter.
        pub color_jitter_probability: f64 = 0.8,
        /// Probability of dropping the colours.
        pub grayscale_probability: f64 = 0.2,
        /// Which crops are blurred: "paper" as in the paper's table, "code" as in the official code (view a
        /// never, view b nearly always), "none".
        pub blur: Blur = Blur::Paper,
        /// Probability of solarising the second global crop.
        pub solarize_probability: f64 = 0.2,
    }
}

settings! {
    /// Of section `ibot`: which patches of the global crops are hidden from the students.
    pub struct Masking {
        /// Share of the global crops that are masked.
        pub mask_sample_probability: f64 = 0.5,
        /// Smallest and largest share of a masked crop's patches that are hidden.
        pub mask_ratio_min_max: [f64; 2] = [0.1, 0.5],
    }
}

settings! {
    /// Of section `train`: how batches are made.
    pub struct Loading {
        /// Images that one device works on at a time.
        pub batch_size_per_gpu: usize = 50,
        /// Threads that prepare crops; 0 takes one a core.
        pub num_workers: usize = 0,
    }
}

settings! {
    /// Section `data`: where the images come from.
    pub struct Data {
        /// The source of images, such as `folder:DIR` or `shapes`.
        pub spec: String = String::new(),
        /// Largest share of unreadable images before the run stops; at 1 it stops only where none can be
        /// read.
        pub max_bad_fraction: f64 = 0.1,
        /// Share of the labelled images kept out of training, for evaluation; `shapes` brings a part of its
        /// own. Where `evaluation.train` is given, none are.
        pub held_out: f64 = 0.1,
        /// Most images kept out of training.
        pub held_out_at_most: usize = 10_000,
        /// Most pixels of an image file; larger ones cannot be used, and are not decoded.
        pub max_pixels: u64 = MAX_PIXELS,
        /// Bits that the values of images of more than 8 bits really have: 12 for those of a 12-bit camera in
        /// 16-bit files. 0 takes for each file what it says itself, or the fewest of 8, 10, 12, 14 and 16 that
        /// hold its largest value.
        pub deep_bits: u32 = 0,
        /// Mean of every channel, of values 0 to 1; empty takes ImageNet's, for another number of channels
        /// than three their average.
        pub mean: Vec<f64> = Vec::new(),
        /// Standard deviation of every channel; empty takes ImageNet's in the same way.
        pub std: Vec<f64> = Vec::new(),
    }
}

impl Crops {
    /// Checks the sizes, which others count with.
    pub fn check_sizes(&self, problems: &mut Problems) {
        for (key, size, example) in [
            ("crops.global_crops_size", self.global_crops_size, 224),
            ("crops.local_crops_size", self.local_crops_size, 96),
        ] {
            problems.within(key, size, 1..=MOST_PIXELS, example);
        }
    }

    /// Checks every other range.
    pub fn check(&self, problems: &mut Problems) {
        problems.within("crops.local_crops_number", self.local_crops_number, 0..=64, 8);
        problems.range("crops.global_crops_scale", self.global_crops_scale, 1e-4..=1.0, [0.32, 1.0]);
        problems.range("crops.local_crops_scale", self.local_crops_scale, 1e-4..=1.0, [0.05, 0.32]);
        for (key, probability, example) in [
            ("crops.flip_probability", self.flip_probability, 0.5),
            ("crops.color_jitter_probability", self.color_jitter_probability, 0.8),
            ("crops.grayscale_probability", self.grayscale_probability, 0.2),
            ("crops.solarize_probability", self.solarize_probability, 0.2),
        ] {
            problems.within(key, probability, 0.0..=1.0, example);
        }
        let [brightness, contrast, saturation, hue] = self.color_jitter;
        let strengths = [brightness, contrast, saturation].iter().all(|s| (0.0..=1.0).contains(s));
        problems.demand(strengths && (0.0..=0.5).contains(&hue), "crops.color_jitter", || {
            "must be brightness, contrast and saturation of 0 to 1 and hue of 0 to 0.5, for example \
             [0.4, 0.4, 0.2, 0.1]"
                .into()
        });
    }

    /// Effective epochs of a pass over the images, as the paper counts them: the pixels of all crops in units
    /// of one global crop. 346 epochs of 2 crops of 224 and 8 of 96 pixels are 1,200.
    pub fn effective_epochs_per_epoch(&self) -> f64 {
        let local = self.local_crops_size as f64 / self.global_crops_size as f64;
        2.0 + self.local_crops_number as f64 * local * local
    }

    /// Checks that colours are changed only where there are three channels.
    pub fn check_colours(&self, channels: usize, problems: &mut Problems) {
        for (key, probability) in [
            ("crops.color_jitter_probability", self.color_jitter_probability),
            ("crops.grayscale_probability", self.grayscale_probability),
            ("crops.solarize_probability", self.solarize_probability),
        ] {
            problems.demand(channels == 3 || probability == 0.0, key, || {
                format!(
                    "is {probability}, and it changes colours, which images of student.in_chans = {channels} do not have: \
                     it must be 0"
                )
            });
        }
    }

    /// What is done to an image.
    pub fn config(&self, normalization: Normalization) -> CropConfig {
        let [a, b, local] = self.blur.probabilities();
        CropConfig {
            global: Crop { size: self.global_crops_size, scale: pair(self.global_crops_scale) },
            local: Crop { size: self.local_crops_size, scale: pair(self.local_crops_scale) },
            local_count: self.local_crops_number,
            flip: self.flip_probability,
            jitter: self.color_jitter_probability,
            jitter_strength: self.color_jitter,
            grayscale: self.grayscale_probability,
            blur: BlurProbabilities { a, b, local },
            solarize: self.solarize_probability,
            normalization,
            ..CropConfig::default()
        }
    }
}

impl Masking {
    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        problems.within("ibot.mask_sample_probability", self.mask_sample_probability, 0.0..=1.0, 0.5);
        problems.range("ibot.mask_ratio_min_max", self.mask_ratio_min_max, 0.0..=1.0, [0.1, 0.5]);
    }

    /// Masking of `side` cells a side.
    pub fn config(&self, side: usize) -> MaskConfig {
        MaskConfig { side, probability: self.mask_sample_probability, ratio: pair(self.mask_ratio_min_max) }
    }
}

impl Loading {
    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        problems.within("train.batch_size_per_gpu", self.batch_size_per_gpu, 1..=1 << 16, 64);
        problems.within("train.num_workers", self.num_workers, 0..=1024, 0);
    }

    /// A loader of such batches, from the first on.
    pub fn config(&self, seed: u64, recipe: impl Recipe + 'static) -> LoaderConfig {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        LoaderConfig {
            batch: self.batch_size_per_gpu,
            seed,
            threads: if self.num_workers == 0 { cores } else { self.num_workers },
            prefetch: PREFETCH,
            recipe: Arc::new(recipe),
            start_step: 0,
            start: None,
            share: Share::ALL,
        }
    }
}

impl Loading {
    /// The same loader for one of several ranks of a run that begins or goes on.
    pub fn of_rank(&self, loader: LoaderConfig, start: &Started, share: Share) -> LoaderConfig {
        let threads = match share.ranks > 1 && self.num_workers == 0 {
            // as many as this rank has cores
            true => loader.threads.min(rayon::current_num_threads()),
            false => loader.threads,
        };
        LoaderConfig { start_step: start.batches, start: start.place, share, threads, ..loader }
    }
}

impl Data {
    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        problems.within("data.max_bad_fraction", self.max_bad_fraction, 0.0..=1.0, 0.01);
        problems.within("data.held_out", self.held_out, 0.0..=0.9, 0.1);
        problems.within("data.max_pixels", self.max_pixels, 1..=1 << 40, MAX_PIXELS);
        problems.demand(self.deep_bits == 0 || (8..=16).contains(&self.deep_bits), "data.deep_bits", || {
            format!("is {}; it must be 8 to 16, or 0 to go by each file, for example 12", self.deep_bits)
        });
    }

    /// How image files are read.
    pub fn reading(&self) -> Reading {
        Reading { max_pixels: self.max_pixels, deep_bits: self.deep_bits }
    }

    /// What is done to the values of images with so many channels.
    pub fn normalization(&self, channels: usize) -> Result<Normalization> {
        Normalization::new(channels, &self.mean, &self.std)
    }
}

fn pair([a, b]: [f64; 2]) -> (f64, f64) {
    (a, b)
}

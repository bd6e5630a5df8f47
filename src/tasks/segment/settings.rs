//! The sections of a recipe for segmentation, and what follows from them.

use std::path::Path;

use crate::checks::{Problems, settings};
use crate::data::segmentation::crops::Sides;
use crate::data::segmentation::meaning::MOST_CLASSES;
use crate::data::segmentation::{Meaning, SegmentationAugment, SegmentationCrops};
use crate::data::settings::Data;
use crate::data::{LoaderConfig, Normalization};
use crate::error::{Error, Result};
use crate::models::Student;
use crate::models::backbone::Backbone;
use crate::models::grid::Network;
use crate::models::maps::MapPlace;
use crate::optim::adamw::AdamWConfig;
use crate::optim::schedules::line;
use crate::shown::shown;
use crate::tasks::finetune::FinetuneTrain;
use crate::tasks::segment::heads::{HeadKind, HeadSizes};
use crate::train::plan::RunPlan;
use crate::weights::networks::choose;

/// Start of the warm-up, by the learning rate.
const WARMUP_START: f64 = 1e-6;

settings! {
    /// Section `segment`: which network and head, how long, and how they learn.
    pub struct Segment {
        /// What the run starts from: a run, a checkpoint, an extracted network's folder or a file of weights.
        pub init: String = String::new(),
        /// Whether the network starts from random weights instead.
        pub random: bool = false,
        /// The sub-network: WIDTHxDEPTH, smallest, middle, intact, or the paper's small, base, ...
        pub network: String = "intact".into(),
        /// Pixels a side of the images that the network was trained on; its positions are resampled for others.
        pub image_size: usize = 224,
        /// The head: "linear", or "upernet".
        pub head: HeadKind = HeadKind::Linear,
        /// Channels of UPerNet's maps.
        pub channels: usize = 512,
        /// Channels of UPerNet's auxiliary head.
        pub auxiliary_channels: usize = 256,
        /// Weight of the auxiliary head's loss.
        pub auxiliary_weight: f64 = 0.4,
        /// Whether the linear head norms the maps by BatchNorm first, as DINOv2's does.
        pub head_norm: bool = false,
        /// Blocks of a ViT, or stages of other networks, whose maps the head sees, from 0; empty takes a ViT's after a third, a
        /// half, two thirds and all of its blocks, and all four stages of others.
        pub places: Vec<usize> = Vec::new(),
        /// Whether the head alone learns.
        pub freeze: bool = true,
        /// Pixels a side of the crops to learn from, and of the windows to be judged by.
        pub crop_size: usize = 512,
        /// Pixels between two windows; they overlap where that is less than `crop_size`.
        pub stride: usize = 341,
        /// Pixels of the short side of images as they are judged.
        pub short_side: usize = 512,
        /// Most pixels of their long side.
        pub long_side: usize = 2048,
        /// Steps of the run.
        pub steps: usize = 160_000,
        /// Learning rate after the warm-up.
        pub lr: f64 = 1e-3,
        /// Learning rate at the end of the line.
        pub min_lr: f64 = 0.0,
        /// Share of the run over which the learning rate grows.
        pub warmup: f64 = 0.01,
        /// Factor on the learning rate from each block to the one below it, where the network learns.
        pub layer_decay: f64 = 0.8,
        /// Weight decay of matrices; biases, norms, scales, and tokens and positions have none.
        pub weight_decay: f64 = 0.05,
        /// Largest gradient norm of the network and of each part of the head; 0 does not clip.
        pub clip_grad: f64 = 0.0,
        /// Probability that a block's branch skips a sample, growing from 0 at the first block, where the network learns.
        pub drop_path: f64 = 0.1,
        /// Probability that the head's last layer does without a channel.
        pub dropout: f64 = 0.0,
        /// Steps between two looks at the images to be judged by; 0 for each pass over those to learn from.
        pub eval_steps: usize = 0,
        /// Images of which a picture shows what is predicted.
        pub pictures: usize = 8,
    }
}

settings! {
    /// Section `data`: where images and masks come from.
    pub struct SegmentSource: data: Data {
        /// Images to be judged by; empty takes those that `data.spec` brings or that are held out of it.
        pub val: String = String::new(),
        /// The number of classes, or a text file with a name a line; with a colour before each name, masks are pictures in these
        /// colours. Empty where the data set has classes of its own.
        pub classes: String = String::new(),
        /// Index of pixels that are not looked at.
        pub ignore_index: usize = 255,
        /// Whether index 0 is not looked at and the first class is 1.
        pub from_one: bool = false,
    }
}

/// All settings of a run that learns to segment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Section `student`: the elastic network that the sub-network is one of.
    pub student: Student,
    /// Section `segment`.
    pub segment: Segment,
    /// Section `augment`.
    pub augment: SegmentationAugment,
    /// Section `train`.
    pub train: FinetuneTrain,
    /// Section `data`.
    pub data: SegmentSource,
}

impl Settings {
    /// All that is wrong with them.
    pub fn problems(&self) -> Result<Problems> {
        let mut problems = Problems::new();
        let s = &self.segment;
        problems.within("segment.image_size", s.image_size, 1..=4096, 224);
        let mut own = Problems::new();
        self.student.check(s.image_size, &mut own);
        for (key, problem) in own.into_found() {
            // what pre-training calls it
            let key = if key == "crops.global_crops_size" { "segment.image_size".into() } else { key };
            problems.add(key, problem);
        }
        for (key, size) in [("segment.crop_size", s.crop_size), ("segment.image_size", s.image_size)] {
            problems.within(key, size, 1..=4096, 512);
            let patch = self.student.elastic().patch_size.max(1);
            let fits = size.is_multiple_of(patch) || matches!(self.student, Student::ResNet(_));
            problems.demand(fits, key, || {
                let example = size.next_multiple_of(patch);
                format!("is {size}, not a multiple of student.patch_size = {patch}, for example {example}")
            });
        }
        // a backbone of sizes that are wrong cannot be asked for anything
        if problems.is_empty() {
            match self.sub_network() {
                Err(Error::Usage(problem)) => problems.add("segment.network", problem),
                other => drop(other?),
            }
        }
        if problems.is_empty() {
            let count = self.backbone()?.map_places(self.backbone()?.grid().intact()).0.len();
            let ascending = s.places.windows(2).all(|pair| pair[0] < pair[1]);
            problems.demand(
                ascending && s.places.iter().all(|place| *place < count),
                "segment.places",
                || format!("is {:?}; it must ascend and lie within 0 to {}", s.places, count - 1),
            );
        }
        problems.within("segment.channels", s.channels, 1..=1 << 16, 512);
        problems.within("segment.auxiliary_channels", s.auxiliary_channels, 1..=1 << 16, 256);
        problems.within("segment.auxiliary_weight", s.auxiliary_weight, 0.0..=100.0, 0.4);
        problems.within("segment.stride", s.stride, 1..=s.crop_size.max(1), s.crop_size * 2 / 3);
        problems.within("segment.short_side", s.short_side, 1..=1 << 16, 512);
        problems.within("segment.long_side", s.long_side, s.short_side..=1 << 20, 2048);
        problems.within("segment.steps", s.steps, 1..=1_000_000_000, 160_000);
        problems.within("segment.lr", s.lr, 0.0..=100.0, 1e-3);
        problems.within("segment.min_lr", s.min_lr, 0.0..=100.0, 0.0);
        problems.within("segment.warmup", s.warmup, 0.0..=1.0, 0.01);
        problems.within("segment.layer_decay", s.layer_decay, 1e-3..=1.0, 0.8);
        problems.within("segment.weight_decay", s.weight_decay, 0.0..=100.0, 0.05);
        problems.within("segment.clip_grad", s.clip_grad, 0.0..=1e9, 1.0);
        problems.within("segment.drop_path", s.drop_path, 0.0..=0.95, 0.1);
        problems.within("segment.dropout", s.dropout, 0.0..=0.95, 0.1);
        problems.within("segment.eval_steps", s.eval_steps, 0..=1_000_000_000, 16_000);
        problems.within("segment.pictures", s.pictures, 0..=10_000, 8);
        self.augment.check(&mut problems);
        self.train.check(&mut problems);
        self.data.data.check(&mut problems);
        problems.within("data.ignore_index", self.data.ignore_index, 0..=usize::from(u16::MAX), 255);
        Ok(problems)
    }

    /// The elastic backbone.
    fn whole(&self) -> Result<Box<dyn Backbone>> {
        let drop_path = if self.segment.freeze { 0.0 } else { self.segment.drop_path };
        self.student.clone().with_drop_path(drop_path).open(self.segment.image_size)
    }

    /// The sub-network that is meant. One that there is not is an error that names those there are.
    pub fn sub_network(&self) -> Result<Network> {
        let name = &self.segment.network;
        match choose(self.whole()?.grid(), &[name])?[..] {
            [one] => Ok(one),
            ref several => Err(Error::config(
                "segment.network",
                format!("is `{}`, {} networks; one is trained at a time", shown(name), several.len()),
            )),
        }
    }

    /// The network as one of its own.
    pub fn backbone(&self) -> Result<Box<dyn Backbone>> {
        self.whole()?.alone(self.sub_network()?)
    }

    /// The places whose maps the head sees, by number and by what they are like.
    pub fn places(&self, backbone: &dyn Backbone) -> (Vec<usize>, Vec<MapPlace>) {
        let (all, usual) = backbone.map_places(backbone.grid().intact());
        let numbers = if self.segment.places.is_empty() { usual } else { self.segment.places.clone() };
        let places = numbers.iter().filter_map(|i| all.get(*i).copied()).collect();
        (numbers, places)
    }

    /// What the head is made with.
    pub fn head(&self, classes: usize) -> HeadSizes {
        let Segment { channels, auxiliary_channels, head_norm, .. } = self.segment;
        HeadSizes { classes, channels, auxiliary_channels, norm: head_norm }
    }

    /// Channels of the images.
    pub fn channels(&self) -> usize {
        self.student.elastic().in_chans
    }

    /// What is done to the values of images.
    pub fn normalization(&self) -> Result<Normalization> {
        self.data.data.normalization(self.channels())
    }

    /// The size at which images are judged.
    pub fn sides(&self) -> Sides {
        Sides { short: self.segment.short_side, long: self.segment.long_side }
    }

    /// What the values of masks mean, where that is said.
    pub fn meaning(&self) -> Result<Option<Meaning>> {
        let text = &self.data.classes;
        if text.is_empty() {
            return Ok(None);
        }
        let meaning = match text.parse::<usize>() {
            Ok(count @ 1..=MOST_CLASSES) => Meaning::numbered(count),
            Ok(count) => {
                return Err(Error::config(
                    "data.classes",
                    format!("is {count}; it must be 1 to {MOST_CLASSES}"),
                ));
            }
            Err(_) => Meaning::read(Path::new(text))?,
        };
        let ignore = u16::try_from(self.data.ignore_index).ok();
        Ok(Some(Meaning { ignore, from_one: self.data.from_one, ..meaning }))
    }

    /// The loader of the run's batches, from the first step on.
    pub fn loader(&self) -> Result<LoaderConfig> {
        let crops = SegmentationCrops {
            size: self.segment.crop_size,
            sides: self.sides(),
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

    /// How long a run on so many images is, and what is done when.
    pub fn plan(&self, images: usize, ranks: usize) -> RunPlan {
        let t = &self.train;
        let epoch = (images / self.images_per_step(ranks).max(1)).max(1);
        let steps = if t.total_steps == 0 { self.segment.steps } else { t.total_steps };
        RunPlan {
            steps,
            accumulation: t.accumulation_steps,
            log_every: t.log_every,
            evaluate_every: if self.segment.eval_steps == 0 { epoch } else { self.segment.eval_steps },
            save_every: t.saveckp_freq.saturating_mul(epoch),
            save_minutes: t.saveckp_minutes,
            keep: t.keep_checkpoints,
            keep_every: 0,
            halt_after_skips: t.halt_after_skips,
            seed: t.seed,
        }
    }

    /// The learning rate of a step of a run of so many: a line up, and a line down (mmsegmentation's `poly` of power 1).
    pub fn lr(&self, step: usize, steps: usize) -> f64 {
        let s = &self.segment;
        let share = step as f64 / steps.max(1) as f64;
        let falling = s.min_lr.min(s.lr) + (s.lr - s.min_lr.min(s.lr)) * (1.0 - share).max(0.0);
        let warmup = (s.warmup * steps as f64) as usize;
        match step < warmup {
            true => falling * line(WARMUP_START, 1.0, warmup + 1, step),
            false => falling,
        }
    }

    /// What AdamW is made with.
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig { clip_grad: self.segment.clip_grad, ..AdamWConfig::default() }
    }
}

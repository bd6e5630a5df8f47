//! What a run computes for an image, counted by rehearsing steps with its stored settings: no device is asked.

use std::collections::HashMap;
use std::path::Path;

use crate::autograd::Tape;
use crate::cli::distill::teacher::Found;
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::files::checkpoint;
use crate::gpu::Caps;
use crate::models::backbone::CropBatch;
use crate::models::grid::Network;
use crate::optim::adamw::StepSettings;
use crate::poa::forecast::Rehearsal;
use crate::recipes::preset::{Recipes, holds};
use crate::recipes::{Config, Stored};
use crate::tasks::distill::{self, DistillModel};
use crate::tasks::finetune::{self, FinetuneModel};
use crate::tasks::segment::heads::Mode;
use crate::tasks::segment::{self, SegmentModel};
use crate::tensor::{DType, Device, Tensor};
use crate::train::save::STUDENT;
use crate::train::step::apply;

/// What a run was for, with its settings.
pub(super) enum Kind {
    Pretraining(Box<Config>),
    Finetuning(Box<finetune::Settings>),
    Distillation(Box<distill::Settings>),
    Segmentation(Box<segment::Settings>),
}

impl Kind {
    /// What is stored in a run's folder.
    pub fn of(text: &str, path: &Path) -> Result<Self> {
        Ok(if holds(text, finetune::Settings::SECTION) {
            Self::Finetuning(finetune::Settings::from_stored(text, path)?.into())
        } else if holds(text, distill::Settings::SECTION) {
            Self::Distillation(distill::Settings::from_stored(text, path)?.into())
        } else if holds(text, segment::Settings::SECTION) {
            Self::Segmentation(segment::Settings::from_stored(text, path)?.into())
        } else {
            Self::Pretraining(Config::from_stored(text, path)?.into())
        })
    }

    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pretraining(_) => "pre-training",
            Self::Finetuning(_) => "fine-tuning",
            Self::Distillation(_) => "distillation",
            Self::Segmentation(_) => "segmentation",
        }
    }

    /// Floating-point operations of a step for each of its images: forward, backward and update, of pre-training with the mean
    /// of the sub-networks that it draws, of distillation with the forward pass of the teacher. `run` is its folder.
    pub fn flops_per_image(&self, run: &Path) -> Result<f64> {
        // an adapter that binds tensors whole
        let caps = Caps { max_binding_bytes: 1 << 40, ..Caps::minimal() };
        match self {
            Self::Pretraining(config) => of_pretraining(config, &caps),
            Self::Finetuning(settings) => of_finetuning(settings, run, &Device::rehearsal(&caps)),
            Self::Distillation(settings) => of_distillation(settings, &Device::rehearsal(&caps)),
            Self::Segmentation(settings) => of_segmentation(settings, run, &Device::rehearsal(&caps)),
        }
    }
}

fn of_pretraining(config: &Config, caps: &Caps) -> Result<f64> {
    let mut rehearsal = Rehearsal::new(config, caps)?;
    let mut drawn: HashMap<Network, usize> = HashMap::new();
    let cycle = rehearsal.draws().cycle();
    (0..cycle).for_each(|step| *drawn.entry(rehearsal.draws().at(step)).or_default() += 1);
    // what is made before the first step is no part of one
    rehearsal.tally();
    let mut sum = 0.0;
    for (network, times) in drawn {
        rehearsal.step(0, network)?;
        sum += rehearsal.tally().work.flops * times as f64;
    }
    Ok(sum / cycle as f64 / config.images_per_step() as f64)
}

/// Crops of black images.
fn crops(device: &Device, [count, channels, side]: [usize; 3]) -> Result<CropBatch> {
    Ok(CropBatch::new(Tensor::empty(device, &[count, channels, side, side], DType::F32)?))
}

/// What the device was asked for since this was called last.
fn flops(device: &Device) -> f64 {
    match device {
        Device::Gpu(gpu) => gpu.tally().work.flops,
        Device::Cpu(_) => 0.0,
    }
}

const STILL: StepSettings =
    StepSettings { lr: 0.0, last_layer_lr: 0.0, weight_decay: 0.0, teacher_momentum: 1.0 };

fn of_finetuning(settings: &finetune::Settings, run: &Path, device: &Device) -> Result<f64> {
    let student = checkpoint::find(run)?.tensors(STUDENT)?;
    let classes = student.shape("head.bias")?.first().copied().unwrap_or(1);
    let mut model = FinetuneModel::new(settings, classes, device)?;
    let images = settings.train.loading.batch_size_per_gpu;
    let batch = crops(device, [images, settings.channels(), settings.finetune.image_size])?;
    flops(device);
    let tape = Tape::new();
    let logits = model.logits(&tape, &batch.images, None)?;
    tape.backward(vec![(&logits, logits.value().clone())])?;
    let loss = Tensor::empty(device, &[1], DType::F32)?;
    apply(&mut model.trained(), &loss, STILL)?;
    Ok(flops(device) / images as f64)
}

fn of_segmentation(settings: &segment::Settings, run: &Path, device: &Device) -> Result<f64> {
    let student = checkpoint::find(run)?.tensors(STUDENT)?;
    let classes = student.shape("decode_head.conv_seg.bias")?.first().copied().unwrap_or(1);
    let mut model = SegmentModel::new(settings, classes, device)?;
    let images = settings.train.loading.batch_size_per_gpu;
    let batch = crops(device, [images, settings.channels(), settings.segment.crop_size])?;
    flops(device);
    let tape = Tape::new();
    let logits = model.logits(&tape, &batch.images, None, &Mode::Training(&[]))?;
    let all = [Some(&logits.main), logits.auxiliary.as_ref()];
    let seeds = all.into_iter().flatten().map(|(logits, _)| (logits, logits.value().clone()));
    tape.backward(seeds.collect())?;
    let loss = Tensor::empty(device, &[1], DType::F32)?;
    apply(&mut model.trained(), &loss, STILL)?;
    Ok(flops(device) / images as f64)
}

fn of_distillation(settings: &distill::Settings, device: &Device) -> Result<f64> {
    let path = Path::new(&settings.distill.teacher);
    let teacher = Found::open(path).and_then(|found| found.frozen(settings, device));
    let teacher = teacher.map_err(|e: Error| e.during("its teacher, whose work is part of its own"))?;
    let mut model = DistillModel::new(settings, teacher, device)?;
    let (images, channels, of) =
        (settings.train.loading.batch_size_per_gpu, settings.channels(), &settings.crops);
    let mut batch = vec![crops(device, [images, channels, of.global_crops_size])?];
    if of.local_crops_number > 0 {
        batch.push(crops(device, [images * of.local_crops_number, channels, of.local_crops_size])?);
    }
    flops(device);
    let loss = model.forward_backward(&batch, images, 1.0, None, &Collective::alone())?;
    apply(&mut model.trained(), &loss, STILL)?;
    Ok(flops(device) / images as f64)
}

//! Which network of which checkpoint a command is about.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::data::settings::MOST_PIXELS;
use crate::data::spec_text;
use crate::error::{Error, Result};
use crate::eval::prototypes::{Prototypes, head_of};
use crate::gpu::DeviceChoice;
use crate::models::grid::Network;
use crate::nn::elastic::InputScale;
use crate::ops;
use crate::ops::matmul::by_timing;
use crate::recipes::teacher::Teacher;
use crate::shown::shown;
use crate::tensor::Device;
use crate::weights::networks::choose;

/// A sub-network of a checkpoint, and what it is run on.
#[derive(Debug, Clone, Args)]
pub struct SubjectArgs {
    /// A run's folder (its newest checkpoint is taken) or a checkpoint's
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// WIDTHxDEPTH, smallest, middle, intact, or the paper's small, base, ...
    #[arg(long, value_name = "NETWORK", default_value = "intact")]
    pub network: String,
    /// Pixels a side that images are brought to, a multiple of the patch size [default: the global crops']
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    pub size: Option<usize>,
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true, default_value = "auto")]
    pub device: DeviceChoice,
}

/// A sub-network that is ready to be run.
pub(super) struct Subject {
    pub teacher: Teacher,
    pub network: Network,
    /// Pixels a side of the images.
    pub size: usize,
    pub device: Device,
}

impl SubjectArgs {
    pub(super) fn open(&self) -> Result<Subject> {
        let device = by_timing(ops::open(&self.device)?)?;
        let teacher = Teacher::open(&self.checkpoint, &device)?;
        let networks = choose(&teacher.grid, &[&self.network])?;
        let [network] = networks[..] else {
            return Err(Error::Usage(format!(
                "`{}` is more than one sub-network; give one",
                shown(&self.network)
            )));
        };
        Ok(Subject { size: image_size(self.size, &teacher)?, teacher, network, device })
    }
}

/// The images' side that was asked for, or the one the teacher was trained with.
pub(super) fn image_size(asked: Option<usize>, teacher: &Teacher) -> Result<usize> {
    let patch = teacher.config.student.elastic().patch_size;
    check_size(asked.unwrap_or(teacher.config.crops.global_crops_size), patch)
}

/// `--size`, where it can be had of a network with patches of so many pixels.
pub(super) fn check_size(size: usize, patch: usize) -> Result<usize> {
    let most = MOST_PIXELS / patch * patch;
    if size > most {
        return Err(Error::Usage(format!(
            "--size {size} is more than {most}; no recipe's crops (crops.global_crops_size) can be larger than \
             {MOST_PIXELS} pixels a side"
        )));
    }
    match size >= patch && size.is_multiple_of(patch) {
        true => Ok(size),
        false => Err(Error::Usage(format!(
            "--size {size} is no multiple of the patch size {patch} that the network was trained with, for example {}",
            size.max(1).next_multiple_of(patch).min(most)
        ))),
    }
}

/// A projection head of a teacher's checkpoint: of `module`, with this number, or without one the largest.
pub(super) fn open_head(
    teacher: &Teacher,
    module: &str,
    number: Option<usize>,
    device: &Device,
) -> Result<Prototypes> {
    let file = teacher.heads()?;
    let mut head = head_of(&file, module, number)?;
    head.sizes.input_scale = InputScale(teacher.config.student.elastic().input_scale);
    Prototypes::open(&file, head, device)
}

/// Takes the name of a data set, whose path may be no text.
pub(super) fn data_spec() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|given| spec_text(&given))
}

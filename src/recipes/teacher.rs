//! The teacher of a checkpoint, built from the configuration that lies beside it.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::files::checkpoint::{self, Checkpoint};
use crate::models::backbone::Backbone;
use crate::models::encoder::Encoder;
use crate::models::grid::ElasticGrid;
use crate::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use crate::recipes::Config;
use crate::recipes::preset::{Recipes, holds};
use crate::recipes::stored::Stored;
use crate::tasks::distill;
use crate::tensor::Device;
use crate::train::save::{CONFIG, RunState, TEACHER, fill};

/// The configuration that a checkpoint was made with; of a run that distils that of the student as the only network.
pub fn config_of(checkpoint: &Checkpoint) -> Result<Config> {
    let (text, path) = (checkpoint.text(CONFIG)?, checkpoint.dir().join(CONFIG));
    match holds(&text, distill::Settings::SECTION) {
        true => distill::Settings::from_stored(&text, &path)?.as_pretrained(),
        false => Config::from_stored(&text, &path),
    }
}

/// The teacher's backbone of a checkpoint, ready to be run.
pub struct Teacher {
    /// The configuration it was trained with.
    pub config: Config,
    /// Its sub-networks.
    pub grid: ElasticGrid,
    /// Steps it was trained for.
    pub step: u64,
    /// The checkpoint's folder.
    pub dir: PathBuf,
    device: Device,
    backbone: Box<dyn Backbone>,
    parameters: Parameters,
}

impl Teacher {
    /// Loads the backbone of the checkpoint that `path` means (see [`checkpoint::find`]); heads are left out.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let checkpoint = checkpoint::find(path)?;
        let config = config_of(&checkpoint)?;
        let backbone = config.backbone()?;
        let layout = FlatLayout::new(&backbone.specs(), device.max_tensor_bytes())?;
        let values = FlatBuffers::zeros(&layout, device)?;
        fill(&values, &checkpoint.tensors(TEACHER)?, "")?;
        Ok(Self {
            grid: backbone.grid().clone(),
            step: checkpoint.state::<RunState>()?.step,
            dir: checkpoint.dir().to_path_buf(),
            device: device.clone(),
            backbone,
            parameters: Parameters::frozen(values),
            config,
        })
    }

    /// The backbone, to be run.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { device: &self.device, backbone: &*self.backbone, parameters: &self.parameters }
    }
}

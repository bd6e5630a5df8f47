//! The teacher of a checkpoint, built from the configuration that lies beside it.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::checkpoint::{self, Checkpoint};
use crate::files::tensor_file::TensorFile;
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
use crate::weights::extract::MODEL;
use crate::weights::heads::HEADS;
use crate::weights::import::Import;
use crate::weights::sizes::student_in;

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
    /// Loads the backbone of the checkpoint that `path` means (see [`checkpoint::find`]); heads are left out. The folder of
    /// an extracted ViT will do too: a network without others.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        if let Some(plain) = Self::extracted(path, device)? {
            return Ok(plain);
        }
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

    /// Loads an extracted ViT; `None` where `path` is no folder of one.
    fn extracted(path: &Path, device: &Device) -> Result<Option<Self>> {
        if !path.join(MODEL).is_file() || checkpoint::has_manifest(path) {
            return Ok(None);
        }
        let Some(described) = student_in(path)? else { return Ok(None) };
        let mut config = Config { student: described.student, ..Config::default() };
        config.crops.global_crops_size = described.image;
        (config.data.mean, config.data.std) = (described.mean, described.std);
        let backbone = config.backbone()?;
        let specs = backbone.specs();
        let values = FlatBuffers::zeros(&FlatLayout::new(&specs, device.max_tensor_bytes())?, device)?;
        Import::open(path, &*backbone, &specs)?.fill_all(&*backbone, &values, "its config.json")?;
        Ok(Some(Self {
            grid: backbone.grid().clone(),
            step: 0,
            dir: path.to_path_buf(),
            device: device.clone(),
            backbone,
            parameters: Parameters::frozen(values),
            config,
        }))
    }

    /// A file with the projection heads: the checkpoint's, or that of `poa-gpu extract --heads`. That there is none is an
    /// error.
    pub fn heads(&self) -> Result<TensorFile> {
        if checkpoint::has_manifest(&self.dir) {
            return checkpoint::find(&self.dir)?.tensors(TEACHER);
        }
        match self.dir.join(HEADS) {
            file if file.is_file() => TensorFile::open(file),
            _ => Err(Error::file(&self.dir, "has no projection heads; extract the network with --heads")),
        }
    }

    /// The backbone, to be run.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { device: &self.device, backbone: &*self.backbone, parameters: &self.parameters }
    }
}

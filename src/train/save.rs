//! What of a run goes into a checkpoint: student and teacher under the official names, the optimiser's moments, the
//! configuration, and the numbers a run goes on from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::checkpoint::{self, Checkpoint, CheckpointWriter};
use crate::files::tensor_file::TensorFile;
use crate::files::tensor_writer::TensorSpec;
use crate::models::backbone::Backbone;
use crate::models::encoder::Encoder;
use crate::models::grid::ElasticGrid;
use crate::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use crate::optim::loss_scale::ScaleState;
use crate::poa::PoaModel;
use crate::recipes::Config;
use crate::tensor::{Device, Tensor};

/// The numbers beside the tensors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunState {
    /// Steps done.
    pub step: u64,
    /// Steps whose update was applied (others had non-finite numbers).
    pub applied: u64,
    /// Steps that were skipped.
    pub skipped: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Images of the data set.
    pub images: u64,
    /// Length of `metrics.jsonl` when the checkpoint was taken, in bytes.
    pub metrics_bytes: u64,
    /// Time spent training so far, in seconds.
    pub seconds: f64,
    /// The loss scale, in mixed precision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<ScaleState>,
}

/// The student's parameters.
pub const STUDENT: &str = "student.safetensors";
/// The teacher's parameters.
pub const TEACHER: &str = "teacher.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const CONFIG: &str = "config.toml";
/// Prefixes of the moments in the optimiser's file, as PyTorch's AdamW calls them.
const MOMENTS: [&str; 2] = ["exp_avg.", "exp_avg_sq."];

fn specs(buffers: &FlatBuffers, prefix: &str) -> Vec<TensorSpec> {
    let places = buffers.layout().places().iter();
    places.map(|p| TensorSpec::f32(format!("{prefix}{}", p.spec.name), &p.spec.shape)).collect()
}

/// Centres of `centering` mode, by name.
fn centers(model: &PoaModel) -> Vec<(String, Tensor)> {
    let mut all = Vec::new();
    for head in &model.heads {
        let Some([cls, patch]) = &head.centers else { continue };
        let h = &head.projection;
        all.push((format!("center.{}.{}.cls", h.module, h.index), cls.clone()));
        all.push((format!("center.{}.{}.patch", h.module, h.index), patch.clone()));
    }
    all
}

/// Writes a checkpoint to the folder `dir`, which appears when it is complete.
pub fn save(model: &PoaModel, config: &Config, state: &RunState, dir: &Path) -> Result<PathBuf> {
    let mut writer = CheckpointWriter::create(dir)?;
    for (file, buffers) in [(STUDENT, model.student.values()), (TEACHER, model.teacher.values())] {
        writer.tensors(file, &specs(buffers, ""), |name| buffers.read(name))?;
    }
    let moments = [&model.optimizer.m, &model.optimizer.v];
    let mut all: Vec<TensorSpec> = Vec::new();
    for (prefix, buffers) in MOMENTS.iter().zip(moments) {
        all.extend(specs(buffers, prefix));
    }
    let centers = centers(model);
    all.extend(centers.iter().map(|(name, t)| TensorSpec::f32(name.as_str(), t.shape())));
    writer.tensors(OPTIMIZER, &all, |name| {
        for (prefix, buffers) in MOMENTS.iter().zip(moments) {
            if let Some(parameter) = name.strip_prefix(prefix) {
                return buffers.read(parameter);
            }
        }
        match centers.iter().find(|(n, _)| n == name) {
            Some((_, t)) => t.to_vec(),
            None => Err(Error::file(dir, format!("`{name}` is not part of a checkpoint"))),
        }
    })?;
    writer.text(CONFIG, &config.to_toml()?)?;
    writer.finish(state)
}

/// Puts a checkpoint's tensors into a model of the same sizes and returns its numbers. A file that is cut short, is
/// something else or belongs to a model of other sizes is an error that names the tensor.
pub fn load(model: &mut PoaModel, dir: &Path) -> Result<RunState> {
    let checkpoint = Checkpoint::open(dir)?;
    let state: RunState = checkpoint.state()?;
    let (student, teacher) = (checkpoint.tensors(STUDENT)?, checkpoint.tensors(TEACHER)?);
    let optimizer = checkpoint.tensors(OPTIMIZER)?;
    fill(model.student.values(), &student, "")?;
    fill(model.teacher.values(), &teacher, "")?;
    fill(&model.optimizer.m, &optimizer, MOMENTS[0])?;
    fill(&model.optimizer.v, &optimizer, MOMENTS[1])?;
    for (name, center) in centers(model) {
        center.upload(&optimizer.read_f32_as(&name, center.shape())?)?;
    }
    model.optimizer.applied = state.applied;
    if let Some(scale) = model.optimizer.loss_scale() {
        scale.set(state.loss_scale.unwrap_or_default())?;
    }
    model.values_changed()?;
    Ok(state)
}

fn fill(buffers: &FlatBuffers, file: &TensorFile, prefix: &str) -> Result<()> {
    for place in buffers.layout().places() {
        let values = file.read_f32_as(&format!("{prefix}{}", place.spec.name), &place.spec.shape)?;
        buffers.write(&place.spec.name, &values)?;
    }
    Ok(())
}

/// The configuration that a checkpoint was made with.
pub fn config_of(checkpoint: &Checkpoint) -> Result<Config> {
    Config::from_stored(&checkpoint.text(CONFIG)?, &checkpoint.dir().join(CONFIG))
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

//! What of a run goes into a checkpoint: parameters and teacher by their names, the optimiser's moments, what
//! else the task goes on from, its settings, and the numbers beside them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::files::checkpoint::{Checkpoint, CheckpointWriter};
use crate::files::tensor_file::TensorFile;
use crate::files::tensor_writer::TensorSpec;
use crate::nn::parameters::{FlatBuffers, Parameters};
use crate::optim::adamw_own::Moment;
use crate::optim::loss_scale::{LossScale, ScaleState};
use crate::share::Place;
use crate::tensor::Tensor;
pub use crate::train::run_folder::CONFIG;
use crate::train::task::Task;

/// The numbers beside the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Samples of the data set.
    pub images: u64,
    /// Samples that were trained on so far, each as often as it was; not of a checkpoint from before this was written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<u64>,
    /// Length of `metrics.jsonl` when the checkpoint was taken, in bytes.
    pub metrics_bytes: u64,
    /// Time spent training so far, in seconds.
    pub seconds: f64,
    /// Whether the evaluation after this step is still to be done.
    #[serde(skip_serializing_if = "is_false")]
    pub evaluation_is_due: bool,
    /// The loss scale, in mixed precision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<ScaleState>,
    /// Ranks that trained together.
    #[serde(skip_serializing_if = "is_one")]
    pub ranks: u64,
    /// Where in the samples the next step begins, for a task that goes on there on any number of ranks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
}

impl Default for RunState {
    fn default() -> Self {
        Self {
            step: 0,
            applied: 0,
            skipped: 0,
            seed: 0,
            images: 0,
            seen: None,
            metrics_bytes: 0,
            seconds: 0.0,
            evaluation_is_due: false,
            loss_scale: None,
            ranks: 1,
            place: None,
        }
    }
}

fn is_one(value: &u64) -> bool {
    *value == 1
}

fn is_false(value: &bool) -> bool {
    !value
}

/// The parameters.
pub const STUDENT: &str = "student.safetensors";
/// The teacher's parameters, where there is one.
pub const TEACHER: &str = "teacher.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
/// Prefixes of the moments in the optimiser's file, as PyTorch's AdamW calls them.
const MOMENTS: [(&str, Moment); 2] = [("exp_avg.", Moment::First), ("exp_avg_sq.", Moment::Second)];

fn specs(buffers: &FlatBuffers, prefix: &str) -> Vec<TensorSpec> {
    let places = buffers.layout().places().iter();
    places.map(|p| TensorSpec::f32(format!("{prefix}{}", p.spec.name), &p.spec.shape)).collect()
}

/// Writes a checkpoint to the folder `dir`, which appears when it is complete. Of `state` the numbers that
/// the optimiser holds are filled in. Where that is split over ranks the others attend
/// ([`crate::optim::adamw::AdamW::attend`]), here and while one is loaded.
pub fn save<T: Task>(task: &mut T, state: RunState, dir: &Path) -> Result<PathBuf> {
    let (tensors, config) = (task.tensors(), task.config()?);
    let trained = task.trained();
    let mut writer = CheckpointWriter::create(dir)?;
    let teacher = trained.teacher.map(|teacher| (TEACHER, teacher.values()));
    for (file, buffers) in [(STUDENT, trained.parameters.values())].into_iter().chain(teacher) {
        writer.tensors(file, &specs(buffers, ""), |name| buffers.read(name))?;
    }
    let mut all: Vec<TensorSpec> = Vec::new();
    for (prefix, _) in MOMENTS {
        all.extend(specs(trained.parameters.values(), prefix));
    }
    all.extend(tensors.iter().map(|(name, t)| TensorSpec::f32(name.as_str(), t.shape())));
    writer.tensors(OPTIMIZER, &all, |name| {
        for (prefix, moment) in MOMENTS {
            if let Some(parameter) = name.strip_prefix(prefix) {
                return trained.optimizer.read_moment(moment, parameter);
            }
        }
        match tensors.iter().find(|(n, _)| n == name) {
            Some((_, t)) => t.to_vec(),
            None => Err(Error::file(dir, format!("`{name}` is not part of a checkpoint"))),
        }
    })?;
    writer.text(CONFIG, &config)?;
    writer.finish(&RunState {
        applied: trained.optimizer.applied,
        loss_scale: trained.optimizer.loss_scale().map(LossScale::get).transpose()?,
        ..state
    })
}

/// Puts a checkpoint's tensors into a task of the same sizes and returns its numbers. A file that is cut
/// short, is something else or belongs to a model of other sizes is an error that names the tensor.
pub fn load<T: Task>(task: &mut T, dir: &Path) -> Result<RunState> {
    let checkpoint = Checkpoint::open(dir)?;
    let state: RunState = checkpoint.state()?;
    let optimizer = checkpoint.tensors(OPTIMIZER)?;
    for (name, tensor) in task.tensors() {
        tensor.upload(&optimizer.read_f32_as(&name, tensor.shape())?)?;
    }
    let trained = task.trained();
    fill(trained.parameters.values(), &checkpoint.tensors(STUDENT)?, "")?;
    if let Some(teacher) = trained.teacher {
        fill(teacher.values(), &checkpoint.tensors(TEACHER)?, "")?;
    }
    for (prefix, moment) in MOMENTS {
        for place in trained.parameters.values().layout().places() {
            let name = &place.spec.name;
            let values = optimizer.read_f32_as(&format!("{prefix}{name}"), &place.spec.shape)?;
            trained.optimizer.write_moment(moment, name, &values)?;
        }
    }
    trained.optimizer.applied = state.applied;
    if let Some(scale) = trained.optimizer.loss_scale() {
        scale.set(state.loss_scale.unwrap_or_default())?;
    }
    trained.values_changed()?;
    Ok(state)
}

/// Elements that are sent to other ranks at a time.
const PIECE: usize = 4 << 20;

/// Gives all ranks what rank 0 starts from: parameters, teacher, moments unless these are split over ranks, and what
/// else the task goes on from.
pub(super) fn share<T: Task>(task: &mut T, ranks: &Collective) -> Result<()> {
    if ranks.is_alone() {
        return Ok(());
    }
    let mut all: Vec<Tensor> = task.tensors().into_iter().map(|(_, tensor)| tensor).collect();
    let trained = task.trained();
    let teacher = trained.teacher.map(Parameters::values);
    let whole = trained.optimizer.shard().is_none();
    let moments = [&trained.optimizer.m, &trained.optimizer.v].into_iter().filter(|_| whole);
    for buffers in [trained.parameters.values()].into_iter().chain(teacher).chain(moments) {
        all.extend(buffers.buffers().iter().cloned());
    }
    for tensor in &all {
        let flat = tensor.reshape(&[tensor.elements()])?;
        for start in (0..flat.elements()).step_by(PIECE) {
            let piece = flat.slice(0, start..(start + PIECE).min(flat.elements()))?;
            let own = if ranks.leads() {
                bytemuck::cast_slice(&piece.to_vec::<f32>()?).to_vec()
            } else {
                Vec::new()
            };
            let values = ranks.broadcast(own)?;
            if !ranks.leads() {
                piece.upload(&bytemuck::pod_collect_to_vec::<u8, f32>(&values))?;
            }
        }
    }
    let scale = trained.optimizer.loss_scale().map(LossScale::get).transpose()?;
    let (applied, scale) = ranks.hear_first((trained.optimizer.applied, scale))?;
    trained.optimizer.applied = applied;
    if let (Some(own), Some(scale)) = (trained.optimizer.loss_scale(), scale) {
        own.set(scale)?;
    }
    trained.values_changed()
}

/// Overwrites parameters with those of a file, which has them under their names after `prefix`.
pub fn fill(buffers: &FlatBuffers, file: &TensorFile, prefix: &str) -> Result<()> {
    for place in buffers.layout().places() {
        let values = file.read_f32_as(&format!("{prefix}{}", place.spec.name), &place.spec.shape)?;
        buffers.write(&place.spec.name, &values)?;
    }
    Ok(())
}

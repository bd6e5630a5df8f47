//! What of a run goes into a checkpoint: student and teacher under the official names, the optimiser's moments, and
//! the numbers a run goes on from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::nn::parameters::FlatBuffers;
use crate::poa::PoaModel;
use crate::tensor::Tensor;
use crate::train::checkpoint::{Checkpoint, CheckpointWriter};
use crate::train::tensor_file::TensorSpec;

/// The numbers beside the tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Steps done.
    pub step: u64,
    /// Steps whose update was applied (others had non-finite numbers).
    pub applied: u64,
    /// Seed of the run.
    pub seed: u64,
}

const STUDENT: &str = "student.safetensors";
const TEACHER: &str = "teacher.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
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
pub fn save(model: &PoaModel, state: &RunState, dir: &Path) -> Result<PathBuf> {
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
    writer.finish(state)
}

/// Puts a checkpoint's tensors into a model of the same sizes and returns its numbers. A file that is cut short, is
/// something else or belongs to a model of other sizes is an error that names the tensor.
pub fn load(model: &mut PoaModel, dir: &Path) -> Result<RunState> {
    let checkpoint = Checkpoint::open(dir)?;
    let state: RunState = checkpoint.state()?;
    let optimizer = checkpoint.tensors(OPTIMIZER)?;
    let sets = [
        (checkpoint.tensors(STUDENT)?, "", model.student.values()),
        (checkpoint.tensors(TEACHER)?, "", model.teacher.values()),
        (checkpoint.tensors(OPTIMIZER)?, MOMENTS[0], &model.optimizer.m),
        (checkpoint.tensors(OPTIMIZER)?, MOMENTS[1], &model.optimizer.v),
    ];
    for (file, prefix, buffers) in &sets {
        for place in buffers.layout().places() {
            let values = file.read_f32_as(&format!("{prefix}{}", place.spec.name), &place.spec.shape)?;
            buffers.write(&place.spec.name, &values)?;
        }
    }
    for (name, center) in centers(model) {
        center.upload(&optimizer.read_f32_as(&name, center.shape())?)?;
    }
    model.optimizer.applied = state.applied;
    Ok(state)
}

//! The dynamic loss scale of mixed precision: gradients in half precision are multiplied by it on their way
//! back, so that small ones are not lost. It lives on the device and moves there, when the gradients are
//! measured ([`crate::optim::adamw::AdamW::measure`]): the next step is recorded before the host learns how
//! this one went.
//!
//! The rule is PyTorch's `GradScaler`: halved by a step whose gradients are not finite, doubled by 2,000 good
//! steps in a row.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::tensor::{Device, Tensor};

/// The scale of a new run.
pub const START: f32 = 65_536.0;
/// Factor after [`INTERVAL`] good steps.
pub const GROWTH: f32 = 2.0;
/// Factor after a step that was not finite.
pub const BACKOFF: f32 = 0.5;
/// Good steps in a row after which the scale grows.
pub const INTERVAL: u32 = 2_000;

/// The numbers of a loss scale, as checkpoints hold them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleState {
    /// The scale, a power of two.
    pub scale: f32,
    /// Good steps since it last moved.
    pub good_steps: u32,
}

impl Default for ScaleState {
    fn default() -> Self {
        Self { scale: START, good_steps: 0 }
    }
}

impl ScaleState {
    /// The numbers after a step.
    pub fn after(self, finite: bool) -> Self {
        match finite {
            false => Self { scale: self.scale * BACKOFF, good_steps: 0 },
            true if self.good_steps + 1 >= INTERVAL => Self { scale: self.scale * GROWTH, good_steps: 0 },
            true => Self { good_steps: self.good_steps + 1, ..self },
        }
    }
}

/// A loss scale on a device.
pub struct LossScale {
    /// `f32 [2]`: the scale, and the good steps since it last moved.
    state: Tensor,
}

impl LossScale {
    /// The scale of a new run.
    pub fn new(device: &Device) -> Result<Self> {
        let all = Self { state: Tensor::zeros(device, &[2], crate::tensor::DType::F32)? };
        all.set(ScaleState::default())?;
        Ok(all)
    }

    /// The scale, one element.
    pub fn value(&self) -> Result<Tensor> {
        self.state.slice(0, 0..1)
    }

    /// Scale and good steps, as one tensor.
    pub(super) fn state(&self) -> &Tensor {
        &self.state
    }

    /// Reads the numbers. Waits for the device.
    pub fn get(&self) -> Result<ScaleState> {
        let values = self.state.to_vec::<f32>()?;
        Ok(ScaleState { scale: values[0], good_steps: values[1] as u32 })
    }

    /// Overwrites the numbers, those of a checkpoint.
    pub fn set(&self, state: ScaleState) -> Result<()> {
        self.state.upload(&[state.scale, state.good_steps as f32])
    }
}

//! Multi-head self-attention inside the windows of maps, with a relative position bias (Liu et al. 2021):
//! partition, cyclic shift and padding are a table of rows, so no map is copied and no score stays in memory.
//!
//! For the tokens of one window and one head, O = softmax(scale·Q·Kᵀ + B + M)·V. B is the bias of the
//! distance from key to query, M is −100 between regions that the shift brought together. Maps whose sides
//! are no multiple of the window are padded at the bottom right. Padded tokens all have the same q, k and v,
//! those of an input of zeros, which are a row of their own after the maps' rows; as keys they take part, and
//! their row gets its gradient.
//!
//! Saved: the log-sum-exp of every row and head. The gradients of q, k and v are those of
//! [`crate::ops::attention`]; that of B is dS, summed over windows and folded into the table.

mod call;
mod cpu;
mod gpu;
mod windows;

pub use call::problem;
pub use gpu::kernels;
pub use windows::{MapGroup, WindowToken, Windows, window_tokens};

use crate::autograd::{Tape, Target, Var};
use crate::error::Result;
use crate::ops::attention::Plan;
use crate::profile;
use crate::tensor::{Device, Tensor, add_assign};
use call::Call;

impl Call {
    fn forward(&self) -> Result<()> {
        match (self.qkv.device(), &self.plan) {
            (Device::Gpu(device), Some(plan)) => gpu::forward(self, device, plan),
            _ => cpu::forward(self),
        }
    }

    /// dqkv (=), dbias (= or +=)
    fn backward(&self, dout: &Tensor, dqkv: &Tensor, dbias: Option<Target>) -> Result<()> {
        match (self.qkv.device(), &self.plan) {
            (Device::Gpu(device), Some(plan)) => gpu::backward(self, device, plan, dout, dqkv, dbias),
            _ => cpu::backward(self, dout, dqkv, dbias),
        }
    }
}

/// Self-attention of `qkv` `[rows, 3·heads·head_dim]` (q, k and v side by side, each heads × head_dim wide,
/// rows in the order of the maps) inside `windows`. Where maps are padded a last row holds q, k and v of
/// padding. `bias` is `[(2·window − 1)², heads]`; that of a query (y, x) and a key (v, u) is in row (y − v +
/// window − 1)·(2·window − 1) + x − u + window − 1. Gives `[rows, heads·head_dim]`, without the row of
/// padding.
///
/// On a GPU `head_dim` is at most 128, and qkv may be of half precision; then the output is as well.
pub fn window_attention(
    tape: &Tape,
    qkv: &Var,
    bias: &Var,
    windows: &Windows,
    heads: usize,
    scale: f32,
) -> Result<Var> {
    record(tape, qkv, bias, Call::new(qkv.value(), bias.value(), windows, heads, scale, None)?)
}

/// As [`window_attention`], with the kernels of `plan` on a GPU; for tests and benchmarks.
pub fn window_attention_planned(
    tape: &Tape,
    qkv: &Var,
    bias: &Var,
    windows: &Windows,
    (heads, scale): (usize, f32),
    plan: &Plan,
) -> Result<Var> {
    record(tape, qkv, bias, Call::new(qkv.value(), bias.value(), windows, heads, scale, Some(plan))?)
}

fn record(tape: &Tape, qkv: &Var, bias: &Var, call: Call) -> Result<Var> {
    let _span = profile::operation("window_attention");
    call.forward()?;
    let out = call.out.clone();
    Ok(tape.record("window_attention", [qkv, bias], out, move |[dqkv, dbias], dout| {
        let dbias = dbias.target()?;
        match dqkv.target()? {
            Some(Target { tensor, accumulate: false }) => call.backward(&dout, &tensor, dbias),
            // rare: something else reads qkv too, or nothing wants its gradient
            target => {
                let fresh = Tensor::empty(dout.device(), call.qkv.shape(), call.qkv.dtype())?;
                call.backward(&dout, &fresh, dbias)?;
                target.map_or(Ok(()), |t| add_assign(&t.tensor, &fresh))
            }
        }
    }))
}

//! Multi-head self-attention inside the windows of maps, with a relative position bias (Liu et al. 2021): partition,
//! cyclic shift and padding are a table of rows, so no map is copied and no score stays in memory.
//!
//! For the tokens of one window and one head, O = softmax(scale·Q·Kᵀ + B + M)·V. B is the bias of the distance from key to
//! query, M is −100 between regions that the shift brought together. Maps whose sides are no multiple of the window are padded
//! at the bottom right. Padded tokens all have the same q, k and v, those of an input of zeros, which are a row of their own
//! after the maps' rows; as keys they take part, and their row gets its gradient.
//!
//! Saved: the log-sum-exp of every row and head. The gradients of q, k and v are those of [`crate::ops::attention`]; that of
//! B is dS, summed over windows and folded into the table.

mod cpu;
mod gpu;
mod windows;

pub use gpu::kernels;
pub use windows::{MapGroup, Windows};

use crate::autograd::{Tape, Target, Var};
use crate::error::{Error, Result};
use crate::ops::attention::{self, Plan, Problem, SequenceGroup, plan};
use crate::ops::elementwise::add_assign;
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor};

/// What forward and backward share.
struct Call {
    /// `[rows (+ 1), 3·heads·head_dim]`: q, k and v side by side.
    qkv: Tensor,
    /// `[(2·window − 1)², heads]`, rows any distance apart.
    bias: Tensor,
    /// `[rows, heads·head_dim]`
    out: Tensor,
    /// `[1, heads, rows]`: log-sum-exp of the scores; on a GPU `[4, ..]`, with what the backward passes hand on.
    saved: Tensor,
    windows: Windows,
    heads: usize,
    head_dim: usize,
    scale: f32,
    plan: Option<Plan>,
}

impl Call {
    fn new(
        qkv: &Tensor,
        bias: &Tensor,
        windows: &Windows,
        heads: usize,
        scale: f32,
        plan: Option<&Plan>,
    ) -> Result<Self> {
        let Rows { rows, cols, .. } = qkv.rows("window_attention")?;
        let span = 2 * windows.window() - 1;
        let fits = heads > 0 && cols > 0 && cols.is_multiple_of(3 * heads);
        if !fits || rows != windows.input_rows() || bias.shape() != [span * span, heads] {
            let problem = format!(
                "qkv {qkv:?} with {heads} heads and bias {bias:?} in windows of {} over {} rows",
                windows.window(),
                windows.input_rows()
            );
            return Err(Error::shape("window_attention", problem));
        }
        let (head_dim, device) = (cols / 3 / heads, qkv.device());
        let plan = match (device, plan) {
            (Device::Cpu(_), _) => None,
            (Device::Gpu(_), Some(plan)) => Some(plan.clone()),
            (Device::Gpu(gpu), None) => Some(self::plan(&problem(windows, heads, head_dim), gpu.caps())?),
        };
        let kinds = if plan.is_some() { 4 } else { 1 };
        Ok(Self {
            qkv: qkv.clone(),
            bias: bias.clone(),
            out: Tensor::empty(device, &[windows.rows(), cols / 3], DType::F32)?,
            saved: Tensor::empty(device, &[kinds, heads, windows.rows()], DType::F32)?,
            windows: windows.clone(),
            heads,
            head_dim,
            scale,
            plan,
        })
    }

    /// Says what the next kernel does: so many products, as in [`crate::ops::attention`].
    fn say_flops(&self, products: usize) {
        let groups = problem(&self.windows, self.heads, self.head_dim).groups;
        profile::flops(attention::flops(&groups, self.heads, self.head_dim, products));
    }

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

/// The same work as sequences: what plans are made for.
pub fn problem(windows: &Windows, heads: usize, head_dim: usize) -> Problem {
    let group = SequenceGroup { count: windows.count(), length: windows.window().pow(2) };
    Problem { groups: vec![group], heads, head_dim, half: false }
}

/// Self-attention of `qkv` `[rows, 3·heads·head_dim]` (q, k and v side by side, each heads × head_dim wide, rows in the order
/// of the maps) inside `windows`. Where maps are padded a last row holds q, k and v of padding. `bias` is
/// `[(2·window − 1)², heads]`; that of a query (y, x) and a key (v, u) is in row (y − v + window − 1)·(2·window − 1) +
/// x − u + window − 1. Gives `[rows, heads·head_dim]`, without the row of padding.
///
/// On a GPU `head_dim` is at most 128.
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
                let fresh = Tensor::empty(dout.device(), call.qkv.shape(), DType::F32)?;
                call.backward(&dout, &fresh, dbias)?;
                target.map_or(Ok(()), |t| add_assign(&t.tensor, &fresh))
            }
        }
    }))
}

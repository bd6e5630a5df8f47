//! What forward and backward share.

use super::windows::Windows;
use crate::error::{Error, Result};
use crate::ops::attention::{self, Plan, Problem, SequenceGroup};
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor};

/// What forward and backward share.
pub(super) struct Call {
    /// `[rows (+ 1), 3·heads·head_dim]`: q, k and v side by side.
    pub qkv: Tensor,
    /// `[(2·window − 1)², heads]`, rows any distance apart.
    pub bias: Tensor,
    /// `[rows, heads·head_dim]`
    pub out: Tensor,
    /// `[1, heads, rows]`: log-sum-exp of the scores; on a GPU `[4, ..]`, with what the backward passes hand
    /// on.
    pub saved: Tensor,
    pub windows: Windows,
    pub heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub plan: Option<Plan>,
}

impl Call {
    pub fn new(
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
            (Device::Gpu(gpu), None) => {
                Some(attention::plan(&problem(windows, heads, head_dim), gpu.caps())?)
            }
        };
        let kinds = if plan.is_some() { 4 } else { 1 };
        Ok(Self {
            qkv: qkv.clone(),
            bias: bias.clone(),
            out: Tensor::empty(device, &[windows.rows(), cols / 3], qkv.dtype())?,
            saved: Tensor::empty(device, &[kinds, heads, windows.rows()], DType::F32)?,
            windows: windows.clone(),
            heads,
            head_dim,
            scale,
            plan,
        })
    }

    /// Says what the next kernel does: so many products, as in [`crate::ops::attention`].
    pub fn say_flops(&self, products: usize) {
        let groups = problem(&self.windows, self.heads, self.head_dim).groups;
        profile::flops(attention::flops(&groups, self.heads, self.head_dim, products));
    }
}

/// The same work as sequences: what plans are made for.
pub fn problem(windows: &Windows, heads: usize, head_dim: usize) -> Problem {
    let group = SequenceGroup { count: windows.count(), length: windows.window().pow(2) };
    Problem { groups: vec![group], heads, head_dim, half: false }
}

//! Multi-head self-attention inside sequences of several lengths, without a score matrix in memory.
//!
//! For the rows of one sequence and one head, O = softmax(scale·Q·Kᵀ)·V. Scores are made a tile at a time and
//! normalised on the way (online softmax; Milakov & Gimelshein 2018, Dao et al. 2022). Saved: the log-sum-exp L of
//! every row and head. Backward, with P = exp(scale·Q·Kᵀ − L) and D = rowsum(dO∘O):
//!
//! dV = Pᵀ·dO, dS = P∘(dO·Vᵀ − D), dQ = scale·dS·K, dK = scale·dSᵀ·Q.

mod cpu;
mod gpu;
pub(in crate::ops) mod head;
mod self_test;

pub(in crate::ops) use gpu::{Pass, in_vectors, vector_choices};
pub use gpu::{Plan, Problem, Variant, kernels, plain_plans, plan, plans};
pub use self_test::self_test;

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::ops::elementwise::add_assign;
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor};

/// `count` sequences of `length` rows, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceGroup {
    /// Number of sequences.
    pub count: usize,
    /// Rows of each.
    pub length: usize,
}

/// What forward and backward share.
struct Call {
    /// `[rows, 3·heads·head_dim]`: q, k and v side by side.
    qkv: Tensor,
    /// `[rows, heads·head_dim]`
    out: Tensor,
    /// `[1, heads, rows]`: log-sum-exp of the scaled scores; on a GPU `[2, ..]`, with D of the backward pass.
    saved: Tensor,
    /// Groups that hold rows.
    groups: Vec<SequenceGroup>,
    heads: usize,
    head_dim: usize,
    scale: f32,
    plan: Option<Plan>,
}

impl Call {
    /// Checks the shapes and allocates the outputs. `plan` overrides the kernels that would be chosen.
    fn new(
        qkv: &Tensor,
        groups: &[SequenceGroup],
        heads: usize,
        scale: f32,
        plan: Option<&Plan>,
    ) -> Result<Self> {
        let Rows { rows, cols, .. } = qkv.rows("attention")?;
        let total: usize = groups.iter().map(|g| g.count * g.length).sum();
        if heads == 0 || cols == 0 || !cols.is_multiple_of(3 * heads) || total != rows {
            let problem = format!("qkv {qkv:?} with {heads} heads and sequences {groups:?} ({total} rows)");
            return Err(Error::shape("attention", problem));
        }
        let groups = merge(groups);
        let (head_dim, device) = (cols / 3 / heads, qkv.device());
        let plan = match device {
            Device::Cpu(_) => None,
            Device::Gpu(gpu) => Some(match plan {
                Some(plan) => plan.clone(),
                None => {
                    let half = qkv.dtype() == DType::F16 && in_vectors(head_dim, &[qkv.rows("attention")?]);
                    gpu::plan(&Problem { groups: groups.clone(), heads, head_dim, half }, gpu.caps())?
                }
            }),
        };
        Ok(Self {
            qkv: qkv.clone(),
            out: Tensor::empty(device, &[rows, cols / 3], qkv.dtype())?,
            saved: Tensor::empty(device, &[if plan.is_some() { 2 } else { 1 }, heads, rows], DType::F32)?,
            groups,
            heads,
            head_dim,
            scale,
            plan,
        })
    }

    /// See [`flops`].
    fn flops(&self, groups: &[SequenceGroup], products: usize) -> f64 {
        flops(groups, self.heads, self.head_dim, products)
    }

    fn forward(&self) -> Result<()> {
        match (self.qkv.device(), &self.plan) {
            (Device::Gpu(device), Some(plan)) => gpu::forward(self, device, plan),
            _ => cpu::forward(self),
        }
    }

    /// dqkv (= or +=)
    fn backward(&self, dout: &Tensor, dqkv: &Tensor, accumulate: bool) -> Result<()> {
        match (self.qkv.device(), &self.plan) {
            (Device::Gpu(device), Some(plan)) if accumulate => {
                // rare: only where something else reads qkv too
                let fresh = Tensor::empty(dqkv.device(), dqkv.shape(), dqkv.dtype())?;
                gpu::backward(self, device, plan, dout, &fresh)?;
                add_assign(dqkv, &fresh)
            }
            (Device::Gpu(device), Some(plan)) => gpu::backward(self, device, plan, dout, dqkv),
            _ => cpu::backward(self, dout, dqkv, accumulate),
        }
    }
}

/// Floating-point operations of so many products that make scores or take them, and of an exponential a score.
pub(in crate::ops) fn flops(groups: &[SequenceGroup], heads: usize, head_dim: usize, products: usize) -> f64 {
    let scores: usize = groups.iter().map(|g| g.count * g.length.pow(2) * heads).sum();
    scores as f64 * ((2 * products * head_dim) as f64 + profile::EXPONENTIAL)
}

/// The groups that hold rows; neighbours of one length become one.
fn merge(groups: &[SequenceGroup]) -> Vec<SequenceGroup> {
    let mut merged: Vec<SequenceGroup> = Vec::new();
    for &group in groups.iter().filter(|g| g.count * g.length > 0) {
        match merged.last_mut() {
            Some(last) if last.length == group.length => last.count += group.count,
            _ => merged.push(group),
        }
    }
    merged
}

/// Self-attention of `qkv` `[rows, 3·heads·head_dim]` (q, k and v side by side, each heads × head_dim wide), inside
/// each of the sequences that `groups` cut the rows into. Gives `[rows, heads·head_dim]`.
///
/// On a GPU `head_dim` is at most 128, and qkv may be of half precision; then the output is as well.
pub fn attention(tape: &Tape, qkv: &Var, groups: &[SequenceGroup], heads: usize, scale: f32) -> Result<Var> {
    record(tape, qkv, Call::new(qkv.value(), groups, heads, scale, None)?)
}

/// As [`attention`], with the kernels of `plan` on a GPU; for tests and benchmarks.
pub fn attention_planned(
    tape: &Tape,
    qkv: &Var,
    groups: &[SequenceGroup],
    heads: usize,
    scale: f32,
    plan: &Plan,
) -> Result<Var> {
    record(tape, qkv, Call::new(qkv.value(), groups, heads, scale, Some(plan))?)
}

fn record(tape: &Tape, qkv: &Var, call: Call) -> Result<Var> {
    let _span = profile::operation("attention");
    call.forward()?;
    let out = call.out.clone();
    Ok(tape.record("attention", [qkv], out, move |[dqkv], dout| {
        dqkv.write(|dqkv, accumulate| call.backward(&dout, dqkv, accumulate))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_groups_of_one_length_merge() {
        let group = |count, length| SequenceGroup { count, length };
        let merged = merge(&[group(2, 5), group(0, 7), group(1, 5), group(3, 0), group(4, 2)]);
        assert_eq!(merged, [group(3, 5), group(4, 2)]);
    }
}

//! Multi-head self-attention inside sequences of several lengths, without a score matrix in memory.
//!
//! For the rows of one sequence and one head, O = softmax(scale·Q·Kᵀ)·V. Scores are made a tile at a time and
//! normalised on the way (online softmax; Milakov & Gimelshein 2018, Dao et al. 2022). Saved: the log-sum-exp
//! L of every row and head. Backward, with P = exp(scale·Q·Kᵀ − L) and D = rowsum(dO∘O):
//!
//! dV = Pᵀ·dO, dS = P∘(dO·Vᵀ − D), dQ = scale·dS·K, dK = scale·dSᵀ·Q.

mod call;
mod cpu;
mod gpu;
pub(in crate::ops) mod head;
mod plan;
mod queries;
mod self_test;

pub(in crate::ops) use call::flops;
pub use plan::{MAX_HEAD, Plan, Problem, SequenceGroup, Variant, kernels, plain_plans, plan, plans};
pub(in crate::ops) use plan::{Pass, in_vectors, vector_choices};
pub use queries::Queries;
pub use self_test::{check_attention, self_test};

use crate::autograd::{Tape, Var};
use crate::error::Result;
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

/// Self-attention of `qkv` `[rows, 3·heads·head_dim]` (q, k and v side by side, each heads × head_dim wide),
/// inside each of the sequences that `groups` cut the rows into. Gives `[rows, heads·head_dim]`.
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

/// Attention of some tokens alone to all tokens of their sequences, `heads` being how many and how wide; `qkv`
/// has q `[queries, heads·head_dim]`, sequence after sequence, and then k and v side by side, `[rows,
/// 2·heads·head_dim]`, as [`linear_pair`](crate::ops::linear::linear_pair) makes them. Gives `[queries,
/// heads·head_dim]`.
pub fn attention_of(
    tape: &Tape,
    qkv: &Var,
    groups: &[SequenceGroup],
    queries: &Queries,
    heads: [usize; 2],
    scale: f32,
) -> Result<Var> {
    record(tape, qkv, Call::of_queries(qkv.value(), groups, queries, heads, scale, None)?)
}

/// As [`attention_of`], with the kernels of `plan` on a GPU; for tests.
pub fn attention_of_planned(
    tape: &Tape,
    qkv: &Var,
    groups: &[SequenceGroup],
    queries: &Queries,
    heads: [usize; 2],
    scale: f32,
    plan: &Plan,
) -> Result<Var> {
    record(tape, qkv, Call::of_queries(qkv.value(), groups, queries, heads, scale, Some(plan))?)
}

fn record(tape: &Tape, qkv: &Var, call: Call) -> Result<Var> {
    let _span = profile::operation("attention");
    call.forward()?;
    let out = call.out.clone();
    Ok(tape.record("attention", [qkv], out, move |[dqkv], dout| {
        dqkv.write(|dqkv, accumulate| call.backward(&dout, dqkv, accumulate))
    }))
}

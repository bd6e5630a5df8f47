//! What forward and backward share.

use super::plan::{self, Plan, Problem, SequenceGroup, in_vectors};
use super::queries::Queries;
use crate::error::{Error, Result};
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor};

/// What forward and backward share.
pub(super) struct Call {
    /// q, k and v of all: what a GPU binds.
    pub qkv: Tensor,
    /// `[queries, heads·head_dim]`, in the memory of `qkv`.
    pub q: Tensor,
    /// `[keys, 2·heads·head_dim]`: k and v side by side, in the memory of `qkv`.
    pub kv: Tensor,
    /// `[queries, heads·head_dim]`
    pub out: Tensor,
    /// `[1, heads, queries]`: log-sum-exp of the scaled scores; on a GPU `[2, ..]`, with D of the backward pass.
    pub saved: Tensor,
    /// Groups that hold rows.
    pub groups: Vec<SequenceGroup>,
    /// Where not every token has a query.
    pub queries: Option<Queries>,
    pub heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub plan: Option<Plan>,
}

impl Call {
    /// Every token has a query: `qkv` `[rows, 3·heads·head_dim]`. Checks the shapes and allocates the outputs. `plan`
    /// overrides the kernels that would be chosen.
    pub fn new(
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
        let head_dim = cols / 3 / heads;
        let [q, kv] = parts(qkv, None, heads * head_dim)?;
        Self::of([qkv, &q, &kv], merge(groups), None, [heads, head_dim], scale, plan)
    }

    /// Some tokens have a query: `qkv` is q `[queries, heads·head_dim]` and then k and v `[rows, 2·heads·head_dim]`,
    /// one after the other.
    pub fn of_queries(
        qkv: &Tensor,
        groups: &[SequenceGroup],
        queries: &Queries,
        [heads, head_dim]: [usize; 2],
        scale: f32,
        plan: Option<&Plan>,
    ) -> Result<Self> {
        let sequences: usize = groups.iter().map(|g| g.count).sum();
        let keys: usize = groups.iter().map(|g| g.count * g.length).sum();
        let asked: usize = queries.counts.iter().sum();
        let fits = qkv.layout().is_contiguous() && qkv.elements() == (asked + 2 * keys) * heads * head_dim;
        if heads * head_dim == 0 || sequences != queries.counts.len() || !fits {
            let problem = format!(
                "{qkv:?} for {asked} queries of {} sequences among {groups:?}, {heads} heads of {head_dim}",
                queries.counts.len()
            );
            return Err(Error::shape("attention", problem));
        }
        let [q, kv] = parts(qkv, Some(queries), heads * head_dim)?;
        Self::of([qkv, &q, &kv], groups.to_vec(), Some(queries), [heads, head_dim], scale, plan)
    }

    fn of(
        [qkv, q, kv]: [&Tensor; 3],
        groups: Vec<SequenceGroup>,
        queries: Option<&Queries>,
        [heads, head_dim]: [usize; 2],
        scale: f32,
        plan: Option<&Plan>,
    ) -> Result<Self> {
        let device = qkv.device();
        let plan = match device {
            Device::Cpu(_) => None,
            Device::Gpu(gpu) => Some(match plan {
                Some(plan) => plan.clone(),
                None => {
                    let longest = groups.iter().map(|group| group.length).max().unwrap_or(0);
                    gpu.caps().check_rounds("attention", longest, "a sequence")?;
                    let read = [q.rows("attention")?, kv.rows("attention")?];
                    let half = qkv.dtype() == DType::F16 && in_vectors(head_dim, &read);
                    // by the sequences alone: how many queries there are changes from step to step, and with it
                    // the kernels would
                    plan::plan(&Problem { groups: groups.clone(), heads, head_dim, half }, gpu.caps())?
                }
            }),
        };
        let asked = q.dim(0);
        Ok(Self {
            qkv: qkv.clone(),
            q: q.clone(),
            kv: kv.clone(),
            out: Tensor::empty(device, &[asked, heads * head_dim], qkv.dtype())?,
            saved: Tensor::empty(device, &[if plan.is_some() { 2 } else { 1 }, heads, asked], DType::F32)?,
            groups,
            queries: queries.cloned(),
            heads,
            head_dim,
            scale,
            plan,
        })
    }

    /// The part of q and that of k and v of a matrix like `qkv`: of its gradient.
    pub fn parts(&self, dqkv: &Tensor) -> Result<[Tensor; 2]> {
        parts(dqkv, self.queries.as_ref(), self.heads * self.head_dim)
    }

    /// Queries and keys of each sequence.
    pub fn sequences(&self) -> impl Iterator<Item = (usize, usize)> {
        let counts = self.queries.as_ref().map(|q| &q.counts);
        SequenceGroup::lengths(&self.groups)
            .enumerate()
            .map(move |(i, length)| (counts.map_or(length, |c| c[i]), length))
    }

    /// See [`flops`].
    pub fn flops(&self, groups: &[SequenceGroup], products: usize) -> f64 {
        flops(groups, self.heads, self.head_dim, products)
    }

    /// The same of all sequences.
    pub fn all_flops(&self, products: usize) -> f64 {
        let scores: usize = self.sequences().map(|(queries, keys)| queries * keys * self.heads).sum();
        flops_of(scores, self.head_dim, products)
    }
}

/// Queries, and keys and values, of what holds all of them for heads of `width` elements together.
fn parts(qkv: &Tensor, queries: Option<&Queries>, width: usize) -> Result<[Tensor; 2]> {
    let Some(queries) = queries else {
        return Ok([qkv.slice(1, 0..width)?, qkv.slice(1, width..3 * width)?]);
    };
    let asked: usize = queries.counts.iter().sum();
    let keys = (qkv.elements() - asked * width) / (2 * width);
    let all = qkv.reshape(&[qkv.elements()])?;
    let kv = all.slice(0, asked * width..all.elements())?.reshape(&[keys, 2 * width])?;
    Ok([all.slice(0, 0..asked * width)?.reshape(&[asked, width])?, kv])
}

/// Floating-point operations of so many products that make scores or take them, and of an exponential a
/// score.
pub(in crate::ops) fn flops(groups: &[SequenceGroup], heads: usize, head_dim: usize, products: usize) -> f64 {
    let scores: usize = groups.iter().map(|g| g.count * g.length.pow(2) * heads).sum();
    flops_of(scores, head_dim, products)
}

fn flops_of(scores: usize, head_dim: usize, products: usize) -> f64 {
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

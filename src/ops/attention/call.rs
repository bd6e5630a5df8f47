//! What forward and backward share.

use super::plan::{self, Plan, Problem, SequenceGroup, in_vectors};
use crate::error::{Error, Result};
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor};

/// What forward and backward share.
pub(super) struct Call {
    /// `[rows, 3·heads·head_dim]`: q, k and v side by side.
    pub qkv: Tensor,
    /// `[rows, heads·head_dim]`
    pub out: Tensor,
    /// `[1, heads, rows]`: log-sum-exp of the scaled scores; on a GPU `[2, ..]`, with D of the backward pass.
    pub saved: Tensor,
    /// Groups that hold rows.
    pub groups: Vec<SequenceGroup>,
    pub heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub plan: Option<Plan>,
}

impl Call {
    /// Checks the shapes and allocates the outputs. `plan` overrides the kernels that would be chosen.
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
        let groups = merge(groups);
        let (head_dim, device) = (cols / 3 / heads, qkv.device());
        let plan = match device {
            Device::Cpu(_) => None,
            Device::Gpu(gpu) => Some(match plan {
                Some(plan) => plan.clone(),
                None => {
                    let half = qkv.dtype() == DType::F16 && in_vectors(head_dim, &[qkv.rows("attention")?]);
                    plan::plan(&Problem { groups: groups.clone(), heads, head_dim, half }, gpu.caps())?
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
    pub fn flops(&self, groups: &[SequenceGroup], products: usize) -> f64 {
        flops(groups, self.heads, self.head_dim, products)
    }
}

/// Floating-point operations of so many products that make scores or take them, and of an exponential a
/// score.
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

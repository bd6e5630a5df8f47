//! The teacher's targets of a step. With several ranks, what is normalised over the batch is normalised over the rows
//! of all ranks (poa-facts "Several ranks"): heads are then taken together, so that one message an iteration does for
//! all of them, and a rank without masked patches takes part all the same.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::ops::gather::narrow_rows;
use crate::ops::joint_sinkhorn::{OwnRows, sinkhorn_jointly};
use crate::ops::reduce::column_sum;
use crate::ops::sinkhorn::{centering, sinkhorn, teacher_logits, update_center};
use crate::ops::weight_norm;
use crate::poa::PoaModel;
use crate::poa::losses::HeadTargets;
use crate::poa::model::PoaHead;
use crate::poa::rows::RowCounts;
use crate::tensor::{DType, PendingRead, Tensor, add_scaled, copy, scale, to_type};

/// Momentum of the centres in `centering` mode.
const CENTER_MOMENTUM: f32 = 0.9;

/// What a step's targets are made from.
#[derive(Clone, Copy)]
pub(super) struct TargetInputs<'a> {
    pub counts: &'a RowCounts,
    /// Whether the step has masks, on whatever rank: some ranks may have no masked patch.
    pub has_masks: bool,
    /// The teacher's features: cls tokens with the views exchanged, then masked patches.
    pub teacher: &'a Var,
    /// τt.
    pub temperature: f64,
}

impl PoaModel {
    /// How many heads' targets are made at a time: each takes its logits' memory until its loss is known.
    pub(super) fn heads_together(&self) -> usize {
        if self.ranks.is_alone() { 1 } else { self.heads.len() }
    }

    /// The targets of some heads.
    pub(super) fn targets(&self, heads: &[PoaHead], inputs: &TargetInputs) -> Result<Vec<HeadTargets>> {
        match (self.ranks.is_alone(), heads.iter().all(|head| head.centers.is_some())) {
            (true, _) => heads.iter().map(|head| self.own_targets(head, inputs)).collect(),
            (false, true) => self.centred_targets(heads, inputs),
            (false, false) => self.joint_targets(heads, inputs),
        }
    }

    /// The rows of each kind that a head sees on this rank, as ranges of the teacher's features; `None` for a kind that
    /// it sees on no rank.
    fn rows(&self, head: &PoaHead, inputs: &TargetInputs) -> [Option<std::ops::Range<usize>>; 2] {
        let (global, masked) = (inputs.counts.global(), inputs.counts.masked());
        [
            head.part.has_cls().then_some(0..global),
            (head.part.has_masked() && inputs.has_masks).then_some(global..global + masked),
        ]
    }

    /// The teacher's logits for some of its features.
    fn logits(
        &self,
        head: &PoaHead,
        inputs: &TargetInputs,
        rows: std::ops::Range<usize>,
        weight: &Tensor,
    ) -> Result<Vec<Tensor>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let tape = Tape::no_grad();
        let features = narrow_rows(&tape, inputs.teacher, rows.start, rows.len())?;
        let z = head.projection.forward(&tape, &self.teacher, &features)?;
        teacher_logits(&to_type(z.value(), weight.dtype())?, weight)
    }

    /// The prototypes' effective weight, as an operand of products.
    fn prototypes(&self, head: &PoaHead) -> Result<Tensor> {
        let (v, g) = head.projection.prototypes(&self.teacher)?;
        let norm = weight_norm::effective(v.value(), g.value())?;
        let operands = if self.optimizer.loss_scale().is_some() { DType::F16 } else { DType::F32 };
        to_type(norm.weight(), operands)
    }

    fn own_targets(&self, head: &PoaHead, inputs: &TargetInputs) -> Result<HeadTargets> {
        let weight = self.prototypes(head)?;
        let mut all = [None, None];
        for (kind, rows) in self.rows(head, inputs).into_iter().enumerate() {
            let Some(rows) = rows.filter(|rows| !rows.is_empty()) else { continue };
            let logits = self.logits(head, inputs, rows, &weight)?;
            let Some(centers) = &head.centers else {
                all[kind] = Some(sinkhorn(logits, inputs.temperature, self.settings.sinkhorn_iterations)?);
                continue;
            };
            let targets = centering(logits, &centers[kind], inputs.temperature)?;
            update_center(&centers[kind], targets.logits(), CENTER_MOMENTUM)?;
            all[kind] = Some(targets);
        }
        Ok(all)
    }

    fn joint_targets(&self, heads: &[PoaHead], inputs: &TargetInputs) -> Result<Vec<HeadTargets>> {
        let mut all: Vec<HeadTargets> = Vec::new();
        let (mut places, mut matrices) = (Vec::new(), Vec::new());
        for (i, head) in heads.iter().enumerate() {
            all.push([None, None]);
            let weight = self.prototypes(head)?;
            for (kind, rows) in self.rows(head, inputs).into_iter().enumerate() {
                let Some(rows) = rows else { continue };
                let logits = self.logits(head, inputs, rows, &weight)?;
                matrices.push(OwnRows { logits, prototypes: head.projection.sizes.prototypes });
                places.push((i, kind));
            }
        }
        let mut combine = |sums| self.ranks.log_sum_exp(sums);
        let iterations = self.settings.sinkhorn_iterations;
        let found = sinkhorn_jointly(matrices, inputs.temperature, iterations, &mut combine)?;
        for ((head, kind), targets) in places.into_iter().zip(found) {
            all[head][kind] = targets;
        }
        Ok(all)
    }

    /// Centres move towards the mean over ranks of each rank's mean; a rank without rows has none and is left out.
    /// Official: means of all ranks, with NaN where one has no masked patch.
    fn centred_targets(&self, heads: &[PoaHead], inputs: &TargetInputs) -> Result<Vec<HeadTargets>> {
        let (mut all, mut means, mut centers) = (Vec::new(), Vec::new(), Vec::new());
        for head in heads {
            let mut targets = [None, None];
            let weight = self.prototypes(head)?;
            for (kind, rows) in self.rows(head, inputs).into_iter().enumerate() {
                let (Some(rows), Some(own)) = (rows, &head.centers) else { continue };
                let (center, count) = (&own[kind], rows.len());
                let logits = self.logits(head, inputs, rows, &weight)?;
                let mean = Tensor::zeros(&self.device, center.shape(), DType::F32)?;
                for chunk in &logits {
                    column_sum(chunk, &mean, 1.0 / count as f32, true)?;
                }
                means.push((mean, count > 0));
                centers.push(center);
                if count > 0 {
                    targets[kind] = Some(centering(logits, center, inputs.temperature)?);
                }
            }
            all.push(targets);
        }
        let tensors: Vec<&Tensor> = means.iter().map(|(mean, _)| mean).collect();
        let mut sums = PendingRead::of(&self.device, &tensors)?.wait()?;
        sums.extend(means.iter().map(|(_, counts)| f32::from(u8::from(*counts))));
        self.ranks.sum(&mut sums)?;
        let counts = sums.split_off(sums.len() - means.len());
        let mut rest = sums.as_slice();
        for (center, count) in centers.into_iter().zip(counts) {
            let (own, others) = rest.split_at(center.elements());
            rest = others;
            if count > 0.0 {
                let sum = Tensor::from_slice(&self.device, center.shape(), own)?;
                let moved = Tensor::empty(&self.device, center.shape(), DType::F32)?;
                scale(&moved, center, CENTER_MOMENTUM)?;
                add_scaled(&moved, &sum, (1.0 - CENTER_MOMENTUM) / count)?;
                copy(center, &moved)?;
            }
        }
        Ok(all)
    }
}

//! One training step: the branches forward, the losses, one backward pass; then the update.

use rand_chacha::ChaCha8Rng;

use crate::autograd::{Tape, Var};
use crate::data::batch::{Batch, GLOBAL, LOCAL, Masks};
use crate::error::{Error, Result};
use crate::models::backbone::{CropBatch, Token, Tokens};
use crate::models::grid::Network;
use crate::ops::cast::cast;
use crate::ops::gather::narrow_rows;
use crate::ops::koleo::koleo;
use crate::ops::prototype_loss::{LossRows, PrototypeLoss, Segment, prototype_loss, scale_by};
use crate::optim::loss_scale::LossScale;
use crate::poa::PoaModel;
use crate::poa::losses::{HeadRecord, HeadTargets, StepRecord};
use crate::poa::model::PoaHead;
use crate::poa::rows::{Part, PartRows, RowCounts};
use crate::poa::targets::TargetInputs;
use crate::profile;
use crate::tensor::{DType, Tensor, add_scaled, to_type};

/// What a step depends on beside its images.
pub struct StepInputs<'a> {
    /// The sub-network of the step: the elastic student, where there is one.
    pub network: Network,
    /// τt.
    pub teacher_temp: f64,
    /// Where stochastic depth comes from; `None` leaves it off.
    pub drop_path: Option<&'a mut ChaCha8Rng>,
    /// What the batch's gradients count in the step: 1, or with gradient accumulation or several ranks its share
    /// of the images.
    pub share: f64,
    /// Whether [`StepRecord::health`] is wanted.
    pub health: bool,
    /// Whether the targets are to be kept in the record.
    pub keep_targets: bool,
}

impl<'a> StepInputs<'a> {
    /// A step of one batch, without stochastic depth.
    pub fn new(network: Network, teacher_temp: f64) -> Self {
        Self { network, teacher_temp, drop_path: None, share: 1.0, health: false, keep_targets: false }
    }

    /// The same step with stochastic depth drawn from `rng`.
    pub fn with_drop_path(self, rng: &'a mut ChaCha8Rng) -> Self {
        Self { drop_path: Some(rng), ..self }
    }
}

/// What is the same for all branches and heads of a step.
struct Prepared {
    counts: RowCounts,
    /// The global crops with their masks, then the local ones.
    crops: Vec<CropBatch>,
    /// (crop, patch) of every masked patch.
    masked: Vec<(usize, usize)>,
    /// Whether there are masks, on whatever rank.
    has_masks: bool,
}

impl PoaModel {
    /// Runs the branches and adds the students' gradients to the parameters' gradient buffers. Nothing
    /// is read back; [`StepRecord::read`] does that when the losses are due.
    ///
    /// In mixed precision the gradients come multiplied by the optimiser's loss scale.
    ///
    /// With gradient accumulation this is called once for each batch of a step, each with its share:
    /// Sinkhorn-Knopp and KoLeo see one batch at a time, all else is the mean over the batches. With several ranks
    /// all call it at once, and Sinkhorn-Knopp and the centres see the rows of all of them.
    pub fn forward_backward(&self, batch: &Batch, inputs: &mut StepInputs) -> Result<StepRecord> {
        let _products = self.device.bf16_products(self.settings.bf16);
        let prepared = self.prepare(batch)?;
        let (branches, intact, drawn) = (self.settings.branches, self.grid.intact(), inputs.network);
        let teacher = self.teacher_features(&prepared, branches.teacher(intact, drawn), true)?;
        let second = branches.second_teacher(drawn);
        let second = second.map(|network| self.teacher_features(&prepared, network, false)).transpose()?;
        let tape = match self.settings.checkpoint_blocks {
            true => Tape::recomputing(),
            false => Tape::new(),
        };
        let mut students = Vec::new();
        for network in branches.students(intact, drawn) {
            let _phase = profile::phase("student");
            let drop_path = inputs.drop_path.as_deref_mut();
            let tokens = self.backbone.forward(&tape, &self.student, network, &prepared.crops, drop_path)?;
            students.push(prepared.student_features(&tape, &*tokens)?);
        }
        let total = Tensor::zeros(&self.device, &[1], DType::F32)?;
        let loss_scale = self.optimizer.loss_scale().map(LossScale::value).transpose()?;
        // a loss, its weight, and whether the loss scale is in its gradients already
        let mut seeds: Vec<(Var, f32, bool)> = Vec::new();
        let share = inputs.share as f32;
        let mut heads = Vec::new();
        let mut tables: Vec<(Part, PartRows)> = Vec::new();
        let target_inputs = TargetInputs {
            counts: &prepared.counts,
            has_masks: prepared.has_masks,
            teacher: &teacher,
            temperature: inputs.teacher_temp,
        };
        for group in self.heads.chunks(self.heads_together()) {
            let (targets, of_second) = {
                let _phase = profile::phase("head");
                let of_second = match &second {
                    Some(teacher) => {
                        self.targets(group, &TargetInputs { teacher, has_masks: false, ..target_inputs })?
                    }
                    None => group.iter().map(|_| [None, None]).collect(),
                };
                (self.targets(group, &target_inputs)?, of_second)
            };
            for ((head, targets), of_second) in group.iter().zip(targets).zip(of_second) {
                if head.part == Part::Masked && prepared.masked.is_empty() {
                    continue;
                }
                if !tables.iter().any(|(part, _)| *part == head.part) {
                    let count = self.heads.iter().filter(|h| h.part == head.part).count();
                    let rows =
                        head.part.rows(&self.device, &prepared.counts, &self.settings.weights, count)?;
                    tables.push((head.part, rows));
                }
                let rows = &tables.iter().find(|(part, _)| *part == head.part).expect("just made").1;
                let record = self.head_loss(
                    &tape,
                    head,
                    &prepared.counts,
                    [targets, of_second],
                    &students,
                    rows,
                    inputs,
                )?;
                seeds.push((record.loss.total.clone(), 1.0, true));
                seeds.extend(record.second_teacher.as_ref().map(|loss| (loss.total.clone(), 1.0, true)));
                heads.push(record);
            }
        }
        let mut koleos = Vec::new();
        if self.settings.weights.koleo > 0.0 {
            for features in &students {
                let global = narrow_rows(&tape, features, 0, prepared.counts.global())?;
                let value = koleo(&tape, &cast(&tape, &global, DType::F32)?, 2)?;
                koleos.push(value.value().clone());
                seeds.push((value, self.settings.weights.koleo as f32, false));
            }
        }
        let teacher_cls = match inputs.health {
            true => Some(to_type(&teacher.value().slice(0, 0..prepared.counts.global())?, DType::F32)?),
            false => None,
        };
        drop((teacher, second, students));
        let mut cotangents = Vec::new();
        for (value, weight, scaled) in &seeds {
            add_scaled(&total, &value.value().reshape(&[1])?, *weight)?;
            let shape = value.value().shape();
            let mut cotangent = Tensor::from_slice(&self.device, shape, &[*weight * share])?;
            if let Some(scale) = loss_scale.as_ref().filter(|_| !scaled) {
                let unscaled = cotangent;
                cotangent = Tensor::empty(&self.device, shape, DType::F32)?;
                scale_by(&cotangent, &unscaled, scale, false)?;
            }
            cotangents.push((value, cotangent));
        }
        let _phase = profile::phase("backward");
        tape.backward(cotangents)?;
        Ok(StepRecord { counts: prepared.counts, heads, koleo: koleos, total, teacher_cls })
    }

    /// Two global crops an image, masked or not, and as many local ones as the model has losses for.
    fn prepare(&self, batch: &Batch) -> Result<Prepared> {
        let (images, locals) = (batch.images(), self.settings.locals);
        let (global, local) = (batch.group(GLOBAL)?, batch.find(LOCAL));
        if global.views != 2 || local.map_or(0, |group| group.views) != locals {
            let found: Vec<String> =
                batch.groups().iter().map(|group| format!("{} `{}`", group.views, group.name)).collect();
            let problem = format!(
                "crops an image: 2 `{GLOBAL}`, {locals} `{LOCAL}` expected, got {}",
                found.join(", ")
            );
            return Err(Error::shape("step", problem));
        }
        let (mut masked, mut weights) = (Vec::new(), Vec::new());
        if let Some(Masks { side, values }) = &global.masks {
            let cells = self.backbone.cells(global.size);
            if *side != cells {
                let problem =
                    format!("masks of {side}x{side} cells for crops of {cells}x{cells} patch tokens");
                return Err(Error::shape("step", problem));
            }
            for (crop, mask) in values.chunks(side * side).enumerate() {
                let first = masked.len();
                let hidden = mask.iter().enumerate().filter(|(_, m)| **m != 0);
                masked.extend(hidden.map(|(patch, _)| (crop, patch)));
                let count = masked.len() - first;
                weights.extend(std::iter::repeat_n(1.0 / count as f32, count));
            }
        }
        let crops = std::iter::once(global).chain(local);
        Ok(Prepared {
            counts: RowCounts { images, locals, masked_weights: weights },
            crops: CropBatch::upload(&self.device, crops)?,
            masked,
            has_masks: global.masks.is_some(),
        })
    }

    /// The features of a teacher: cls tokens with the views exchanged, then the masked patches where they are wanted.
    fn teacher_features(&self, prepared: &Prepared, network: Network, masked: bool) -> Result<Var> {
        let _phase = profile::phase("teacher");
        let tape = Tape::no_grad();
        let crops = [CropBatch::new(prepared.crops[0].images.clone())];
        let tokens = self.backbone.forward(&tape, &self.teacher, network, &crops, None)?;
        let b = prepared.counts.images;
        let cls = (b..2 * b).chain(0..b).map(|crop| Token::Cls { group: 0, crop });
        let patches = prepared.masked_tokens().filter(|_| masked);
        tokens.features(&tape, &cls.chain(patches).collect::<Vec<_>>())
    }

    #[allow(clippy::too_many_arguments)]
    fn head_loss(
        &self,
        tape: &Tape,
        head: &PoaHead,
        counts: &RowCounts,
        [targets, of_second]: [HeadTargets; 2],
        students: &[Var],
        rows: &PartRows,
        inputs: &StepInputs,
    ) -> Result<HeadRecord> {
        let _phase = profile::phase("head");
        let part = |tape: &Tape, features: &Var, cls: usize| match head.part {
            Part::All => Ok(features.clone()),
            Part::Cls => narrow_rows(tape, features, 0, cls),
            Part::Masked => narrow_rows(tape, features, cls, counts.masked()),
        };
        let bottleneck = |features: &Var| -> Result<Var> {
            head.projection.forward(tape, &self.student, &part(tape, features, counts.cls())?)
        };
        let intact = bottleneck(&students[0])?;
        let elastic = students.get(1).map(bottleneck).transpose()?;
        let (v, g) = head.projection.prototypes(&self.student)?;
        let mut segments = Vec::new();
        let mut first = 0;
        for (targets, is_cls) in targets.iter().zip([true, false]) {
            let Some(targets) = targets else { continue };
            let count = if is_cls { counts.cls() } else { counts.masked() };
            segments.push(Segment {
                rows: first..first + count,
                targets,
                distill: is_cls && elastic.is_some() && self.settings.weights.distill > 0.0,
            });
            first += count;
        }
        let loss_scale = self.optimizer.loss_scale().map(LossScale::value).transpose()?;
        let loss = |first: &Var, second: Option<&Var>, rows: &LossRows, segments: &[Segment]| {
            let call = PrototypeLoss {
                intact: first,
                elastic: second,
                v: &v,
                g: &g,
                rows,
                segments,
                temperature: self.settings.student_temp,
                budget: self.settings.logits_budget,
                loss_scale: loss_scale.as_ref(),
            };
            prototype_loss(tape, &call)
        };
        let second_teacher = match (&of_second[0], &elastic, &rows.second_teacher) {
            (Some(targets), Some(elastic), Some(rows)) => {
                let segment = Segment { rows: 0..counts.cls(), targets, distill: false };
                Some(loss(elastic, None, rows, &[segment])?)
            }
            _ => None,
        };
        let loss = loss(&intact, elastic.as_ref(), &rows.all, &segments)?;
        let entropy = match &targets[0] {
            Some(targets) if inputs.health => Some(targets.entropy()?),
            _ => None,
        };
        Ok(HeadRecord {
            index: head.projection.index,
            part: head.part,
            prototypes: head.projection.sizes.prototypes,
            loss,
            second_teacher,
            entropy,
            targets: inputs.keep_targets.then_some(targets),
        })
    }
}

impl Prepared {
    /// A student's features: global cls, local cls, masked patches.
    fn student_features(&self, tape: &Tape, tokens: &dyn Tokens) -> Result<Var> {
        let c = &self.counts;
        let global = (0..c.global()).map(|crop| Token::Cls { group: 0, crop });
        let local = (0..c.locals * c.images).map(|crop| Token::Cls { group: 1, crop });
        tokens.features(tape, &global.chain(local).chain(self.masked_tokens()).collect::<Vec<_>>())
    }

    fn masked_tokens(&self) -> impl Iterator<Item = Token> + '_ {
        self.masked.iter().map(|&(crop, cell)| Token::Patch { group: 0, crop, cell })
    }
}

//! What every feature row is compared with and how much it counts, and the loss components as they are logged
//! (poa-facts: targets and losses).
//!
//! The feature rows of a student are its global cls tokens (2B: view a, view b), its local cls tokens (L·B,
//! crop by crop) and its masked patch tokens (M). Target rows are the teacher's cls tokens with the views
//! exchanged, so that row i of the students meets row i, and its masked patch tokens.

use crate::collective::Collective;
use crate::error::Result;
use crate::ops::cross_entropy::NO_TARGET;
use crate::ops::prototype_loss::{HeadLoss, LossRow, LossRows};
use crate::ops::sinkhorn::Targets;
use crate::poa::settings::{KoleoMix, Settings};
use crate::tensor::{Device, PendingRead, Tensor};

/// Weights of the losses.
#[derive(Clone, Debug, PartialEq)]
pub struct LossWeights {
    /// λ: the intact student's share; 1 leaves the elastic student out.
    pub lambda: f64,
    /// Of the view losses and the distillation.
    pub dino: f64,
    /// Of the masked-patch loss.
    pub ibot: f64,
    /// Of KoLeo, once the mean over the two students is taken where that is configured.
    pub koleo: f64,
}

impl LossWeights {
    /// The weights that settings say.
    pub fn of(settings: &Settings) -> Self {
        let dino = &settings.dino;
        let mut weights = Self {
            lambda: dino.lambda_ie,
            dino: dino.loss_weight,
            ibot: settings.ibot.loss_weight,
            koleo: dino.koleo_loss_weight,
        };
        if dino.koleo == KoleoMix::Half && weights.has_elastic() {
            weights.koleo *= 0.5;
        }
        weights
    }

    /// Whether there is an elastic student: not where the intact one has all of the loss.
    pub fn has_elastic(&self) -> bool {
        self.lambda < 1.0
    }
}

/// How many rows of each kind a step has.
#[derive(Clone, Debug, PartialEq)]
pub struct RowCounts {
    /// Images B.
    pub images: usize,
    /// Local crops L.
    pub locals: usize,
    /// 1 / (masked patches of the row's image), for every masked patch in order.
    pub masked_weights: Vec<f32>,
}

impl RowCounts {
    /// Global cls rows, 2B.
    pub fn global(&self) -> usize {
        2 * self.images
    }

    /// All cls rows, (2 + L)·B.
    pub fn cls(&self) -> usize {
        (2 + self.locals) * self.images
    }

    /// Masked patch rows, M.
    pub fn masked(&self) -> usize {
        self.masked_weights.len()
    }

    /// Number of view terms T = 2 + 2L.
    fn terms(&self) -> f64 {
        (2 + 2 * self.locals) as f64
    }

    /// The cls rows of one of `heads` heads.
    pub fn cls_rows(&self, w: &LossWeights, heads: usize) -> Vec<LossRow> {
        let b = self.images as f64;
        // the mean over B of each of the T terms; the global term counts its 2B rows twice
        let view = w.dino / (b * self.terms() * heads as f64);
        let distill = |rows: usize| w.dino * (1.0 - w.lambda) / (rows as f64 * heads as f64);
        let row = |targets, distill: f64| LossRow {
            targets,
            intact: (w.lambda * view) as f32,
            elastic: ((1.0 - w.lambda) * view) as f32,
            distill: distill as f32,
        };
        let n = self.images as u32;
        let global = (0..2 * n).map(|i| row([i, NO_TARGET], distill(2 * self.images)));
        let local =
            (0..self.locals as u32 * n).map(|i| row([i % n, n + i % n], distill(self.locals * self.images)));
        global.chain(local).collect()
    }

    /// The masked rows of one of `heads` heads.
    pub fn masked_rows(&self, w: &LossWeights, heads: usize) -> Vec<LossRow> {
        let scale = w.ibot / (2.0 * self.images as f64 * heads as f64);
        self.masked_weights
            .iter()
            .enumerate()
            .map(|(i, &weight)| LossRow {
                targets: [i as u32, NO_TARGET],
                intact: (w.lambda * scale * weight as f64) as f32,
                elastic: ((1.0 - w.lambda) * scale * weight as f64) as f32,
                distill: 0.0,
            })
            .collect()
    }
}

/// Which rows a head sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Cls and masked patch rows.
    All,
    /// Cls rows.
    Cls,
    /// Masked patch rows.
    Masked,
}

impl Part {
    /// Whether cls rows are among them.
    pub fn has_cls(self) -> bool {
        self != Self::Masked
    }

    /// Whether masked patch rows are among them.
    pub fn has_masked(self) -> bool {
        self != Self::Cls
    }

    /// The rows' table.
    pub fn rows(
        self,
        device: &Device,
        counts: &RowCounts,
        w: &LossWeights,
        heads: usize,
    ) -> Result<LossRows> {
        let mut rows = Vec::new();
        if self.has_cls() {
            rows.extend(counts.cls_rows(w, heads));
        }
        if self.has_masked() {
            rows.extend(counts.masked_rows(w, heads));
        }
        LossRows::new(device, rows)
    }
}

/// Targets of a head's cls rows and of its masked rows, where it has them.
pub type HeadTargets = [Option<Targets>; 2];

/// One head's losses of a step, still on the device.
pub struct HeadRecord {
    /// Number of the head.
    pub index: usize,
    /// The rows it saw.
    pub part: Part,
    /// Its prototypes K.
    pub prototypes: usize,
    /// Its losses by row.
    pub loss: HeadLoss,
    /// Entropy of every cls target `[2B]`, where the step's health was asked for.
    pub entropy: Option<Tensor>,
    /// Its targets, where they were asked for.
    pub targets: Option<HeadTargets>,
}

/// Everything a step's losses are read from, still on the device.
pub struct StepRecord {
    /// Rows of each kind.
    pub counts: RowCounts,
    /// All heads.
    pub heads: Vec<HeadRecord>,
    /// KoLeo of the intact and of the elastic student, unweighted, where it is on.
    pub koleo: Vec<Tensor>,
    /// The loss, one element.
    pub total: Tensor,
    /// The teacher's normed cls tokens `[2B, width]`, where the step's health was asked for.
    pub teacher_cls: Option<Tensor>,
}

/// How a step's targets and features are, beside its losses.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// For every head with cls rows.
    pub heads: Vec<HeadHealth>,
    /// Standard deviation of the teacher's L2-normalised cls features over the batch, mean over the
    /// dimensions, times √width: 1 where they point in all directions alike, 0 where all images have the
    /// same.
    pub feature_std: f64,
}

/// How a head's cls targets are.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadHealth {
    /// Number of the head.
    pub index: usize,
    /// Mean entropy of the targets, in nats.
    pub entropy: f64,
    /// The largest there can be, ln K.
    pub uniform: f64,
    /// Mean KL divergence of the intact student's global predictions from the targets, in nats.
    pub kl: f64,
}

/// A step's losses on the host, as the official code names and scales them.
#[derive(Clone, Debug, PartialEq)]
pub struct LossReport {
    /// The loss that was propagated back.
    pub total: f64,
    /// `dino_*` and `ibot_*` mixed by λ, `distill_*` unweighted, `ibot_loss_*` and `koleo_loss` halved.
    pub components: Vec<(String, f64)>,
}

impl StepRecord {
    /// Reads how targets and features are, where that was asked for. Waits for the device.
    pub fn health(&self) -> Result<Option<Health>> {
        Ok(self.read_later()?.wait()?.health())
    }

    /// Reads the rows' losses and sums them in double precision. Waits for the device.
    pub fn read(&self, w: &LossWeights) -> Result<LossReport> {
        Ok(self.read_later()?.wait()?.losses(w))
    }

    /// Starts a copy to the host of everything that is read from the record. Whoever waits for it once the next step
    /// is recorded leaves the device something to do meanwhile.
    pub fn read_later(&self) -> Result<PendingStep> {
        let mut tensors: Vec<&Tensor> = Vec::new();
        for head in &self.heads {
            tensors.push(&head.loss.intact);
            tensors.extend(&head.loss.elastic);
            tensors.extend(&head.entropy);
        }
        tensors.extend(&self.koleo);
        tensors.extend(&self.teacher_cls);
        let of_head = |head: &HeadRecord| HeadNumbers {
            index: head.index,
            part: head.part,
            prototypes: head.prototypes,
            intact: Vec::new(),
            elastic: head.loss.elastic.is_some().then(Vec::new),
            entropy: head.entropy.is_some().then(Vec::new),
        };
        let numbers = StepNumbers {
            counts: self.counts.clone(),
            heads: self.heads.iter().map(of_head).collect(),
            koleo: vec![0.0; self.koleo.len()],
            teacher_cls: self.teacher_cls.as_ref().map(|cls| (Vec::new(), cls.dim(1))),
        };
        Ok(PendingStep { copy: PendingRead::of(self.total.device(), &tensors)?, numbers })
    }
}

/// A step's record on its way to the host; see [`StepRecord::read_later`].
pub struct PendingStep {
    copy: PendingRead,
    /// With room for what is on its way.
    numbers: StepNumbers,
}

impl PendingStep {
    /// What was read; waits for the commands that were recorded before the copy.
    pub fn wait(self) -> Result<StepNumbers> {
        let mut numbers = self.numbers;
        let mut all = self.copy.wait_each()?.into_iter();
        let mut next = || all.next().expect("as many as were asked for");
        for head in &mut numbers.heads {
            head.intact = next();
            head.elastic.iter_mut().for_each(|rows| *rows = next());
            head.entropy.iter_mut().for_each(|rows| *rows = next());
        }
        numbers.koleo.iter_mut().for_each(|value| *value = next()[0]);
        numbers.teacher_cls.iter_mut().for_each(|(rows, _)| *rows = next());
        Ok(numbers)
    }
}

/// Everything a step's losses are reckoned from, on the host: what a [`StepRecord`] holds.
#[derive(Clone, Debug, PartialEq)]
pub struct StepNumbers {
    counts: RowCounts,
    heads: Vec<HeadNumbers>,
    koleo: Vec<f32>,
    /// With their width.
    teacher_cls: Option<(Vec<f32>, usize)>,
}

/// One head's, as in [`HeadRecord`].
#[derive(Clone, Debug, PartialEq)]
struct HeadNumbers {
    index: usize,
    part: Part,
    prototypes: usize,
    intact: Vec<f32>,
    elastic: Option<Vec<f32>>,
    entropy: Option<Vec<f32>>,
}

impl StepNumbers {
    /// How targets and features are, where that was asked for.
    pub fn health(&self) -> Option<Health> {
        let (cls, width) = self.teacher_cls.as_ref()?;
        let global = self.counts.global();
        let mut heads = Vec::new();
        for head in &self.heads {
            let Some(entropy) = &head.entropy else { continue };
            let entropy = mean(entropy.iter().copied());
            // the global rows come first, each with one target
            let cross_entropy = mean(head.intact.chunks(2).take(global).map(|row| row[0]));
            let (index, uniform) = (head.index, (head.prototypes as f64).ln());
            heads.push(HeadHealth { index, entropy, uniform, kl: cross_entropy - entropy });
        }
        Some(Health { heads, feature_std: spread(cls, *width) })
    }

    /// The rows' losses, summed in double precision.
    pub fn losses(&self, w: &LossWeights) -> LossReport {
        let c = &self.counts;
        let (global, cls, masked) = (c.global(), c.cls(), c.masked());
        let mut components = Vec::new();
        let mut total = 0.0;
        let heads = |masked: bool| {
            let seen = |h: &&HeadNumbers| if masked { h.part.has_masked() } else { h.part.has_cls() };
            self.heads.iter().filter(seen).count().max(1) as f64
        };
        for head in &self.heads {
            let h = head.index;
            let (intact, elastic) = (&head.intact, &head.elastic);
            let column = |v: &[f32], rows: std::ops::Range<usize>, column: usize| {
                rows.map(|r| v[2 * r + column] as f64).sum::<f64>()
            };
            let mixed = |sum: &dyn Fn(&[f32]) -> f64| match elastic {
                Some(elastic) => w.lambda * sum(intact) + (1.0 - w.lambda) * sum(elastic),
                None => sum(intact),
            };
            if head.part.has_cls() {
                let views = 1.0 / (c.images as f64 * c.terms());
                let local = mixed(&|rows| column(rows, global..cls, 0)) * views;
                let global_view = mixed(&|rows| column(rows, 0..global, 0)) * views;
                let locals = (c.locals * c.images).max(1) as f64;
                let distilled = elastic.as_ref().map(|rows| {
                    (column(rows, global..cls, 1) / locals, column(rows, 0..global, 1) / global as f64)
                });
                let sum = distilled.map_or(0.0, |(local, global)| local + global);
                total += w.dino * (local + global_view + (1.0 - w.lambda) * sum) / heads(false);
                components.push((format!("dino_local_crops_loss_{h}"), local));
                components.extend(distilled.map(|d| (format!("distill_local_crops_loss_{h}"), d.0)));
                components.push((format!("dino_global_crops_loss_{h}"), global_view));
                components.extend(distilled.map(|d| (format!("distill_global_crops_loss_{h}"), d.1)));
            }
            if head.part.has_masked() && masked > 0 {
                let first = if head.part.has_cls() { cls } else { 0 };
                let weigh = |v: &[f32]| {
                    let rows = c.masked_weights.iter().enumerate();
                    rows.map(|(i, w)| *w as f64 * v[2 * (first + i)] as f64).sum::<f64>() / global as f64
                };
                let ibot = mixed(&weigh);
                total += w.ibot * ibot / heads(true);
                components.push((format!("ibot_loss_{h}"), ibot / 2.0));
            }
        }
        if !self.koleo.is_empty() {
            let mut sum = 0.0;
            for value in &self.koleo {
                sum += w.koleo * *value as f64;
            }
            total += sum;
            components.push(("koleo_loss".into(), sum / 2.0));
        }
        LossReport { total, components }
    }
}

impl LossReport {
    /// The report of a step of several batches: the mean of theirs, over all components that any of them has.
    pub fn mean(reports: &[Self]) -> Self {
        let share = 1.0 / reports.len().max(1) as f64;
        let mut components: Vec<(String, f64)> = Vec::new();
        for (name, value) in reports.iter().flat_map(|r| &r.components) {
            match components.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += share * value,
                None => components.push((name.clone(), share * value)),
            }
        }
        Self { total: reports.iter().map(|r| share * r.total).sum(), components }
    }

    /// The reports of all ranks, which have equally many, in rank order.
    pub fn of_all_ranks(own: Vec<Self>, ranks: &Collective) -> Result<Vec<Self>> {
        let all = ranks.tell(own.iter().map(Self::as_bits).collect::<Vec<_>>())?;
        Ok(all.into_iter().flatten().map(Self::from_bits).collect())
    }

    /// Numbers as their bits: JSON has none for those that are not finite.
    fn as_bits(&self) -> Bits {
        let components = self.components.iter().map(|(name, value)| (name.clone(), value.to_bits()));
        (self.total.to_bits(), components.collect())
    }

    fn from_bits((total, components): Bits) -> Self {
        let components = components.into_iter().map(|(name, bits)| (name, f64::from_bits(bits)));
        Self { total: f64::from_bits(total), components: components.collect() }
    }
}

type Bits = (u64, Vec<(String, u64)>);

fn mean(values: impl ExactSizeIterator<Item = f32>) -> f64 {
    let count = values.len().max(1) as f64;
    values.map(f64::from).sum::<f64>() / count
}

/// See [`Health::feature_std`].
fn spread(rows: &[f32], width: usize) -> f64 {
    let count = (rows.len() / width).max(1) as f64;
    let (mut sums, mut squares) = (vec![0.0; width], vec![0.0; width]);
    for row in rows.chunks(width) {
        let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
        for ((sum, square), v) in sums.iter_mut().zip(&mut squares).zip(row) {
            let v = f64::from(*v) / length;
            *sum += v;
            *square += v * v;
        }
    }
    let deviation = |(sum, square): (&f64, &f64)| (square / count - (sum / count).powi(2)).max(0.0).sqrt();
    let total: f64 = sums.iter().zip(&squares).map(deviation).sum();
    total / width as f64 * (width as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_one_in_all_directions_and_zero_where_all_are_the_same() {
        let width = 64;
        let axes: Vec<f32> = (0..2 * width * width)
            .map(|i| {
                let (row, column) = (i / width, i % width);
                if row / 2 == column { [3.0, -3.0][row % 2] } else { 0.0 }
            })
            .collect();
        assert!((spread(&axes, width) - 1.0).abs() < 1e-6);
        assert!(spread(&[0.5, -1.0, 0.5, -1.0], 2) < 1e-6);
        assert!(spread(&[0.0; 8], 4) == 0.0);
    }
}

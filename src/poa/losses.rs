//! The losses of a step on the device and on the host, as they are logged (poa-facts: targets and losses); which rows they
//! are of is in `rows.rs`.

use crate::collective::Collective;
use crate::error::Result;
use crate::ops::prototype_loss::HeadLoss;
use crate::ops::sinkhorn::Targets;
use crate::poa::rows::{LossWeights, Part, RowCounts};
use crate::tensor::{PendingRead, Tensor};

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
    /// Those of the second student against the second teacher, where there is one.
    pub second_teacher: Option<HeadLoss>,
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
    /// KoLeo of every student, unweighted, where it is on.
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
    /// Mean KL divergence of the first student's global predictions from the targets, in nats.
    pub kl: f64,
}

/// A step's losses on the host, as the official code names and scales them.
#[derive(Clone, Debug, PartialEq)]
pub struct LossReport {
    /// The loss that was propagated back.
    pub total: f64,
    /// `dino_*` and `ibot_*` mixed by λ, `distill_*` and `elastic_teacher_*` unweighted, `ibot_loss_*` and `koleo_loss`
    /// halved.
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
            tensors.extend(head.second_teacher.as_ref().map(|loss| &loss.intact));
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
            second_teacher: head.second_teacher.is_some().then(Vec::new),
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
            head.second_teacher.iter_mut().for_each(|rows| *rows = next());
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
    second_teacher: Option<Vec<f32>>,
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
            let mixed = |second: f64, sum: &dyn Fn(&[f32]) -> f64| match elastic {
                Some(elastic) => w.first * sum(intact) + second * sum(elastic),
                None => w.first * sum(intact),
            };
            if head.part.has_cls() {
                let views = 1.0 / (c.images as f64 * c.terms());
                let local = mixed(w.second, &|rows| column(rows, global..cls, 0)) * views;
                let global_view = mixed(w.second, &|rows| column(rows, 0..global, 0)) * views;
                let locals = (c.locals * c.images).max(1) as f64;
                let distilled = elastic.as_ref().filter(|_| w.distill > 0.0).map(|rows| {
                    (column(rows, global..cls, 1) / locals, column(rows, 0..global, 1) / global as f64)
                });
                let sum = distilled.map_or(0.0, |(local, global)| local + global);
                total += w.dino * (local + global_view + w.distill * sum) / heads(false);
                components.push((format!("dino_local_crops_loss_{h}"), local));
                components.extend(distilled.map(|d| (format!("distill_local_crops_loss_{h}"), d.0)));
                components.push((format!("dino_global_crops_loss_{h}"), global_view));
                components.extend(distilled.map(|d| (format!("distill_global_crops_loss_{h}"), d.1)));
                if let Some(rows) = &head.second_teacher {
                    let (local, global) =
                        (column(rows, global..cls, 0) * views, column(rows, 0..global, 0) * views);
                    total += w.dino * w.second_teacher * (local + global) / heads(false);
                    components.push((format!("elastic_teacher_local_crops_loss_{h}"), local));
                    components.push((format!("elastic_teacher_global_crops_loss_{h}"), global));
                }
            }
            if head.part.has_masked() && masked > 0 {
                let first = if head.part.has_cls() { cls } else { 0 };
                let weigh = |v: &[f32]| {
                    let rows = c.masked_weights.iter().enumerate();
                    rows.map(|(i, w)| *w as f64 * v[2 * (first + i)] as f64).sum::<f64>() / global as f64
                };
                let ibot = mixed(w.second_masked, &weigh);
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

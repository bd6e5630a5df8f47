//! Linear evaluation as in DINOv2's `eval/linear.py`: classifiers on frozen features for a grid of learning
//! rates and kinds of features, all trained in one pass over randomly cropped images; the best on held-out
//! images counts.
//!
//! Features are the cls tokens of the last block or of the last four side by side, with and without the mean
//! of the last block's patch tokens. All kinds are runs of columns of one matrix `[cls, .., cls of the last
//! block, mean]`.

use std::f64::consts::PI;
use std::ops::Range;

use crate::autograd::{Tape, Var};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::eval::images::{LabelledImages, TrainingOrder};
use crate::eval::pass::{Pace, Progress, groups, labels_of, same_classes, through_networks};
use crate::eval::probe::{Probes, linear_logits};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::nn::parameters::{Init, initial_values};
use crate::ops::segment_mean::segment_mean;
use crate::rng::{Purpose, stream};
use crate::stop::Stop;
use crate::tensor::{DType, ELEMENT_BYTES, Tensor, copy};

/// Last blocks whose cls tokens are used, where a network has as many.
const BLOCKS: usize = 4;
/// Spread of the first weights; biases start at zero.
const INIT: Init = Init::Normal(0.01);
/// Bytes of the weights of classifiers that are trained by one product, where the device can bind as much.
const WEIGHT_BYTES: usize = 256 << 20;

/// How classifiers are trained.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearOptions {
    /// Learning rates for a batch of 256; they are scaled with the batch.
    pub rates: Vec<f64>,
    /// Images a batch.
    pub batch: usize,
    /// Number of epochs.
    pub epochs: usize,
    /// Batches an epoch has, however many images there are.
    pub epoch_iterations: usize,
    /// The seed of weights, order and crops.
    pub seed: u64,
    /// Bytes on the device that the classifiers of the networks evaluated together may take.
    pub memory: usize,
}

impl Default for LinearOptions {
    fn default() -> Self {
        Self {
            rates: vec![1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1],
            batch: 128,
            epochs: 10,
            epoch_iterations: 1250,
            seed: 0,
            memory: 8 << 30,
        }
    }
}

/// One classifier and how good it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearResult {
    /// Last blocks whose cls tokens it sees.
    pub blocks: usize,
    /// Whether it sees the mean patch token as well.
    pub mean_patch: bool,
    /// Its learning rate, for a batch of 256.
    pub rate: f64,
    /// Share of the held-out images it is right about.
    pub top1: f64,
}

/// All classifiers of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearReport {
    /// The network.
    pub network: Network,
    /// Its classifiers, by kind of features and learning rate.
    pub results: Vec<LinearResult>,
}

impl LinearReport {
    /// The best classifier, of equal ones the first.
    pub fn best(&self) -> Option<LinearResult> {
        let first = self.results.first().copied();
        self.results.iter().copied().fold(first, |best, r| best.filter(|b| b.top1 >= r.top1).or(Some(r)))
    }
}

/// Linear evaluation of every network: trained on `train`, scored on `val`.
///
/// As many networks as `options.memory` allows share the passes over the images. Progress counts batches,
/// then images.
pub fn linear_probes(
    encoder: Encoder<'_>,
    networks: &[Network],
    (train, val): (&LabelledImages, &LabelledImages),
    options: &LinearOptions,
    progress: Progress<'_>,
) -> Result<Vec<LinearReport>> {
    let mut reports = Vec::new();
    scored(encoder, networks, (train, val), options, progress, |probes, seen| {
        reports.push(probes.report(seen));
        Ok(())
    })?;
    Ok(reports)
}

/// The best classifier of a network by itself.
pub struct TrainedProbe {
    /// What it sees, and how good it is.
    pub result: LinearResult,
    /// Its columns of the network's features, as [`tokens`] gives them.
    columns: Range<usize>,
    /// `[classes, columns]`
    weight: Tensor,
    /// `[classes]`
    bias: Tensor,
}

impl TrainedProbe {
    /// Logits `[n, classes]` of normalised images `[n, channels, side, side]` through the network that it was trained on.
    pub fn logits(&self, encoder: Encoder<'_>, network: Network, images: &Tensor) -> Result<Tensor> {
        let outputs = Outputs::of(encoder, network);
        let shape = [images.dim(0), (outputs.blocks + 1) * outputs.width];
        let all = Tensor::empty(encoder.device, &shape, DType::F32)?;
        tokens(encoder, network, images, &all)?;
        let columns = all.slice(1, self.columns.clone())?;
        linear_logits(&columns, &self.weight, &self.bias)
    }
}

/// As [`linear_probes`]; of every network the best classifier, to go on with.
pub fn trained_probes(
    encoder: Encoder<'_>,
    networks: &[Network],
    sets: (&LabelledImages, &LabelledImages),
    options: &LinearOptions,
    progress: Progress<'_>,
) -> Result<Vec<TrainedProbe>> {
    let mut best = Vec::new();
    scored(encoder, networks, sets, options, progress, |probes, seen| {
        best.extend(probes.best(encoder, seen)?);
        Ok(())
    })?;
    Ok(best)
}

/// Trains the classifiers of every network, counts what they are right about, and hands them over with the number of
/// images that were seen.
fn scored(
    encoder: Encoder<'_>,
    networks: &[Network],
    (train, val): (&LabelledImages, &LabelledImages),
    options: &LinearOptions,
    progress: Progress<'_>,
    mut take: impl FnMut(NetworkProbes, usize) -> Result<()>,
) -> Result<()> {
    same_classes(train, val)?;
    if options.rates.is_empty() || options.batch == 0 {
        return Err(Error::Usage(
            "linear probes need a learning rate and a batch of at least one image".into(),
        ));
    }
    let (classes, batches) = (train.classes().len(), options.epochs * options.epoch_iterations);
    let groups = groups(networks, options.memory, |network| {
        let outputs = Outputs::of(encoder, network);
        let columns: usize = kinds(outputs).iter().map(|kind| kind.columns(outputs).len()).sum();
        2 * columns * classes * options.rates.len() * ELEMENT_BYTES + WEIGHT_BYTES
    });
    let passes = groups.len();
    for (at, group) in groups.into_iter().enumerate() {
        let probes = group.iter().map(|network| NetworkProbes::new(encoder, *network, classes, options));
        let mut probes = probes.collect::<Result<Vec<_>>>()?;
        let order = TrainingOrder { batch: options.batch, batches, seed: options.seed };
        let mut pace = Pace::default();
        train.for_each_training_batch(order, |i, batch| {
            let labels = Tensor::from_slice(encoder.device, &[batch.images()], labels_of(batch)?)?;
            let factor = 0.5 * (1.0 + (PI * i as f64 / batches as f64).cos());
            let mut last = None;
            for (probes, features) in probes.iter().zip(features(encoder, group, batch, train.stop())?) {
                for (_, _, probes) in &probes.sets {
                    last = Some(probes.step(&features, &labels, factor)?);
                }
            }
            progress("training linear probes", at * batches + i + 1, passes * batches);
            last.map_or(Ok(()), |last| pace.keep(&last))
        })?;
        let mut seen = 0;
        val.for_each_batch(|batch| {
            for (probes, features) in probes.iter_mut().zip(features(encoder, group, batch, val.stop())?) {
                probes.score(&features, labels_of(batch)?)?;
            }
            seen += batch.images();
            progress("scoring linear probes", at * val.len() + seen, passes * val.len());
            Ok(())
        })?;
        probes.into_iter().try_for_each(|probes| take(probes, seen))?;
    }
    Ok(())
}

/// What comes out of a network: how many blocks' cls tokens there are, of which width.
#[derive(Clone, Copy)]
struct Outputs {
    blocks: usize,
    width: usize,
}

impl Outputs {
    fn of(encoder: Encoder<'_>, network: Network) -> Self {
        let backbone = encoder.backbone;
        Self { blocks: backbone.outputs(network).min(BLOCKS), width: backbone.feature_width(network) }
    }
}

/// What classifiers see.
#[derive(Clone, Copy)]
struct Kind {
    blocks: usize,
    mean_patch: bool,
}

impl Kind {
    /// Its columns of a network's features.
    fn columns(self, of: Outputs) -> Range<usize> {
        let end = of.blocks + usize::from(self.mean_patch);
        (of.blocks - self.blocks) * of.width..end * of.width
    }
}

/// The kinds of features that a network has.
fn kinds(of: Outputs) -> Vec<Kind> {
    let mut blocks = vec![1, of.blocks];
    blocks.dedup();
    blocks
        .into_iter()
        .flat_map(|blocks| [false, true].map(|mean_patch| Kind { blocks, mean_patch }))
        .collect()
}

/// Features `[n, (blocks + 1)·width]` of the images of a batch through every network.
fn features(encoder: Encoder<'_>, networks: &[Network], batch: &Batch, stop: &Stop) -> Result<Vec<Tensor>> {
    let n = batch.images();
    let empty = |network: &Network| {
        let outputs = Outputs::of(encoder, *network);
        let columns = (outputs.blocks + 1) * outputs.width;
        Tensor::empty(encoder.device, &[n, columns], DType::F32)
    };
    let all = networks.iter().map(empty).collect::<Result<Vec<_>>>()?;
    let mut filled = vec![0; networks.len()];
    through_networks(encoder, networks, batch, stop, |i, images| {
        let first = filled[i];
        filled[i] += images.dim(0);
        tokens(encoder, networks[i], images, &all[i].slice(0, first..filled[i])?)
    })?;
    Ok(all)
}

/// Writes a network's features of images to `rows` `[n, (blocks + 1)·width]`.
fn tokens(encoder: Encoder<'_>, network: Network, images: &Tensor, rows: &Tensor) -> Result<()> {
    let (cls, patches) = encoder.last_blocks(network, images, BLOCKS)?;
    let mean = segment_mean(&Tape::no_grad(), &Var::constant(patches), images.dim(0))?;
    let width = mean.value().dim(1);
    for (at, part) in cls.iter().chain([mean.value()]).enumerate() {
        copy(&rows.slice(1, at * width..(at + 1) * width)?, part)?;
    }
    Ok(())
}

/// A classifier in training: what it sees, its learning rate, and how many images it was right about.
struct Candidate {
    kind: Kind,
    rate: f64,
    right: usize,
}

/// All classifiers of a network: their columns, and as many learning rates at once as one product takes.
struct NetworkProbes {
    network: Network,
    candidates: Vec<Candidate>,
    /// The range of the candidates that the classifiers are.
    sets: Vec<(usize, usize, Probes)>,
}

impl NetworkProbes {
    fn new(encoder: Encoder<'_>, network: Network, classes: usize, options: &LinearOptions) -> Result<Self> {
        let (device, outputs) = (encoder.device, Outputs::of(encoder, network));
        let (mut candidates, mut sets) = (Vec::new(), Vec::new());
        for (number, kind) in kinds(outputs).into_iter().enumerate() {
            let columns = kind.columns(outputs);
            // neither the weights nor the logits may be more than can be bound
            let one = classes * columns.len().max(options.batch) * ELEMENT_BYTES;
            let at_once = (device.max_tensor_bytes().min(WEIGHT_BYTES) / one).max(1);
            for (part, rates) in options.rates.chunks(at_once).enumerate() {
                let scaled: Vec<f64> = rates.iter().map(|r| r * options.batch as f64 / 256.0).collect();
                let drawn = |rate: usize| {
                    let mut rng = stream(options.seed, Purpose::ProbeWeights, number as u64, rate as u64);
                    initial_values(INIT, classes * columns.len(), &mut rng)
                };
                let weights: Vec<f32> = (0..rates.len()).flat_map(|at| drawn(part * at_once + at)).collect();
                let probes = Probes::new(device, columns.clone(), classes, &scaled, &weights)?;
                let first = candidates.len();
                candidates.extend(rates.iter().map(|&rate| Candidate { kind, rate, right: 0 }));
                sets.push((first, candidates.len(), probes));
            }
        }
        Ok(Self { network, candidates, sets })
    }

    fn score(&mut self, features: &Tensor, labels: &[u32]) -> Result<()> {
        for (first, last, probes) in &self.sets {
            let right = probes.right(features, labels)?;
            self.candidates[*first..*last].iter_mut().zip(right).for_each(|(c, r)| c.right += r);
        }
        Ok(())
    }

    fn report(&self, seen: usize) -> LinearReport {
        let result = |c: &Candidate| LinearResult {
            blocks: c.kind.blocks,
            mean_patch: c.kind.mean_patch,
            rate: c.rate,
            top1: c.right as f64 / seen as f64,
        };
        LinearReport { network: self.network, results: self.candidates.iter().map(result).collect() }
    }

    fn best(&self, encoder: Encoder<'_>, seen: usize) -> Result<Option<TrainedProbe>> {
        let report = self.report(seen);
        let Some(result) = report.best() else { return Ok(None) };
        let Some(at) = report.results.iter().position(|r| *r == result) else { return Ok(None) };
        let Some((first, _, probes)) = self.sets.iter().find(|(first, end, _)| (*first..*end).contains(&at))
        else {
            return Ok(None);
        };
        let [weight, bias] = probes.classifier(at - first)?;
        let columns = self.candidates[at].kind.columns(Outputs::of(encoder, self.network));
        Ok(Some(TrainedProbe { result, columns, weight, bias }))
    }
}

//! Weighted k-nearest-neighbour classification of features, as in DINOv2's `eval/knn.py`, on the device: the
//! held-out images' features stay there, the training images' come by in chunks and only the nearest are
//! remembered.

use rayon::prelude::*;

use crate::autograd::{Tape, Var};
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::eval::images::LabelledImages;
use crate::eval::pass::{Progress, cls_features, groups, same_classes};
use crate::eval::shared::Ranked;
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::ops::l2_normalize::l2_normalize;
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::ops::top_k::{Scored, TopK};
use crate::tensor::{DType, ELEMENT_BYTES, Tensor, copy};

/// Rows of a block of features; two blocks make 64 MiB of similarities.
const BLOCK: usize = 4096;
/// At least so many neighbours share the softmax, however small the largest k.
const MIN_NEIGHBOURS: usize = 100;
/// Norms are taken to be at least this.
pub(super) const EPS: f32 = 1e-12;

/// How neighbours vote.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnOptions {
    /// Numbers of neighbours; each gives an accuracy.
    pub ks: Vec<usize>,
    /// Weights are softmax(similarity / temperature).
    pub temperature: f64,
    /// Bytes on the device that features and neighbours of the networks evaluated together may take.
    pub memory: usize,
}

impl Default for KnnOptions {
    fn default() -> Self {
        Self { ks: vec![10, 20, 100, 200], temperature: 0.07, memory: 4 << 30 }
    }
}

impl KnnOptions {
    /// Neighbours that share the softmax: the largest k, at least 100.
    pub fn neighbours(&self) -> usize {
        self.ks.iter().copied().max().unwrap_or(0).max(MIN_NEIGHBOURS)
    }
}

/// k-NN top-1 accuracies (0..1) on `val` of every network, one for each k, with the images of `train` as
/// neighbours.
///
/// As many networks as `options.memory` allows share a pass over the images, so that each is decoded once for
/// all of them. Progress counts images of all passes.
///
/// Of several `ranks` all call it at once, with the same networks, images and options, and get the same accuracies. Each
/// classifies a part of `val`, and computes features of a part of `train`, which go to all ranks; a feature has the bits
/// that it has on one rank alone with such a device. Where one of them is asked to end, all do, with its error.
pub fn knn_accuracies(
    encoder: Encoder<'_>,
    networks: &[Network],
    (train, val): (&LabelledImages, &LabelledImages),
    options: &KnnOptions,
    ranks: &Collective,
    progress: Progress<'_>,
) -> Result<Vec<Vec<f64>>> {
    same_classes(train, val)?;
    let neighbours = options.neighbours();
    let groups = groups(networks, options.memory, |network| {
        let features = (val.len().next_multiple_of(BLOCK) + BLOCK) * encoder.backbone.feature_width(network);
        (features + 2 * val.len() * neighbours.min(train.len())) * ELEMENT_BYTES
    });
    let total = groups.len() * (train.len() + val.len());
    let (mut done, mut accuracies) = (0, Vec::new());
    for group in groups {
        let mut queries: Vec<FeatureBlocks> = group.iter().map(|_| FeatureBlocks::default()).collect();
        let mut advance = |count: usize| {
            done += count;
            progress("k-NN", done, total);
        };
        let ranked = Ranked { ranks, encoder, networks: group };
        let query = |i: usize, features: &Tensor| queries[i].add(features);
        let (val_labels, classified) = match ranks.is_alone() {
            true => {
                let labels = cls_features(encoder, group, val, &mut advance, query)?;
                let count = labels.len();
                (labels, count)
            }
            false => ranked.own_features(val, &mut advance, query)?,
        };
        let mut searches =
            queries.into_iter().map(|q| KnnSearch::new(q, neighbours)).collect::<Result<Vec<_>>>()?;
        let vote = |i: usize, features: &Tensor| searches[i].add(features);
        let train_labels = match ranks.is_alone() {
            true => cls_features(encoder, group, train, &mut advance, vote)?,
            false => ranked.all_features(train, &mut advance, vote)?,
        };
        let counts = searches.into_iter().map(|search| search.right(&train_labels, &val_labels, options));
        let counts: Vec<Vec<Vec<usize>>> = ranks.tell(counts.collect::<Result<_>>()?)?;
        for i in 0..group.len() {
            let right = (0..options.ks.len()).map(|k| counts.iter().map(|own| own[i][k]).sum());
            accuracies.push(right.map(|right| share(right, classified, train_labels.len())).collect());
        }
    }
    Ok(accuracies)
}

/// The share of `classified` rows that is right; NaN where there are none, or nothing to compare them with.
fn share(right: usize, classified: usize, neighbours: usize) -> f64 {
    if neighbours == 0 { f64::NAN } else { right as f64 / classified as f64 }
}

/// Normalised rows of features, gathered to blocks.
#[derive(Default)]
pub struct FeatureBlocks {
    full: Vec<Tensor>,
    /// The last block and how many of its rows are there.
    open: Option<(Tensor, usize)>,
}

impl FeatureBlocks {
    /// Adds rows `[n, width]`, divided by their length (at least 1e-12).
    pub fn add(&mut self, features: &Tensor) -> Result<()> {
        let normed = l2_normalize(&Tape::no_grad(), &Var::constant(features.clone()), EPS)?;
        let (rows, width) = (features.dim(0), features.dim(1));
        let mut at = 0;
        while at < rows {
            let (block, filled) = match self.open.take() {
                Some(open) => open,
                None => (Tensor::empty(features.device(), &[BLOCK, width], DType::F32)?, 0),
            };
            let count = (BLOCK - filled).min(rows - at);
            copy(&block.slice(0, filled..filled + count)?, &normed.value().slice(0, at..at + count)?)?;
            at += count;
            match filled + count {
                BLOCK => self.full.push(block),
                filled => self.open = Some((block, filled)),
            }
        }
        Ok(())
    }

    /// Takes out the blocks that are full, and, where `all`, the last one too.
    pub(super) fn take(&mut self, all: bool) -> Result<Vec<Tensor>> {
        let mut blocks = std::mem::take(&mut self.full);
        if let Some((block, filled)) = self.open.take_if(|_| all) {
            blocks.push(block.slice(0, 0..filled)?);
        }
        Ok(blocks)
    }
}

/// The nearest training rows of every held-out row, found while the training rows come by.
pub struct KnnSearch {
    /// Held-out rows and what is nearest to them.
    queries: Vec<(Tensor, TopK)>,
    bank: FeatureBlocks,
    /// Training rows compared so far.
    seen: usize,
}

impl KnnSearch {
    /// A search for the `neighbours` nearest rows of each of `queries`.
    pub fn new(mut queries: FeatureBlocks, neighbours: usize) -> Result<Self> {
        let blocks = queries.take(true)?.into_iter();
        let queries = blocks
            .map(|block| TopK::new(block.device(), block.dim(0), neighbours).map(|nearest| (block, nearest)))
            .collect::<Result<_>>()?;
        Ok(Self { queries, bank: FeatureBlocks::default(), seen: 0 })
    }

    /// Takes in training rows `[n, width]`.
    pub fn add(&mut self, features: &Tensor) -> Result<()> {
        self.bank.add(features)?;
        self.compare(false)
    }

    fn compare(&mut self, all: bool) -> Result<()> {
        for bank in self.bank.take(all)? {
            for (queries, nearest) in &mut self.queries {
                let shape = [queries.dim(0), bank.dim(0)];
                let similarities = Tensor::empty(bank.device(), &shape, DType::F32)?;
                let (a, b) = (Matrix::new(queries)?, Matrix::new(&bank)?.t());
                matmul(&a, &b, &Matrix::new(&similarities)?, &Options::default())?;
                nearest.add(&similarities, self.seen)?;
            }
            self.seen += bank.dim(0);
        }
        Ok(())
    }

    /// Share of the held-out rows whose class the k nearest training rows give, for every k.
    ///
    /// The weights of the neighbours (the 100 or largest k nearest, of equal ones the first) are
    /// softmax(similarity / temperature); those of the first k are summed per class and the largest sum wins,
    /// of equal ones the lowest class. A k beyond the training rows counts as their number. NaN if either set
    /// is empty.
    pub fn top1(self, train_labels: &[u32], val_labels: &[u32], options: &KnnOptions) -> Result<Vec<f64>> {
        let right = self.right(train_labels, val_labels, options)?;
        Ok(right.into_iter().map(|right| share(right, val_labels.len(), train_labels.len())).collect())
    }

    /// As [`KnnSearch::top1`], their number.
    fn right(mut self, train_labels: &[u32], val_labels: &[u32], options: &KnnOptions) -> Result<Vec<usize>> {
        self.compare(true)?;
        let rows: usize = self.queries.iter().map(|(queries, _)| queries.dim(0)).sum();
        if train_labels.len() != self.seen || val_labels.len() != rows {
            let labels = (train_labels.len(), val_labels.len());
            let problem = format!("{} and {rows} rows of features, {labels:?} labels", self.seen);
            return Err(Error::shape("knn", problem));
        }
        let mut right = vec![0_usize; options.ks.len()];
        let mut labels = val_labels;
        for (_, nearest) in &self.queries {
            let nearest = nearest.sorted()?;
            let (own, rest) = labels.split_at(nearest.len());
            labels = rest;
            let votes = Votes { train_labels, options };
            let counts =
                nearest.into_par_iter().zip(own).map(|(nearest, label)| votes.right(nearest, *label));
            let none = || vec![0; options.ks.len()];
            let counts = counts.reduce(none, |a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect());
            right.iter_mut().zip(counts).for_each(|(r, c)| *r += c);
        }
        Ok(right)
    }
}

/// What neighbours vote with.
#[derive(Clone, Copy)]
struct Votes<'a> {
    train_labels: &'a [u32],
    options: &'a KnnOptions,
}

impl Votes<'_> {
    /// For every k whether (1 or 0) the neighbours, nearest first, find `label`.
    fn right(&self, mut nearest: Vec<Scored>, label: u32) -> Vec<usize> {
        weigh(&mut nearest, self.options.temperature as f32);
        let found = |k: &usize| usize::from(vote(&nearest, self.train_labels, *k) == Some(label));
        self.options.ks.iter().map(found).collect()
    }
}

/// The class that the first `k` neighbours give, whose scores are weights; none if no vote counts.
pub(super) fn vote(nearest: &[Scored], train_labels: &[u32], k: usize) -> Option<u32> {
    let voters = &nearest[..k.min(nearest.len())];
    let class = |n: &Scored| train_labels[n.column as usize];
    let classes = voters.iter().map(class).max().map_or(0, |c| c as usize + 1);
    let mut votes = vec![0.0; classes];
    voters.iter().for_each(|n| votes[class(n) as usize] += n.score);
    winner(&votes).map(|class| class as u32)
}

/// Turns similarities, largest first, into softmax(similarity / temperature).
pub(super) fn weigh(nearest: &mut [Scored], temperature: f32) {
    let Some(largest) = nearest.first().map(|n| n.score) else { return };
    for n in nearest.iter_mut() {
        n.score = ((n.score - largest) / temperature).exp();
    }
    let total: f32 = nearest.iter().map(|n| n.score).sum();
    nearest.iter_mut().for_each(|n| n.score /= total);
}

/// The first of the largest votes; none if no vote counts.
fn winner(votes: &[f32]) -> Option<usize> {
    let largest = votes.iter().copied().fold(0.0, f32::max);
    votes.iter().position(|&v| v == largest && v > 0.0)
}

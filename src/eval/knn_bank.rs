//! The nearest neighbours of images that come one part after the other, as often as wanted: the features to compare with
//! stay on the device.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::eval::images::LabelledImages;
use crate::eval::knn::{EPS, FeatureBlocks, KnnOptions, vote, weigh};
use crate::eval::pass::{Progress, cls_features};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::ops::l2_normalize::l2_normalize;
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::ops::top_k::TopK;
use crate::tensor::{DType, Tensor};

/// Labelled features of a network that vote.
pub struct KnnBank {
    /// Rows of length 1.
    blocks: Vec<Tensor>,
    labels: Vec<u32>,
    k: usize,
    options: KnnOptions,
}

impl KnnBank {
    /// The features of `train` through every network, of which the `k` nearest vote as in [`crate::eval::knn`].
    pub fn of(
        encoder: Encoder<'_>,
        networks: &[Network],
        train: &LabelledImages,
        (k, temperature): (usize, f64),
        progress: Progress<'_>,
    ) -> Result<Vec<Self>> {
        let mut features: Vec<FeatureBlocks> = networks.iter().map(|_| FeatureBlocks::default()).collect();
        let mut done = 0;
        let mut advance = |count: usize| {
            done += count;
            progress("neighbours", done, train.len());
        };
        let take = |i: usize, rows: &Tensor| features[i].add(rows);
        let labels = cls_features(encoder, networks, train, &mut advance, take)?;
        let options = KnnOptions { ks: vec![k], temperature, ..KnnOptions::default() };
        let bank = |mut features: FeatureBlocks| {
            Ok(Self { blocks: features.take(true)?, labels: labels.clone(), k, options: options.clone() })
        };
        features.into_iter().map(bank).collect()
    }

    /// The class of each of these cls features `[n, width]`.
    pub fn guesses(&self, features: &Tensor) -> Result<Vec<Option<u32>>> {
        let queries = l2_normalize(&Tape::no_grad(), &Var::constant(features.clone()), EPS)?;
        let queries = queries.value();
        let mut nearest = TopK::new(queries.device(), queries.dim(0), self.options.neighbours())?;
        let mut seen = 0;
        for block in &self.blocks {
            let similarities = Tensor::empty(queries.device(), &[queries.dim(0), block.dim(0)], DType::F32)?;
            let (a, b) = (Matrix::new(queries)?, Matrix::new(block)?.t());
            matmul(&a, &b, &Matrix::new(&similarities)?, &Options::default())?;
            nearest.add(&similarities, seen)?;
            seen += block.dim(0);
        }
        let guess = |mut nearest: Vec<_>| {
            weigh(&mut nearest, self.options.temperature as f32);
            vote(&nearest, &self.labels, self.k)
        };
        Ok(nearest.sorted()?.into_iter().map(guess).collect())
    }
}

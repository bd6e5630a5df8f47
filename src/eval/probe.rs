//! Linear classifiers on frozen features, as many at once as there are learning rates: they share their
//! input, so that one product makes the logits of all.

use std::ops::Range;

use crate::error::Result;
use crate::ops::label_cross_entropy::label_cross_entropy;
use crate::ops::matmul::{Epilogue, Matrix, Options, matmul};
use crate::ops::reduce::column_sum;
use crate::ops::top_k::argmax;
use crate::optim::sgd::Sgd;
use crate::tensor::{DType, Device, Tensor, copy};

const MOMENTUM: f64 = 0.9;

/// Logits `[n, classes]` of features `[n, width]` by weights `[classes, width]` and a bias `[classes]`.
pub fn linear_logits(features: &Tensor, weights: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let logits = Tensor::empty(weights.device(), &[features.dim(0), weights.dim(0)], DType::F32)?;
    let options = Options { epilogue: Epilogue::Bias(bias.clone()), ..Options::default() };
    matmul(&Matrix::new(features)?, &Matrix::new(weights)?.t(), &Matrix::new(&logits)?, &options)?;
    Ok(logits)
}

/// Classifiers on the same columns of a matrix of features.
pub struct Probes {
    columns: Range<usize>,
    classes: usize,
    /// `[rates·classes, columns]`
    weights: Sgd,
    /// `[rates·classes]`
    bias: Sgd,
}

impl Probes {
    /// One classifier a learning rate on the features in `columns`, with these first weights
    /// `[rates·classes, columns]` and no bias.
    pub fn new(
        device: &Device,
        columns: Range<usize>,
        classes: usize,
        rates: &[f64],
        weights: &[f32],
    ) -> Result<Self> {
        let shape = [rates.len() * classes, columns.len()];
        let weights = Tensor::from_slice(device, &shape, weights)?;
        let bias = Tensor::zeros(device, &shape[..1], DType::F32)?;
        Ok(Self {
            columns,
            classes,
            weights: Sgd::new(weights, rates, MOMENTUM)?,
            bias: Sgd::new(bias, rates, MOMENTUM)?,
        })
    }

    /// Logits `[n, rates·classes]` of features `[n, width]`.
    pub fn logits(&self, features: &Tensor) -> Result<Tensor> {
        let (weights, bias) = (&self.weights.values, &self.bias.values);
        linear_logits(&features.slice(1, self.columns.clone())?, weights, bias)
    }

    /// One step of SGD on the mean cross-entropy of features `[n, width]` with classes `u32 [n]`; `factor` is
    /// the schedule's, on all learning rates. Returns the losses from before, `[n·rates, 1]`.
    pub fn step(&self, features: &Tensor, labels: &Tensor, factor: f64) -> Result<Tensor> {
        let logits = self.logits(features)?;
        let n = features.dim(0);
        let losses = label_cross_entropy(&self.rows(&logits)?, labels, 1.0 / n as f32)?;
        let gradient = logits;
        let x = features.slice(1, self.columns.clone())?;
        let weights = &self.weights.values;
        let of_weights = Tensor::empty(weights.device(), weights.shape(), DType::F32)?;
        let (a, b) = (Matrix::new(&gradient)?.t(), Matrix::new(&x)?);
        matmul(&a, &b, &Matrix::new(&of_weights)?, &Options::default())?;
        let of_bias = Tensor::empty(weights.device(), &weights.shape()[..1], DType::F32)?;
        column_sum(&gradient, &of_bias, 1.0, false)?;
        self.weights.step(&of_weights, factor)?;
        self.bias.step(&of_bias, factor)?;
        Ok(losses)
    }

    /// How many of the images with features `[n, width]` and these classes every classifier is right about.
    pub fn right(&self, features: &Tensor, labels: &[u32]) -> Result<Vec<usize>> {
        let found = argmax(&self.rows(&self.logits(features)?)?)?;
        let mut right = vec![0; self.rates()];
        for (found, label) in found.chunks(self.rates()).zip(labels) {
            right.iter_mut().zip(found).for_each(|(r, f)| *r += usize::from(f == label));
        }
        Ok(right)
    }

    /// Weights `[classes, columns]` and bias `[classes]` of the classifier with the learning rate of this number, by
    /// themselves.
    pub fn classifier(&self, rate: usize) -> Result<[Tensor; 2]> {
        let rows = rate * self.classes..(rate + 1) * self.classes;
        let own = |all: &Tensor| {
            let rows = all.slice(0, rows.clone())?;
            let own = Tensor::empty(all.device(), rows.shape(), DType::F32)?;
            copy(&own, &rows)?;
            Ok(own)
        };
        Ok([own(&self.weights.values)?, own(&self.bias.values)?])
    }

    fn rates(&self) -> usize {
        self.bias.values.elements() / self.classes
    }

    /// Logits with a row for every image and classifier.
    fn rows(&self, logits: &Tensor) -> Result<Tensor> {
        logits.reshape(&[logits.dim(0) * self.rates(), self.classes])
    }
}

//! The CPU's kernels on one thread and on several: the same bits. Under Miri or ThreadSanitizer
//! (`kernels-tests/sanitize`) this is where races would be seen, on operands that are small enough for both.

use poa_gpu::Result;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::attention::{Queries, SequenceGroup, attention, attention_of};
use poa_gpu::ops::avg_pool::{Run, avg_pool};
use poa_gpu::ops::conv::{Conv, MapShape, conv2d};
use poa_gpu::ops::gather::gather_rows;
use poa_gpu::ops::gelu::gelu;
use poa_gpu::ops::group_norm::{GroupNorm, group_norm};
use poa_gpu::ops::l2_normalize::l2_normalize;
use poa_gpu::ops::label_cross_entropy::label_cross_entropy;
use poa_gpu::ops::layer_norm::layer_norm;
use poa_gpu::ops::linear::{LinearWeights, linear};
use poa_gpu::ops::mask_rows::{MaskedMaps, mask_rows};
use poa_gpu::ops::max_pool::max_pool;
use poa_gpu::ops::patch_merge::{Neighbours, merge_norm};
use poa_gpu::ops::residual::residual;
use poa_gpu::ops::row_subset::RowSubset;
use poa_gpu::ops::segment_mean::segment_mean;
use poa_gpu::ops::sinkhorn::sinkhorn;
use poa_gpu::ops::softmax::softmax;
use poa_gpu::ops::swiglu::swiglu;
use poa_gpu::ops::tokens::{TokenGroup, TokenParameters, tokens};
use poa_gpu::ops::window_attention::{MapGroup, Windows, window_attention};
use poa_gpu::optim::sgd::Sgd;
use poa_gpu::tensor::{Device, Tensor};

use crate::support::random;

/// Times as many rows where code is compiled: pieces of work are smaller under Miri.
const MORE: usize = if cfg!(miri) { 1 } else { 60 };

/// A tape on a CPU device, and what was made on it.
struct Graph {
    device: Device,
    tape: Tape,
    leaves: Vec<Var>,
}

impl Graph {
    fn tensor(&self, shape: &[usize]) -> Result<Tensor> {
        let seed = 1 + self.leaves.len() as u64;
        Tensor::from_slice(&self.device, shape, &random(seed, shape.iter().product()))
    }

    fn integers(&self, values: impl Iterator<Item = usize>) -> Result<Tensor> {
        let values: Vec<u32> = values.map(|v| v as u32).collect();
        Tensor::from_slice(&self.device, &[values.len()], &values)
    }

    /// A value with a gradient.
    fn leaf(&mut self, shape: &[usize]) -> Result<Var> {
        let leaf = self.tape.leaf(self.tensor(shape)?);
        self.leaves.push(leaf.clone());
        Ok(leaf)
    }

    /// The output and all gradients.
    fn results(self, output: &Var) -> Result<Vec<Vec<f32>>> {
        let mut all = vec![output.value().to_vec()?];
        let seed = self.tensor(output.value().shape())?;
        let gradients = self.tape.backward(vec![(output, seed)])?;
        for leaf in &self.leaves {
            all.push(gradients.get(leaf).expect("every leaf is used").to_vec()?);
        }
        Ok(all)
    }
}

/// Runs `f` on one thread and on several and compares.
fn compare(f: impl Fn(Graph) -> Result<Vec<Vec<f32>>> + Sync) {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
        pool.install(|| {
            let device = Device::cpu();
            device.set_fences(true);
            f(Graph { device, tape: Tape::new(), leaves: Vec::new() }).expect("the operations fit")
        })
    };
    let (one, several) = (on(1), on(3));
    assert!(one.iter().flatten().all(|v| v.is_finite()), "an element was not written");
    for (i, (one, several)) in one.iter().zip(&several).enumerate() {
        let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        assert_eq!(one.iter().zip(several).position(differs), None, "an element of result {i} differs");
    }
}

#[test]
fn rows() {
    compare(|mut b| {
        let (rows, width) = (12 * MORE, 20);
        let [x, gamma, beta] = [vec![rows, width], vec![width], vec![width]].map(|shape| b.leaf(&shape));
        let (x, gamma, beta) = (x?, gamma?, beta?);
        // two thirds of the rows, last first
        let kept: Vec<u32> = (0..rows as u32).rev().filter(|r| r % 3 > 0).collect();
        let subset = RowSubset::new(&b.device, rows, &kept, &vec![1.5; kept.len()])?;
        let y = layer_norm(&b.tape, &x, &gamma, &beta, 1e-6, Some(&subset.rows))?;
        let layer =
            LinearWeights { weight: b.leaf(&[width, width])?, bias: Some(b.leaf(&[width])?), alpha: 1.0 };
        let y = gelu(&b.tape, &linear(&b.tape, &y, &layer)?)?;
        let scale = b.leaf(&[width])?;
        let z = residual(&b.tape, &x, &y, &scale, Some(&subset))?;
        let z = l2_normalize(&b.tape, &softmax(&b.tape, &z, 0.7)?, 1e-12)?;
        let index = b.integers((0..rows).step_by(2))?;
        let z = gather_rows(&b.tape, &z, &index)?;
        let z = segment_mean(&b.tape, &z, rows / 4)?;
        b.results(&z)
    });
}

#[test]
fn sequences() {
    compare(|mut b| {
        let (crops, patches, width) = (2 * MORE, 4, 16);
        let shared = TokenParameters {
            cls: b.leaf(&[width])?,
            cls_position: b.leaf(&[width])?,
            mask_token: b.leaf(&[width])?,
            registers: Some(b.leaf(&[3, width])?),
        };
        let mask = Some(b.integers((0..crops * patches).map(|i| usize::from(i % 3 == 0)))?);
        let group = TokenGroup {
            crops,
            patches: b.leaf(&[crops * patches, width])?,
            positions: b.leaf(&[patches, width])?,
            mask,
        };
        let x = tokens(&b.tape, &[group], &shared)?;
        let layer = LinearWeights { weight: b.leaf(&[3 * width, width])?, bias: None, alpha: 1.0 };
        let qkv = linear(&b.tape, &x, &layer)?;
        let groups = [SequenceGroup { count: crops, length: patches + 4 }];
        let y = attention(&b.tape, &qkv, &groups, 2, 0.3)?;
        let y = swiglu(&b.tape, &y)?;
        b.results(&y)
    });
    compare(|mut b| {
        let (sequences, length, width) = (2 * MORE, 5, 16);
        let counts: Vec<usize> = (0..sequences).map(|i| i % 4).collect();
        let groups = [SequenceGroup { count: sequences, length }];
        let words = Queries::words(&groups, &counts);
        let table = b.integers(words.into_iter().map(|w| w as usize))?;
        let asked: usize = counts.iter().sum();
        let qkv = b.leaf(&[(asked + 2 * sequences * length) * width])?;
        let y = attention_of(&b.tape, &qkv, &groups, &Queries::new(counts, table)?, [2, width / 2], 0.3)?;
        b.results(&y)
    });
}

#[test]
fn windows() {
    compare(|mut b| {
        let (heads, width) = (2, 8);
        let maps = [MapGroup { count: MORE, height: 3, width: 5 }];
        let windows = Windows::new(&b.device, &maps, 2, 1)?;
        let rows = maps[0].rows();
        let (qkv, bias) = (b.leaf(&[rows + 1, 3 * width])?, b.leaf(&[9, heads])?);
        let x = window_attention(&b.tape, &qkv, &bias, &windows, heads, 0.5)?;
        let neighbours = Neighbours::new(&b.device, &maps)?;
        let (gamma, beta) = (b.leaf(&[4, width])?, b.leaf(&[4, width])?);
        let y = merge_norm(&b.tape, &x, &gamma, &beta, 1e-5, &neighbours)?;
        b.results(&y)
    });
}

#[test]
fn maps() {
    compare(|mut b| {
        let shape = MapShape { images: 2 * MORE, height: 4, width: 4 };
        let (x, token) = (b.leaf(&[shape.rows(), 6])?, b.leaf(&[4])?);
        let mask = Some(b.integers((0..shape.images * 4).map(|i| i % 2))?);
        let masked = MaskedMaps { count: shape.images, side: 4, cells: 2, mask };
        let x = mask_rows(&b.tape, &x, &token, &[masked])?;
        // the gradient of a step of two is written to every other row and column at a time
        let conv = Conv { weight: b.leaf(&[8, 4, 3, 3])?, stride: 2, padding: 1, alpha: 1.0 };
        let (y, shape) = conv2d(&b.tape, &x, shape, &conv)?;
        let norm = GroupNorm { images: shape.images, groups: 2, eps: 1e-5, relu: true };
        let (gamma, beta) = (b.leaf(&[8])?, b.leaf(&[8])?);
        let y = group_norm(&b.tape, &y, &gamma, &beta, None, norm)?;
        let (y, shape) = max_pool(&b.tape, &y, shape)?;
        let each = shape.height * shape.width;
        let runs = |i: usize| Run { source: 0, first: i * each, length: each };
        let y = avg_pool(&b.tape, &[&y], &(0..shape.images).map(runs).collect::<Vec<_>>())?;
        b.results(&y)
    });
}

#[test]
fn losses_and_updates() {
    compare(|b| {
        let (rows, classes) = (6 * MORE, 40);
        let logits = b.tensor(&[rows, classes])?;
        let halves = [logits.slice(0, 0..rows / 2)?, logits.slice(0, rows / 2..rows)?];
        let targets = sinkhorn(halves.to_vec(), 0.5, 2)?;
        let mut all = vec![targets.row_scale().to_vec()?, targets.column_scale().to_vec()?];
        all.push(targets.entropy()?.to_vec()?);
        let labels = b.integers((0..rows).map(|i| i % classes))?;
        all.push(label_cross_entropy(&logits, &labels, 0.1)?.to_vec()?);
        let weights = b.tensor(&[rows, classes])?;
        Sgd::new(weights.clone(), &[0.1, 0.2], 0.9)?.step(&logits, 1.0)?;
        all.extend([logits.to_vec()?, weights.to_vec()?]);
        Ok(all)
    });
}

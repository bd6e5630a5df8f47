//! What is summed over more terms than any small test has, on the adapter beside the CPU: llvmpipe leaves the loops of a
//! kernel after 65,535 rounds of all of them together and says nothing, so that no kernel may go round so often at sizes
//! that somebody trains with.

use poa_gpu::Result;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::ops::attention::{Queries, SequenceGroup, attention_of};
use poa_gpu::ops::avg_pool::{Run as AvgRun, avg_pool};
use poa_gpu::ops::gather::gather_rows;
use poa_gpu::ops::group_norm::{GroupNorm, group_norm};
use poa_gpu::ops::koleo::koleo;
use poa_gpu::ops::l2_normalize::l2_normalize;
use poa_gpu::ops::label_cross_entropy::label_cross_entropy;
use poa_gpu::ops::layer_norm::layer_norm;
use poa_gpu::ops::linear::{LinearWeights, linear};
use poa_gpu::ops::residual::residual;
use poa_gpu::ops::segment_mean::segment_mean;
use poa_gpu::ops::sinkhorn::sinkhorn;
use poa_gpu::ops::softmax::softmax;
use poa_gpu::ops::top_k::TopK;
use poa_gpu::tensor::{Device, Tensor};

use crate::support::{gpu, random};

/// Rows: all tokens of 1,300 images of 224 pixels.
const ROWS: usize = 262_144;
/// Prototypes, of the official recipes at most 65,536.
const PROTOTYPES: usize = 131_072;

/// Operands on a device, and what is made of them.
struct Case<'a> {
    device: &'a Device,
    tape: Tape,
    leaves: Vec<Var>,
    results: Vec<Vec<f32>>,
}

impl<'a> Case<'a> {
    fn on(device: &'a Device) -> Self {
        Self { device, tape: Tape::new(), leaves: Vec::new(), results: Vec::new() }
    }

    fn tensor(&self, seed: usize, shape: &[usize]) -> Result<Tensor> {
        // with a mean, so that no sum is of nothing but noise
        let values: Vec<f32> = random(seed as u64, shape.iter().product()).iter().map(|v| 0.5 + v).collect();
        Tensor::from_slice(self.device, shape, &values)
    }

    fn leaf(&mut self, shape: &[usize]) -> Result<Var> {
        let leaf = self.tape.leaf(self.tensor(1 + self.leaves.len(), shape)?);
        self.leaves.push(leaf.clone());
        Ok(leaf)
    }

    /// Keeps an output, and the gradients that it gives.
    fn keep(mut self, output: &Var) -> Result<Vec<Vec<f32>>> {
        self.results.push(output.value().to_vec()?);
        let seed = self.tensor(99, output.value().shape())?;
        let gradients = self.tape.backward(vec![(output, seed)])?;
        for leaf in &self.leaves {
            self.results.push(gradients.get(leaf).expect("every leaf is used").to_vec()?);
        }
        Ok(self.results)
    }
}

/// Runs `f` on both devices and compares what it gives.
#[track_caller]
fn compare(what: &str, f: impl Fn(Case) -> Result<Vec<Vec<f32>>>) {
    let (adapter, cpu) = (gpu(), Device::cpu());
    let on = |device| f(Case::on(device)).unwrap();
    let (got, want) = (on(&adapter), on(&cpu));
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        let square = |a: f32| f64::from(a).powi(2);
        let error: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
        let error = (error / want.iter().map(|w| square(*w)).sum::<f64>()).sqrt();
        // the mean of all shows what a share of the terms does not say
        let [a, b] = [got, want].map(|v| v.iter().map(|x| f64::from(*x)).sum::<f64>());
        println!("{what}, result {i}: {error:.1e} apart, sums {a:e} and {b:e}");
        assert!(error < 1e-3, "{what}: result {i} is {error:e} apart");
    }
}

#[test]
fn products() {
    // K of a weight's gradient, of logits' gradient, and long rows and columns
    for [m, n, k] in [[5, 7, ROWS], [16, 16, PROTOTYPES], [ROWS, 3, 2], [2, ROWS, 3]] {
        compare(&format!("{m}x{n}x{k}"), |mut run| {
            let (x, weight) = (run.leaf(&[m, k])?, run.leaf(&[n, k])?);
            let bias = Some(run.leaf(&[n])?);
            let y = linear(&run.tape, &x, &LinearWeights { weight, bias, alpha: 1.0 })?;
            run.keep(&y)
        });
    }
}

#[test]
fn norms_of_many_rows() {
    compare("norms and sums over rows", |mut run| {
        let (x, b) = (run.leaf(&[ROWS, 8])?, run.leaf(&[ROWS, 8])?);
        let [gamma, beta, scale] = [run.leaf(&[8])?, run.leaf(&[8])?, run.leaf(&[8])?];
        let y = layer_norm(&run.tape, &x, &gamma, &beta, 1e-6, None)?;
        let y = residual(&run.tape, &y, &b, &scale, None)?;
        let index: Vec<u32> = (0..ROWS as u32).rev().collect();
        let y = gather_rows(&run.tape, &y, &Tensor::from_slice(run.device, &[ROWS], &index)?)?;
        run.keep(&y)
    });
}

/// The most that one invocation adds up there, and one more.
#[test]
fn means_of_many_rows() {
    for rows in [65_535, 65_536] {
        let means = |mut run: Case| {
            let x = run.leaf(&[rows, 3])?;
            let y = segment_mean(&run.tape, &x, 1)?;
            run.keep(&y)
        };
        let runs = |mut run: Case| {
            let x = run.leaf(&[rows, 3])?;
            let y = avg_pool(&run.tape, &[&x], &[AvgRun { source: 0, first: 0, length: rows }])?;
            run.keep(&y)
        };
        let Device::Gpu(adapter) = &gpu() else { unreachable!("gpu() is a GPU") };
        if adapter.caps().loop_rounds().is_none_or(|most| rows <= most) {
            compare("one mean over all rows", means);
            compare("one run over all rows", runs);
            continue;
        }
        let device = gpu();
        for refused in [means(Case::on(&device)), runs(Case::on(&device))] {
            let told = refused.unwrap_err().to_string();
            assert!(told.contains("65536 rows") && told.contains("65535 at most"), "{told}");
        }
    }
}

#[test]
fn large_maps() {
    compare("groups of a map of 512x512", |mut run| {
        let x = run.leaf(&[ROWS, 32])?;
        let (gamma, beta) = (run.leaf(&[32])?, run.leaf(&[32])?);
        let norm = GroupNorm { images: 1, groups: 32, eps: 1e-5, relu: true };
        let y = group_norm(&run.tape, &x, &gamma, &beta, None, norm)?;
        run.keep(&y)
    });
}

#[test]
fn rows_that_are_long() {
    compare("softmax and norm of long rows", |mut run| {
        let x = run.leaf(&[2, PROTOTYPES])?;
        let y = l2_normalize(&run.tape, &softmax(&run.tape, &x, 0.7)?, 1e-12)?;
        run.keep(&y)
    });
    compare("labels among many classes", |mut run| {
        let logits = run.tensor(1, &[2, PROTOTYPES])?;
        let labels = Tensor::from_slice(run.device, &[2], &[PROTOTYPES as u32 - 1, 7])?;
        let loss = label_cross_entropy(&logits, &labels, 1.0)?;
        run.results.extend([loss.to_vec()?, logits.to_vec()?]);
        Ok(run.results)
    });
    for [rows, prototypes] in [[20, PROTOTYPES], [ROWS, 16]] {
        compare(&format!("Sinkhorn of {rows}x{prototypes}"), |mut run| {
            let targets = sinkhorn(vec![run.tensor(1, &[rows, prototypes])?], 0.5, 3)?;
            run.results.push(targets.to_vec()?.into_iter().map(|v| v as f32).collect());
            Ok(run.results)
        });
    }
}

#[test]
fn the_largest_of_long_rows() {
    compare("the largest of a long row", |mut run| {
        let mut largest = TopK::new(run.device, 2, 20)?;
        largest.add(&run.tensor(1, &[2, ROWS])?, 0)?;
        for kept in largest.sorted()? {
            run.results.push(kept.iter().map(|s| s.column as f32).collect());
            run.results.push(kept.iter().map(|s| s.score).collect());
        }
        Ok(run.results)
    });
}

#[test]
fn pairs_of_many_samples() {
    compare("KoLeo of 4,096 samples", |mut run| {
        let x = run.leaf(&[4096, 4])?;
        let y = koleo(&run.tape, &x, 1)?;
        run.keep(&y)
    });
}

#[test]
fn attention_to_many_tokens() {
    compare("attention to 65,535 tokens", |mut run| {
        let groups = [SequenceGroup { count: 1, length: 65_535 }];
        let words = Queries::words(&groups, &[3]);
        let queries = Queries::new(vec![3], Tensor::from_slice(run.device, &[words.len()], &words)?)?;
        let qkv = run.leaf(&[(3 + 2 * 65_535) * 8])?;
        let y = attention_of(&run.tape, &qkv, &groups, &queries, [1, 8], 0.3)?;
        run.keep(&y)
    });
}

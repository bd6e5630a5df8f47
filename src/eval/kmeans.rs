//! k-means on the device, by Lloyd's algorithm as scikit-learn runs it: products with all centres say which is nearest,
//! rows are added up by cluster there, and the host divides. Sums have a fixed order, so the same seed gives the same
//! bits again.

use rand::{Rng, RngExt};
use rayon::prelude::*;

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::ops::group_sum::group_sum;
use crate::ops::linear::{LinearWeights, linear};
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::ops::top_k::argmax;
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Device, PendingRead, Tensor};

/// Rows of a block: with 1,000 centres 16 MiB of products.
const BLOCK: usize = 4096;
/// Squared distances below this share of the squared lengths are roundings of single precision, and count as none.
const ROUNDING: f64 = 1e-6;

/// How clusters are sought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KMeansOptions {
    /// First centres that are tried; the result with the least inertia is kept.
    pub starts: usize,
    /// Iterations of a start, at most.
    pub iterations: usize,
    /// A start ends where the squares of all shifts of centres add up to at most this share of the mean variance of a
    /// column.
    pub tolerance: f64,
    /// The seed of first centres.
    pub seed: u64,
}

impl Default for KMeansOptions {
    fn default() -> Self {
        Self { starts: 10, iterations: 300, tolerance: 1e-4, seed: 0 }
    }
}

/// Clusters of points.
#[derive(Clone, Debug, PartialEq)]
pub struct Clustering {
    /// The cluster of every row.
    pub clusters: Vec<u32>,
    /// `[k, width]`, row by row.
    pub centres: Vec<f32>,
    /// Squared distances of all rows from their centres, added up.
    pub inertia: f64,
    /// Iterations that it took.
    pub iterations: usize,
}

/// Rows to be clustered, less their mean, on the host and on a device.
pub struct Points {
    rows: Vec<f32>,
    width: usize,
    blocks: Vec<Tensor>,
    mean: Vec<f64>,
    /// Squared length of each row.
    squares: Vec<f64>,
    /// Mean variance of a column.
    variance: f64,
}

impl Points {
    /// Rows `[n, width]`, all finite.
    pub fn new(device: &Device, mut rows: Vec<f32>, width: usize) -> Result<Self> {
        let count = rows.len() / width.max(1);
        if count == 0 || rows.len() != count * width {
            let problem = format!("{} values are no rows of {width}", rows.len());
            return Err(Error::shape("k-means", problem));
        }
        let mut mean = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v));
        }
        mean.iter_mut().for_each(|m| *m /= count as f64);
        // products of what lies far from zero would lose the digits that tell it apart
        rows.par_chunks_exact_mut(width).for_each(|row| {
            row.iter_mut().zip(&mean).for_each(|(v, m)| *v = (f64::from(*v) - m) as f32);
        });
        let squares: Vec<f64> = rows.par_chunks_exact(width).map(square).collect();
        let variance = squares.iter().sum::<f64>() / (count * width) as f64;
        let block = |rows: &[f32]| Tensor::from_slice(device, &[rows.len() / width, width], rows);
        let blocks = rows.chunks(BLOCK * width).map(block).collect::<Result<_>>()?;
        Ok(Self { rows, width, blocks, mean, squares, variance })
    }

    /// The best of `options.starts` runs for `k` clusters, of equally good ones the first; `started` is told how many
    /// are done.
    pub fn k_means(
        &self,
        k: usize,
        options: &KMeansOptions,
        mut started: impl FnMut(usize),
    ) -> Result<Clustering> {
        let mut best: Option<Clustering> = None;
        for start in 0..options.starts.max(1) {
            let first = self.plus_plus(k, &mut stream(options.seed, Purpose::Centres, start as u64, 0))?;
            let found = self.run(first, options)?;
            if best.as_ref().is_none_or(|best| found.inertia < best.inertia) {
                best = Some(found);
            }
            started(start + 1);
        }
        best.ok_or_else(|| Error::shape("k-means", "no start"))
    }

    /// Lloyd's algorithm from first centres `[k, width]`.
    pub fn lloyd(&self, first: &[f32], options: &KMeansOptions) -> Result<Clustering> {
        if first.is_empty() || !first.len().is_multiple_of(self.width) {
            let problem = format!("{} values are no centres of {}", first.len(), self.width);
            return Err(Error::shape("k-means", problem));
        }
        let less = first.iter().zip(self.mean.iter().cycle()).map(|(v, m)| (f64::from(*v) - m) as f32);
        self.run(less.collect(), options)
    }

    /// As [`Points::lloyd`], from centres less the mean.
    fn run(&self, mut centres: Vec<f32>, options: &KMeansOptions) -> Result<Clustering> {
        let tolerance = options.tolerance * self.variance;
        let (mut clusters, mut settled, mut iterations) = (Vec::new(), false, 0);
        while iterations < options.iterations && !settled {
            iterations += 1;
            let now = self.nearest(&centres)?;
            let new = self.means(&now, &centres)?;
            let shift: f64 =
                new.iter().zip(&centres).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            centres = new;
            settled = now == clusters;
            clusters = now;
            if shift <= tolerance {
                break;
            }
        }
        if !settled {
            clusters = self.nearest(&centres)?;
        }
        let inertia = self.distances(&clusters, &centres).iter().sum();
        let back = centres.iter().zip(self.mean.iter().cycle()).map(|(v, m)| (f64::from(*v) + m) as f32);
        Ok(Clustering { clusters, centres: back.collect(), inertia, iterations })
    }

    /// The nearest centre of every row, of equally near ones the first: the largest x·c − |c|²/2.
    fn nearest(&self, centres: &[f32]) -> Result<Vec<u32>> {
        let device = self.blocks[0].device();
        let offsets: Vec<f32> =
            centres.par_chunks_exact(self.width).map(|c| (-0.5 * square(c)) as f32).collect();
        let weight = Tensor::from_slice(device, &[offsets.len(), self.width], centres)?;
        let bias = Tensor::from_slice(device, &[offsets.len()], &offsets)?;
        let centres =
            LinearWeights { weight: Var::constant(weight), bias: Some(Var::constant(bias)), alpha: 1.0 };
        let mut nearest = Vec::with_capacity(self.squares.len());
        for block in &self.blocks {
            let scores = linear(&Tape::no_grad(), &Var::constant(block.clone()), &centres)?;
            nearest.extend(argmax(scores.value())?);
        }
        Ok(nearest)
    }

    /// The mean of every cluster. One without a row gets the row that lies farthest from its centre in `old`, which
    /// its cluster loses; where no row lies off its centre, the centre of the largest cluster.
    fn means(&self, clusters: &[u32], old: &[f32]) -> Result<Vec<f32>> {
        let (k, width) = (old.len() / self.width, self.width);
        let sums = Tensor::zeros(self.blocks[0].device(), &[k, width], DType::F32)?;
        for (block, clusters) in self.blocks.iter().zip(clusters.chunks(BLOCK)) {
            group_sum(&sums, block, clusters)?;
        }
        let mut sums = sums.to_vec::<f32>()?;
        let mut counts = vec![0_usize; k];
        clusters.iter().for_each(|c| counts[*c as usize] += 1);
        let empty: Vec<usize> = (0..k).filter(|c| counts[*c] == 0).collect();
        if !empty.is_empty() {
            let distances = self.distances(clusters, old);
            let mut farthest: Vec<usize> = (0..distances.len()).collect();
            farthest.sort_by(|a, b| distances[*b].total_cmp(&distances[*a]));
            if distances[farthest[0]] > 0.0 {
                for (to, row) in empty.into_iter().zip(farthest) {
                    let from = clusters[row] as usize;
                    for (c, v) in self.row(row).iter().enumerate() {
                        sums[from * width + c] -= v;
                        sums[to * width + c] = *v;
                    }
                    counts[from] -= 1;
                    counts[to] = 1;
                }
            }
        }
        sums.par_chunks_exact_mut(width).zip(&counts).filter(|(_, count)| **count > 0).for_each(
            |(sum, count)| {
                sum.iter_mut().for_each(|v| *v = (f64::from(*v) / *count as f64) as f32);
            },
        );
        let largest = (0..k).rev().max_by_key(|c| counts[*c]).unwrap_or(0);
        for c in (0..k).filter(|c| counts[*c] == 0) {
            sums.copy_within(largest * width..(largest + 1) * width, c * width);
        }
        Ok(sums)
    }

    /// First centres `[k, width]`, less the mean, by greedy k-means++: of 2 + ln k rows, drawn by their squared distance
    /// from the nearest centre so far, the one that leaves the least of it.
    fn plus_plus(&self, k: usize, rng: &mut impl Rng) -> Result<Vec<f32>> {
        let (count, trials) = (self.squares.len(), 2 + (k as f64).ln() as usize);
        let first = rng.random_range(0..count);
        let mut centres = self.row(first).to_vec();
        let mut left = self.distances_from(&[first])?.swap_remove(0);
        for _ in 1..k {
            let total: f64 = left.iter().sum();
            let mut drawn: Vec<f64> = (0..trials).map(|_| rng.random::<f64>() * total).collect();
            drawn.sort_by(f64::total_cmp);
            let candidates = rows_at(&left, &drawn);
            let distances = self.distances_from(&candidates)?;
            let after = distances.into_par_iter().map(|distances| {
                let nearer: Vec<f64> = left.iter().zip(distances).map(|(a, b)| a.min(b)).collect();
                (nearer.iter().sum::<f64>(), nearer)
            });
            let after: Vec<(f64, Vec<f64>)> = after.collect();
            let best = (0..after.len()).min_by(|a, b| after[*a].0.total_cmp(&after[*b].0));
            let Some((best, (_, nearer))) = best.and_then(|best| after.into_iter().enumerate().nth(best))
            else {
                break;
            };
            left = nearer;
            centres.extend(self.row(candidates[best]));
        }
        Ok(centres)
    }

    /// Squared distances of all rows from each of these.
    fn distances_from(&self, these: &[usize]) -> Result<Vec<Vec<f64>>> {
        let (device, n) = (self.blocks[0].device(), these.len());
        let rows: Vec<f32> = these.iter().flat_map(|r| self.row(*r)).copied().collect();
        let rows = Matrix::new(&Tensor::from_slice(device, &[n, self.width], &rows)?)?.t();
        let mut products = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let product = Tensor::empty(device, &[block.dim(0), n], DType::F32)?;
            matmul(&Matrix::new(block)?, &rows, &Matrix::new(&product)?, &Options::default())?;
            products.push(product);
        }
        let products = PendingRead::of(device, &products.iter().collect::<Vec<_>>())?.wait()?;
        let from = |(i, this): (usize, &usize)| {
            let dots = products.chunks_exact(n).map(|row| f64::from(row[i]));
            let squared = dots.zip(&self.squares).map(|(dot, square)| {
                let (lengths, squared) =
                    (square + self.squares[*this], square + self.squares[*this] - 2.0 * dot);
                if squared > ROUNDING * lengths { squared } else { 0.0 }
            });
            squared.collect()
        };
        Ok(these.iter().enumerate().map(from).collect())
    }

    /// The squared distance of every row from the centre of its cluster.
    fn distances(&self, clusters: &[u32], centres: &[f32]) -> Vec<f64> {
        let width = self.width;
        let rows = self.rows.par_chunks_exact(width).zip(clusters);
        rows.map(|(row, cluster)| {
            let centre = &centres[*cluster as usize * width..][..width];
            row.iter().zip(centre).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
        })
        .collect()
    }

    fn row(&self, r: usize) -> &[f32] {
        &self.rows[r * self.width..(r + 1) * self.width]
    }
}

fn square(row: &[f32]) -> f64 {
    row.iter().map(|v| f64::from(*v).powi(2)).sum()
}

/// The rows at which the running sum of `weights` passes each of `sums`, which ascend. What lies beyond the end, as it
/// does where all weights are zero, is at the last row.
fn rows_at(weights: &[f64], sums: &[f64]) -> Vec<usize> {
    let (mut rows, mut total) = (Vec::with_capacity(sums.len()), 0.0);
    for (row, weight) in weights.iter().enumerate() {
        total += weight;
        while rows.len() < sums.len() && total > sums[rows.len()] {
            rows.push(row);
        }
    }
    rows.resize(sums.len(), weights.len() - 1);
    rows
}

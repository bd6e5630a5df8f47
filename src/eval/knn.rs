//! Weighted k-nearest-neighbour classification of features, as in DINOv2's `eval/knn.py`.

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

/// Validation rows and training rows of one block of similarities (64 × 4096 f32 = 1 MiB a thread).
const BLOCK: (usize, usize) = (64, 4096);
/// At least so many neighbours share the softmax, however small the largest k.
const MIN_NEIGHBOURS: usize = 100;

/// Share of the validation rows whose class the k nearest training rows give, for every k of `ks`.
///
/// `train` [n, dim] and `val` [m, dim] are L2-normalised; the neighbours are the 100 (or largest k) training rows of
/// largest dot product (of equal ones the first), their weights softmax(similarity / temperature); the weights of
/// the first k are summed per class and the largest sum wins (of equal ones the lowest class). A k beyond n counts as
/// n. NaN if either set is empty.
///
/// # Panics
/// If the features and labels differ in length.
pub fn knn_top1(
    train: &[f32],
    train_labels: &[u32],
    val: &[f32],
    val_labels: &[u32],
    dim: usize,
    ks: &[usize],
    temperature: f32,
) -> Vec<f64> {
    assert_eq!(train.len(), train_labels.len() * dim, "one training label a row");
    assert_eq!(val.len(), val_labels.len() * dim, "one validation label a row");
    if train.is_empty() || val.is_empty() {
        return vec![f64::NAN; ks.len()];
    }
    let (train, val) = (normalised(train, dim), normalised(val, dim));
    let classes = train_labels.iter().max().map_or(0, |&c| c as usize + 1);
    let neighbours = ks.iter().copied().max().unwrap_or(0).max(MIN_NEIGHBOURS).min(train_labels.len());
    let right = val
        .par_chunks(BLOCK.0 * dim)
        .zip(val_labels.par_chunks(BLOCK.0))
        .map(|(rows, labels)| {
            let mut right = vec![0_usize; ks.len()];
            let mut votes = vec![0.0; classes];
            for (mut nearest, &label) in nearest_rows(&train, rows, dim, neighbours).into_iter().zip(labels) {
                weigh(&mut nearest, temperature);
                for (right, &k) in right.iter_mut().zip(ks) {
                    votes.fill(0.0);
                    nearest
                        .iter()
                        .take(k)
                        .for_each(|n| votes[train_labels[n.row as usize] as usize] += n.weight);
                    *right += usize::from(winner(&votes) == Some(label as usize));
                }
            }
            right
        })
        .reduce(|| vec![0; ks.len()], |a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect());
    right.into_iter().map(|right| right as f64 / val_labels.len() as f64).collect()
}

/// A training row near a validation row.
#[derive(Clone, Copy)]
struct Neighbour {
    /// Its similarity, then its share of the votes.
    weight: f32,
    row: u32,
}

/// The `count` training rows nearest to every one of `rows`, nearest first.
fn nearest_rows(train: &[f32], rows: &[f32], dim: usize, count: usize) -> Vec<Vec<Neighbour>> {
    let m = rows.len() / dim;
    let mut nearest: Vec<Vec<Neighbour>> = vec![Vec::with_capacity(2 * count); m];
    let mut similarities = vec![0.0; m * BLOCK.1];
    for (block, train) in train.chunks(BLOCK.1 * dim).enumerate() {
        let n = train.len() / dim;
        dot_products(rows, train, dim, &mut similarities[..m * n]);
        for (nearest, similarities) in nearest.iter_mut().zip(similarities.chunks_exact(n)) {
            // All the `count` kept so far are at least as near as this.
            let mut limit = if nearest.len() < count { f32::NEG_INFINITY } else { nearest[count - 1].weight };
            for (i, &weight) in similarities.iter().enumerate() {
                // Later rows lose against earlier ones of the same similarity. NaN is as far as can be.
                if nearest.len() < count || weight > limit {
                    let weight = if weight.is_nan() { f32::NEG_INFINITY } else { weight };
                    nearest.push(Neighbour { weight, row: (block * BLOCK.1 + i) as u32 });
                    if nearest.len() == 2 * count {
                        keep(nearest, count);
                        limit = nearest[count - 1].weight;
                    }
                }
            }
            keep(nearest, count);
        }
    }
    nearest
}

/// Sorts, nearest first, and drops all beyond `count`.
fn keep(nearest: &mut Vec<Neighbour>, count: usize) {
    nearest.sort_unstable_by(|a, b| b.weight.total_cmp(&a.weight).then(a.row.cmp(&b.row)));
    nearest.truncate(count);
}

/// Turns similarities, largest first, into softmax(similarity / temperature).
fn weigh(nearest: &mut [Neighbour], temperature: f32) {
    let Some(largest) = nearest.first().map(|n| n.weight) else { return };
    for n in nearest.iter_mut() {
        n.weight = ((n.weight - largest) / temperature).exp();
    }
    let total: f32 = nearest.iter().map(|n| n.weight).sum();
    nearest.iter_mut().for_each(|n| n.weight /= total);
}

/// The first of the largest votes; none if no vote counts.
fn winner(votes: &[f32]) -> Option<usize> {
    let largest = votes.iter().copied().fold(0.0, f32::max);
    votes.iter().position(|&v| v == largest && v > 0.0)
}

/// out [m, n] = a [m, dim] · b [n, dim]ᵀ
fn dot_products(a: &[f32], b: &[f32], dim: usize, out: &mut [f32]) {
    let (m, n) = (a.len() / dim, b.len() / dim);
    assert_eq!(out.len(), m * n);
    let (d, n_stride) = (dim as isize, n as isize);
    // SAFETY: the sizes and strides describe the three slices exactly, and `out` overlaps neither input.
    unsafe {
        gemm(
            m,
            n,
            dim,
            out.as_mut_ptr(),
            1,
            n_stride,
            false,
            a.as_ptr(),
            1,
            d,
            b.as_ptr(),
            d,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// Rows divided by their length (at least 1e-12).
fn normalised(rows: &[f32], dim: usize) -> Vec<f32> {
    let mut out = rows.to_vec();
    out.par_chunks_mut(dim).for_each(|row| {
        let length = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt().max(1e-12);
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    });
    out
}

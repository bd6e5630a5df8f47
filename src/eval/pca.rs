//! The first principal components of many vectors, found by orthogonal iteration in f64.

use gemm::{Parallelism, gemm};

/// Components that are found.
pub const COMPONENTS: usize = 3;
/// At most so many iterations; components that are still mixed then have nearly equal variances.
const ITERATIONS: usize = 1000;
/// Iteration ends when no entry of a direction changes by more than this.
const TOLERANCE: f64 = 1e-10;

/// The directions of largest variance of a set of vectors.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The mean of the vectors, `[dim]`.
    pub mean: Vec<f64>,
    /// Orthonormal directions, each `[dim]`, whose entry of largest magnitude is positive; that of largest
    /// variance comes first. Zero where the vectors have no variance left.
    pub directions: [Vec<f64>; COMPONENTS],
    /// Variance of the vectors along each.
    pub variances: [f64; COMPONENTS],
}

impl Principal {
    /// Of `rows` `[n, dim]`, finite, n and dim at least one. The same rows give the same bits.
    pub fn of(rows: &[f32], dim: usize) -> Self {
        let n = rows.len() / dim;
        let mut mean = vec![0.0; dim];
        for row in rows.chunks_exact(dim) {
            mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v));
        }
        mean.iter_mut().for_each(|m| *m /= n as f64);
        let centred: Vec<f64> = rows
            .chunks_exact(dim)
            .flat_map(|row| row.iter().zip(&mean).map(|(v, m)| f64::from(*v) - m))
            .collect();
        let mut covariance = product((&centred, 1, dim), (&centred, dim, 1), (dim, n, dim));
        covariance.iter_mut().for_each(|c| *c /= n as f64);
        let total: f64 = covariance.iter().step_by(dim + 1).sum();
        // What is left of equal vectors by rounding is no variance.
        let size = mean.iter().map(|m| m * m).sum::<f64>();
        let negligible = (1e-12 * total).max(1e-24 * size);

        let mut directions = start(dim);
        for _ in 0..ITERATIONS {
            let mut next = turned(&covariance, &directions, dim);
            orthonormalise(&mut next, negligible);
            let change =
                next.iter().zip(&directions).flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs()));
            let change = change.fold(0.0, f64::max);
            directions = next;
            if change < TOLERANCE {
                break;
            }
        }
        let images = turned(&covariance, &directions, dim);
        let mut variances = [0.0; COMPONENTS];
        for ((variance, direction), image) in variances.iter_mut().zip(&directions).zip(&images) {
            *variance = dot(direction, image);
        }
        directions.iter_mut().for_each(|direction| point(direction));
        Self { mean, directions, variances }
    }

    /// How far a vector `[dim]` lies from the mean along each direction.
    pub fn project(&self, row: &[f32]) -> [f64; COMPONENTS] {
        let along = |direction: &Vec<f64>| {
            let parts = direction.iter().zip(row).zip(&self.mean);
            parts.map(|((d, v), m)| d * (f64::from(*v) - m)).sum()
        };
        let [a, b, c] = &self.directions;
        [along(a), along(b), along(c)]
    }
}

/// Directions that no structured data is likely to be orthogonal to; the same every time.
fn start(dim: usize) -> [Vec<f64>; COMPONENTS] {
    std::array::from_fn(|i| (0..dim).map(|j| ((j * j + 1) as f64 * (i as f64 + 0.618)).sin()).collect())
}

/// The covariance times every direction.
fn turned(covariance: &[f64], directions: &[Vec<f64>; COMPONENTS], dim: usize) -> [Vec<f64>; COMPONENTS] {
    // The covariance is symmetric, so that rows of directions can stand on the left.
    let all = product((&directions.concat(), dim, 1), (covariance, dim, 1), (COMPONENTS, dim, dim));
    std::array::from_fn(|i| all[i * dim..(i + 1) * dim].to_vec())
}

/// Gram-Schmidt, twice, since once is not exact where vectors are nearly parallel. A vector of which no more
/// than `negligible` is left becomes zero.
fn orthonormalise(vectors: &mut [Vec<f64>; COMPONENTS], negligible: f64) {
    for i in 0..COMPONENTS {
        let (done, rest) = vectors.split_at_mut(i);
        let Some(vector) = rest.first_mut() else { continue };
        for round in 0..2 {
            for other in done.iter() {
                let along = dot(other, vector);
                vector.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
            let length = dot(vector, vector).sqrt();
            let floor = if round == 0 { negligible } else { 0.5 };
            let scale = if length > floor { 1.0 / length } else { 0.0 };
            vector.iter_mut().for_each(|v| *v *= scale);
        }
    }
}

/// Gives a direction the sign with which its entry of largest magnitude, the first of equal ones, is
/// positive.
fn point(direction: &mut [f64]) {
    let largest = direction
        .iter()
        .copied()
        .fold(0.0, |largest: f64, v| if v.abs() > largest.abs() { v } else { largest });
    if largest < 0.0 {
        direction.iter_mut().for_each(|v| *v = -*v);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The product [m, n] of a [m, k] and b [k, n], each given as (values, row stride, column stride).
fn product(
    a: (&[f64], usize, usize),
    b: (&[f64], usize, usize),
    (m, k, n): (usize, usize, usize),
) -> Vec<f64> {
    let last = |rows: usize, columns: usize, (_, row, column): (&[f64], usize, usize)| {
        (rows - 1) * row + (columns - 1) * column
    };
    assert!(last(m, k, a) < a.0.len() && last(k, n, b) < b.0.len(), "the strides stay within the matrices");
    let mut out = vec![0.0; m * n];
    // SAFETY: the largest offsets were checked above, `out` holds m rows of n values and overlaps neither
    // input.
    unsafe {
        gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.0.as_ptr(),
            a.2 as isize,
            a.1 as isize,
            b.0.as_ptr(),
            b.2 as isize,
            b.1 as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
    out
}

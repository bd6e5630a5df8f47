//! Position embeddings at another grid size: a fixed linear map of the patch positions, so it is one small
//! product with a matrix computed once on the host.

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::profile;
use crate::tensor::{DType, Tensor};

/// The factor added to the target side when the scale of the interpolation is computed (as DINOv2 does, so
/// that the wanted size comes out of the rounding).
pub const OFFSET: f64 = 0.1;

/// Weights of the four neighbours at distance `t` past the second one: bicubic with a = −0.75.
fn cubic(t: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

/// `[to², from²]`, row-major: bicubic resampling of a square grid, without antialiasing, half-pixel centres,
/// clamped at the border (poa-facts: position embedding at another size).
pub fn bicubic_matrix(from: usize, to: usize) -> Vec<f32> {
    let scale = (to as f64 + OFFSET) / from as f64;
    let axis: Vec<Vec<f64>> = (0..to)
        .map(|i| {
            let at = (i as f64 + 0.5) / scale - 0.5;
            let mut row = vec![0.0; from];
            for (j, w) in cubic(at - at.floor()).into_iter().enumerate() {
                let source = (at.floor() as isize + j as isize - 1).clamp(0, from as isize - 1);
                row[source as usize] += w;
            }
            row
        })
        .collect();
    let mut all = Vec::with_capacity(to * to * from * from);
    for y in &axis {
        for x in &axis {
            all.extend(y.iter().flat_map(|wy| x.iter().map(move |wx| (wy * wx) as f32)));
        }
    }
    all
}

/// `matrix · positions`: positions `[from², width]` (a slice of the parameter), matrix `[to², from²]`.
pub fn resample_positions(tape: &Tape, positions: &Var, matrix: &Tensor) -> Result<Var> {
    let _span = profile::operation("resample_positions");
    if matrix.shape().len() != 2 || matrix.dim(1) != positions.value().dim(0) {
        return Err(Error::shape("resample_positions", format!("{:?} by {matrix:?}", positions.value())));
    }
    let shape = [matrix.dim(0), positions.value().dim(1)];
    let out = Tensor::empty(matrix.device(), &shape, DType::F32)?;
    let options = Options { exact: true, ..Default::default() };
    matmul(&Matrix::new(matrix)?, &Matrix::new(positions.value())?, &Matrix::new(&out)?, &options)?;
    let matrix = matrix.clone();
    Ok(tape.record("resample_positions", [positions], out, move |[dx], dy| {
        dx.write(|dx, accumulate| {
            let options = Options { accumulate, exact: true, ..Default::default() };
            matmul(&Matrix::new(&matrix)?.t(), &Matrix::new(&dy)?, &Matrix::new(dx)?, &options)
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_fields_stay_constant() {
        for (from, to) in [(14, 6), (14, 37), (4, 2), (8, 8)] {
            let m = bicubic_matrix(from, to);
            for row in m.chunks(from * from) {
                assert!((row.iter().map(|v| *v as f64).sum::<f64>() - 1.0).abs() < 1e-6);
            }
        }
    }
}

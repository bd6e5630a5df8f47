//! What an adapter's cooperative matrices make of known products, asked when the adapter is opened: drivers
//! differ here, and a wrong product would only show as a run that does not learn.

use half::f16;

use super::{Force, Matrix, Options, Precision, Variant, matmul_with, variants};
use crate::error::{Error, Result};
use crate::gpu::{Cooperative, GpuDevice};
use crate::tensor::{DType, Device, Tensor};

/// Rows and columns over the edge of every tile; K is read in vectors, and in the second shape is not.
const SHAPES: [[usize; 3]; 2] = [[136, 152, 72], [67, 45, 35]];

/// Runs every cooperative variant of an opened adapter and says which sizes of small matrices give the right
/// numbers, and what was wrong with the others.
pub fn self_test(device: &Device, gpu: &GpuDevice) -> (Cooperative, Vec<String>) {
    let mut works = gpu.caps().cooperative;
    let mut failures = Vec::new();
    for variant in variants(gpu.caps(), Precision::HalfToSingle) {
        let Variant::Cooperative { fragment, .. } = variant else { continue };
        if let Err(e) = check(device, variant) {
            failures.push(format!("{variant:?}: {e}"));
            match fragment {
                16 => works.sixteen = false,
                _ => works.eight = false,
            }
        }
    }
    (works, failures)
}

/// A value that depends on its place, and is exact in half precision.
fn value(row: usize, col: usize) -> f32 {
    ((row * 31 + col * 17 + row * col % 23) % 33) as f32 / 16.0 - 1.0
}

fn check(device: &Device, variant: Variant) -> Result<()> {
    for (shape, transposed) in
        [(0, [false, false]), (0, [false, true]), (0, [true, false]), (1, [false, true])]
    {
        let [m, n, k] = SHAPES[shape];
        let matrix = |rows: usize, cols: usize, transposed: bool| -> Result<Matrix> {
            let [outer, inner] = if transposed { [cols, rows] } else { [rows, cols] };
            let at = |i: usize| (i / inner, i % inner);
            let values = (0..rows * cols).map(at).map(|(x, y)| if transposed { (y, x) } else { (x, y) });
            let values: Vec<f16> = values.map(|(row, col)| f16::from_f32(value(row, col))).collect();
            let tensor = Tensor::from_slice(device, &[outer, inner], &values)?;
            let matrix = Matrix::new(&tensor)?;
            Ok(if transposed { matrix.t() } else { matrix })
        };
        let out = Tensor::empty(device, &[m, n], DType::F32)?;
        let force = Force { variant: Some(variant), parts: None };
        let (a, b) = (matrix(m, k, transposed[0])?, matrix(k, n, transposed[1])?);
        matmul_with(&a, &b, &Matrix::new(&out)?, &Options::default(), force)?;
        for (i, got) in out.to_vec::<f32>()?.into_iter().enumerate() {
            let (row, col) = (i / n, i % n);
            let want: f32 = (0..k).map(|q| value(row, q) * value(q, col)).sum();
            // every product and every sum is exact in single precision
            if got != want {
                let problem = format!("element ({row}, {col}) of {m}×{n}×{k} is {got}, {want} expected");
                return Err(Error::Mismatch(problem));
            }
        }
    }
    Ok(())
}

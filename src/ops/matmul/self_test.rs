//! What an adapter's cooperative matrices make of known products, asked when the adapter is opened: drivers
//! differ here, and a wrong product would only show as a run that does not learn.
//!
//! Each product is made several times, and long ones often: the memory model that shaders declare leaves open
//! what barriers order (gfx-rs/wgpu issue 8805), and a tile that is read too early is read so now and then.

use half::f16;

use super::{Force, Matrix, Options, Precision, Variant, matmul, matmul_with, variants};
use crate::error::{Error, Result};
use crate::gpu::{Cooperative, GpuDevice};
use crate::tensor::{DType, Device, Tensor};

/// Sizes of a product that is tried, and which of its operands lie transposed.
type Case = ([usize; 3], [bool; 2]);

/// Rows and columns over the edge of every tile; K is read in vectors, and in the last is not.
const SHORT: [Case; 4] = [
    ([136, 152, 72], [false, false]),
    ([136, 152, 72], [false, true]),
    ([136, 152, 72], [true, false]),
    ([67, 45, 35], [false, true]),
];
/// A length of K that takes 129 tiles of 32, and how often it is gone through.
const LONG: usize = 4104;
const TIMES: usize = 20;

/// Runs every cooperative variant of an opened adapter and says which sizes of small matrices give the right
/// numbers, and what was wrong with the others.
pub fn self_test(device: &Device, gpu: &GpuDevice) -> (Cooperative, Vec<String>) {
    let mut works = gpu.caps().cooperative;
    let mut failures = Vec::new();
    // a software adapter takes a second for what takes others a millisecond
    let (long, times) = if gpu.caps().software { (LONG / 4, 2) } else { (LONG, TIMES) };
    let precisions = [Precision::HalfToSingle, Precision::Single];
    for variant in precisions.into_iter().flat_map(|precision| variants(gpu.caps(), precision)) {
        let Variant::Cooperative { single, fragment, .. } = variant else { continue };
        if let Err(e) = check_products(device, variant, long, times) {
            failures.push(format!("{variant:?}: {e}"));
            match (fragment, single) {
                (_, true) => works.eight_single = false,
                (16, _) => works.sixteen = false,
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

/// A matrix of such values, in single precision or half.
fn matrix(device: &Device, single: bool, rows: usize, cols: usize, transposed: bool) -> Result<Matrix> {
    let [outer, inner] = if transposed { [cols, rows] } else { [rows, cols] };
    let at = |i: usize| (i / inner, i % inner);
    let values = (0..rows * cols).map(at).map(|(x, y)| if transposed { (y, x) } else { (x, y) });
    let values = values.map(|(row, col)| value(row, col));
    let tensor = match single {
        true => Tensor::from_slice(device, &[outer, inner], &values.collect::<Vec<_>>())?,
        false => Tensor::from_slice(device, &[outer, inner], &values.map(f16::from_f32).collect::<Vec<_>>())?,
    };
    let matrix = Matrix::new(&tensor)?;
    Ok(if transposed { matrix.t() } else { matrix })
}

/// Whether a variant makes known products as they are, those with a `long` K every one of so many times:
/// every product and every sum of theirs is exact in single precision.
pub fn check_products(device: &Device, variant: Variant, long: usize, times: usize) -> Result<()> {
    let single = variant.makes(Precision::Single);
    let short = SHORT.map(|case| (case, 1));
    let long = [[false, true], [true, false]].map(|transposed| (([72, 80, long], transposed), times));
    for (([m, n, k], transposed), times) in short.into_iter().chain(long) {
        let want = Tensor::empty(&Device::cpu(), &[m, n], DType::F32)?;
        let (a, b) = (matrix(want.device(), true, m, k, false)?, matrix(want.device(), true, k, n, false)?);
        matmul(&a, &b, &Matrix::new(&want)?, &Options::default())?;
        let want = want.to_vec::<f32>()?;
        let a = matrix(device, single, m, k, transposed[0])?;
        let b = matrix(device, single, k, n, transposed[1])?;
        for time in 1..=times {
            let out = Tensor::empty(device, &[m, n], DType::F32)?;
            // in one part, so that it goes through all of K
            let force = Force { variant: Some(variant), parts: Some(1) };
            matmul_with(&a, &b, &Matrix::new(&out)?, &Options::default(), force)?;
            let got = out.to_vec::<f32>()?;
            if let Some(i) = got.iter().zip(&want).position(|(got, want)| got != want) {
                let place = format!("element ({}, {}) of {m}×{n}×{k}", i / n, i % n);
                let problem = format!("{place}, time {time}, is {}, {} expected", got[i], want[i]);
                return Err(Error::Mismatch(problem));
            }
        }
    }
    Ok(())
}

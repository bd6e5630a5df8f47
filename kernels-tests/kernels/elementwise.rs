//! Addition in place, scaling, GELU, fills and column sums.

use poa_gpu::ops::gelu::gelu as gelu_of;
use poa_gpu::ops::reduce;
use poa_gpu::tensor::{self, DType, Tensor};

use crate::support::{Operand, Placing, Tolerance, assert_close, check, devices, gpu, place, random};

const SHAPES: [[usize; 2]; 6] = [[1, 1], [7, 17], [197, 48], [33, 1000], [1, 70_000], [300, 3]];

/// erf in float64.
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    let v = if a < 3.0 {
        let (mut term, mut total) = (a, a);
        for n in 1..200 {
            term *= -a * a / n as f64;
            total += term / (2 * n + 1) as f64;
        }
        total * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let mut f = 0.0;
        for k in (1..100).rev() {
            f = k as f64 / 2.0 / (a + f);
        }
        1.0 - (-a * a).exp() / (std::f64::consts::PI.sqrt() * (a + f))
    };
    v * x.signum()
}

/// The exact GELU in float64.
pub fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / 2f64.sqrt()))
}

#[test]
fn gelu_and_its_gradient() {
    for shape in [[1, 1], [7, 17], [33, 100]] {
        for placing in [Placing::Dense, Placing::Strided, Placing::Vec4Aligned] {
            let mut x = Operand::new(1, &shape).map(|v| v * 3.0);
            x.placing = placing;
            check(
                "gelu",
                &[x],
                Tolerance { atol: 2e-6, rtol: 2e-6 },
                |tape, v| Ok(vec![gelu_of(tape, &v[0])?]),
                &|x| vec![x[0].iter().map(|v| gelu(*v)).collect()],
            );
        }
    }
}

#[test]
fn additions_and_scaling_in_place() {
    for device in devices() {
        for shape in SHAPES {
            let n = shape[0] * shape[1];
            let (x, y) = (random(1, n), random(2, n));
            for placing in [Placing::Dense, Placing::Strided, Placing::Vec4Aligned] {
                let a = place(&device, &shape, &x, placing).unwrap();
                let out = place(&device, &shape, &y, placing).unwrap();
                tensor::add_scaled(&out, &a, 0.5).unwrap();
                let want: Vec<f64> = x.iter().zip(&y).map(|(x, y)| *y as f64 + 0.5 * *x as f64).collect();
                assert_close("add_scaled", &out.to_vec().unwrap(), &want, 1e-6, 1e-6);
                let out = Tensor::empty(&device, &shape, DType::F32).unwrap();
                tensor::scale(&out, &a, -2.0).unwrap();
                let want: Vec<f64> = x.iter().map(|x| -2.0 * *x as f64).collect();
                assert_close("scale", &out.to_vec().unwrap(), &want, 0.0, 1e-7);
                assert!(out.fences_intact().unwrap());
            }
        }
    }
}

#[test]
fn operands_of_different_shapes_are_refused() {
    for device in devices() {
        let a = Tensor::zeros(&device, &[3, 4], DType::F32).unwrap();
        let b = Tensor::zeros(&device, &[4, 3], DType::F32).unwrap();
        let error = tensor::add_assign(&a, &b).unwrap_err().to_string();
        assert!(error.contains("[3, 4]") && error.contains("[4, 3]"), "{error}");
    }
}

#[test]
fn a_tensor_that_32_bits_cannot_address_is_refused() {
    for dtype in [DType::F32, DType::F16] {
        let error = Tensor::empty(&gpu(), &[1 << 16, 1 << 16], dtype).unwrap_err().to_string();
        assert!(error.contains("MiB") && error.contains("can bind"), "{error}");
    }
}

#[test]
fn fills_stay_inside_their_view() {
    for device in devices() {
        for shape in SHAPES {
            let n = shape[0] * shape[1];
            let whole = place(
                &device,
                &[shape[0] + 2, shape[1] + 3],
                &vec![7.0; (shape[0] + 2) * (shape[1] + 3)],
                Placing::Dense,
            )
            .unwrap();
            let view = whole.slice(0, 1..shape[0] + 1).unwrap().slice(1, 2..shape[1] + 2).unwrap();
            tensor::fill(&view, 1.5f32.to_bits()).unwrap();
            assert_eq!(view.to_vec::<f32>().unwrap(), vec![1.5; n]);
            let sum: f64 = whole.to_vec::<f32>().unwrap().iter().map(|v| *v as f64).sum();
            assert_eq!(sum, 7.0 * ((shape[0] + 2) * (shape[1] + 3) - n) as f64 + 1.5 * n as f64);
        }
    }
}

#[test]
fn column_sums_of_few_and_many_rows() {
    for device in devices() {
        for [rows, cols] in [[1, 1], [7, 17], [256, 65], [257, 48], [5000, 33]] {
            let x = random(3, rows * cols);
            for (placing, accumulate) in
                [(Placing::Dense, false), (Placing::Strided, true), (Placing::Vec4Aligned, true)]
            {
                let a = place(&device, &[rows, cols], &x, placing).unwrap();
                let prior = random(4, cols);
                let out = place(&device, &[cols], &prior, Placing::Dense).unwrap();
                reduce::column_sum(&a, &out, 0.5, accumulate).unwrap();
                let want: Vec<f64> = (0..cols)
                    .map(|c| {
                        let s: f64 = (0..rows).map(|r| x[r * cols + c] as f64).sum();
                        0.5 * s + if accumulate { prior[c] as f64 } else { 0.0 }
                    })
                    .collect();
                assert_close("column_sum", &out.to_vec().unwrap(), &want, 1e-4, 1e-5);
                assert!(out.fences_intact().unwrap());
            }
        }
    }
}

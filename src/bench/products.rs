//! Products by shape and by variant, and convolutions.

use super::harness::{Bench, Ready, Sink, close};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::ops::conv::{Conv, MapShape, conv2d};
use crate::ops::matmul::window::{Window, window_gradient, window_product};
use crate::ops::matmul::{Force, Matrix, Options, Precision, Variant, matmul_with, variants};
use crate::profile::Work;
use crate::tensor::{DType, Device, Tensor, strided_copy, to_type};

/// How the operands of a product lie.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// A·Wᵀ, as a layer forward.
    Forward,
    /// Aᵀ·B, as the gradient of a layer's weight.
    WeightGradient,
    /// A·Wᵀ with the first rows and columns of a W that is wider by a quarter.
    Slice,
}

pub(super) fn run(bench: &Bench, sink: &mut Sink) -> Result<()> {
    if bench.wanted("matmul") {
        matmuls(bench, sink)?;
    }
    if bench.full() && bench.wanted("conv") {
        convolutions(bench, sink)?;
    }
    Ok(())
}

fn matmuls(bench: &Bench, sink: &mut Sink) -> Result<()> {
    let hardware = matches!(bench.device, Device::Gpu(_)) && !bench.software();
    let plain = |m, n, k| (Form::Forward, [m, n, k]);
    let mut shapes = vec![plain(1024, 1024, 1024)];
    if hardware {
        shapes.push(plain(8192, 8192, 8192));
    }
    if bench.full() {
        shapes.push(plain(512, 512, 512));
        // qkv, fc1 and fc2 of ViT-S, B and L over four images of 224 pixels
        for width in [384, 768, 1024] {
            shapes.extend([
                plain(788, 3 * width, width),
                plain(788, 4 * width, width),
                plain(788, width, 4 * width),
            ]);
        }
        shapes.extend([
            (Form::WeightGradient, [1536, 384, 788]),
            (Form::WeightGradient, [384, 384, 12_608]),
            (Form::Slice, [788, 816, 272]),
            (Form::Slice, [333, 127, 271]),
        ]);
    }
    for (form, size) in shapes {
        for dtype in operand_types(&bench.device) {
            product(bench, sink, form, size, dtype, None)?;
        }
    }
    if let (Device::Gpu(gpu), true) = (&bench.device, bench.full()) {
        for dtype in operand_types(&bench.device) {
            let precision = if dtype == DType::F16 { Precision::HalfToSingle } else { Precision::Single };
            for variant in variants(gpu.caps(), precision) {
                for size in [[1024, 1024, 1024], [788, 1536, 384]] {
                    product(bench, sink, Form::Forward, size, dtype, Some(variant))?;
                }
            }
        }
    }
    Ok(())
}

/// What operands of products may be made of.
pub(super) fn operand_types(device: &Device) -> Vec<DType> {
    match device {
        Device::Gpu(gpu) if gpu.caps().f16 => vec![DType::F32, DType::F16],
        _ => vec![DType::F32],
    }
}

fn product(
    bench: &Bench,
    sink: &mut Sink,
    form: Form,
    [m, n, k]: [usize; 3],
    dtype: DType,
    variant: Option<Variant>,
) -> Result<()> {
    let half = if dtype == DType::F16 { " half" } else { "" };
    let what = match form {
        Form::Forward => "",
        Form::WeightGradient => " weight gradient",
        Form::Slice => " slice",
    };
    let name = match variant {
        None => format!("matmul/{m}x{n}x{k}{half}{what}"),
        Some(variant) => format!("matmul/{m}x{n}x{k}{half}{what} {variant:?}"),
    };
    let work =
        Work { flops: 2.0 * (m * n * k) as f64, bytes: (dtype.bytes() * (m * k + n * k) + 4 * m * n) as f64 };
    let random = |seed, shape: &[usize]| to_type(&bench.random(seed, shape)?, dtype);
    bench.case(sink, &name, work, || {
        let (a, b) = match form {
            Form::Forward => (random(1, &[m, k])?, random(2, &[n, k])?.transpose(0, 1)),
            Form::WeightGradient => (random(1, &[k, m])?.transpose(0, 1), random(2, &[k, n])?),
            Form::Slice => {
                let whole = random(2, &[n + n / 4, k + k / 4])?;
                (random(1, &[m, k])?, whole.slice(0, 0..n)?.slice(1, 0..k)?.transpose(0, 1))
            }
        };
        let out = bench.empty(&[m, n])?;
        let (x, y, z) = (a.clone(), b.clone(), out.clone());
        let force = Force { variant, ..Force::default() };
        Ready::new(
            move || {
                matmul_with(
                    &Matrix::new(&a)?,
                    &Matrix::new(&b)?,
                    &Matrix::new(&out)?,
                    &Options::default(),
                    force,
                )
            },
            move || {
                for (i, j) in [(0, 0), (m - 1, n - 1), (m / 3, n / 2)] {
                    let row = single(&x.slice(0, i..i + 1)?)?;
                    let column = single(&y.slice(1, j..j + 1)?)?;
                    let want = row.iter().zip(&column).map(|(x, y)| *x as f64 * *y as f64).sum();
                    close("matmul", z.slice(0, i..i + 1)?.to_vec::<f32>()?[j], want)?;
                }
                Ok(())
            },
        )
    })
}

/// The elements of a view with any strides, of either precision.
pub(super) fn single(t: &Tensor) -> Result<Vec<f32>> {
    match t.dtype() {
        DType::F16 => Ok(t.to_vec::<half::f16>()?.into_iter().map(f32::from).collect()),
        _ => t.to_vec(),
    }
}

/// A 3×3 convolution of the third stage of a ResNet and its gradients, beside the product of that size.
fn convolutions(bench: &Bench, sink: &mut Sink) -> Result<()> {
    let (shape, channels) = (MapShape { images: 64, height: 14, width: 14 }, 256);
    let (m, k) = (shape.rows(), 9 * channels);
    let maps = |seed| bench.random(seed, &[m, channels]);
    let sides = [shape.images, shape.height, shape.width, channels];
    let weight = bench.random(4, &[channels, channels, 3, 3])?;
    let work = Work {
        flops: 2.0 * (m * channels * k) as f64,
        bytes: 4.0 * (2 * m * channels + k * channels) as f64,
    };
    product_of_the_size(bench, sink, m, channels, k, work)?;
    bench.case(sink, "conv/forward 3x3 256 14x14x64", work, || {
        let x = maps(1)?;
        let conv = Conv { weight: Var::constant(weight.clone()), stride: 1, padding: 1, alpha: 1.0 };
        let var = Var::constant(x.clone());
        let forward = move || Ok(conv2d(&Tape::no_grad(), &var, shape, &conv)?.0);
        let (a, w) = (x.to_vec::<f32>()?, weight.to_vec::<f32>()?);
        let corner = (0..4 * channels)
            .map(|i| {
                let (tap, ch) = (i / channels, i % channels);
                let (row, column) = (tap / 2, tap % 2);
                let tap = (row + 1) * 3 + column + 1;
                a[(row * shape.width + column) * channels + ch] as f64 * w[ch * 9 + tap] as f64
            })
            .sum();
        let first = forward()?.value().to_vec::<f32>()?[0];
        Ready::new(move || forward().map(drop), move || close("conv", first, corner))
    })?;
    bench.case(sink, "conv/input gradient 3x3 256 14x14x64", work, || {
        let (dy, out) = (maps(2)?.reshape(&sides)?, maps(3)?.reshape(&sides)?);
        let taps = bench.random(6, &[3, 3, channels, channels])?;
        let window = Window { step: 1, start: [-1, -1], reversed: true };
        let (dx, d, t) = (out.clone(), dy.clone(), taps.clone());
        Ready::new(
            move || window_product(&dy, window, &taps.transpose(2, 3), &out, 1.0, false, Force::default()),
            move || {
                // the first pixel is under the taps (1, 1), (1, 0), (0, 1) and (0, 0) of windows (0, 0) to
                // (1, 1)
                let (d, t) = (d.to_vec::<f32>()?, t.to_vec::<f32>()?);
                let mut want = 0.0;
                for (row, column) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    let tap = (1 - row) * 3 + 1 - column;
                    for n in 0..channels {
                        want += d[(row * shape.width + column) * channels + n] as f64
                            * t[tap * channels * channels + n] as f64;
                    }
                }
                close("conv", dx.to_vec::<f32>()?[0], want)
            },
        )
    })?;
    bench.case(sink, "conv/weight gradient 3x3 256 14x14x64", work, || {
        let (x, dy) = (maps(1)?, maps(2)?);
        let taps = bench.random(6, &[3, 3, channels, channels])?;
        let official = weight.transpose(0, 2).transpose(1, 3).transpose(2, 3);
        let (a, d, dw) = (x.clone(), dy.clone(), taps.clone());
        let (x, dy) = (x.reshape(&sides)?, dy.reshape(&sides)?);
        Ready::new(
            move || {
                window_gradient(&x, Window::new(1, 1), &dy, &taps, 1.0, Force::default())?;
                strided_copy(&official, &taps, true)
            },
            move || {
                // the middle tap meets every pixel with itself
                let (a, d) = (a.to_vec::<f32>()?, d.to_vec::<f32>()?);
                let want = (0..m).map(|r| a[r * channels] as f64 * d[r * channels] as f64).sum();
                close("conv", dw.to_vec::<f32>()?[4 * channels * channels], want)
            },
        )
    })
}

fn product_of_the_size(
    bench: &Bench,
    sink: &mut Sink,
    m: usize,
    n: usize,
    k: usize,
    work: Work,
) -> Result<()> {
    bench.case(sink, &format!("conv/matmul {m}x{n}x{k}"), work, || {
        let (a, b, out) = (bench.random(5, &[m, k])?, bench.random(6, &[n, k])?, bench.empty(&[m, n])?);
        Ready::new(
            move || {
                let b = Matrix::new(&b)?.t();
                matmul_with(&Matrix::new(&a)?, &b, &Matrix::new(&out)?, &Options::default(), Force::default())
            },
            // the shapes of `matmul/` are compared
            || Ok(()),
        )
    })
}

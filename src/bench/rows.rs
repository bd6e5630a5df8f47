//! What goes over rows once and does little arithmetic: norms, softmax, GELU, SwiGLU, residual additions.

use super::harness::{Bench, Ready, Sink, close};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::ops::gelu::{gelu_backward, gelu_forward};
use crate::ops::layer_norm::layer_norm;
use crate::ops::residual::residual;
use crate::ops::softmax::softmax;
use crate::ops::swiglu::{swiglu_backward, swiglu_forward};
use crate::profile::Work;
use crate::tensor::Device;

pub(super) fn run(bench: &Bench, sink: &mut Sink) -> Result<()> {
    let hardware = matches!(bench.device, Device::Gpu(_)) && !bench.software();
    // tokens of ViT-S over 4 and 64 images, of ViT-L over 20; what no cache holds
    let mut shapes = vec![[12_608, 384]];
    if bench.full() {
        shapes.extend([[788, 384], [3940, 1024], [3940, 272]]);
    }
    if hardware {
        shapes.push([262_144, 1024]);
    }
    for shape in shapes {
        layer_norms(bench, sink, shape)?;
        if bench.full() {
            softmaxes(bench, sink, shape)?;
            gelus(bench, sink, shape)?;
            swiglus(bench, sink, shape)?;
            residuals(bench, sink, shape)?;
        }
    }
    Ok(())
}

/// `arrays` matrices read or written, `flops` an element.
fn work([rows, cols]: [usize; 2], arrays: usize, flops: usize) -> Work {
    let elements = (rows * cols) as f64;
    Work { flops: flops as f64 * elements, bytes: 4.0 * arrays as f64 * elements }
}

fn layer_norms(bench: &Bench, sink: &mut Sink, [rows, cols]: [usize; 2]) -> Result<()> {
    bench.case(sink, &format!("layernorm/forward {rows}x{cols}"), work([rows, cols], 2, 8), || {
        let (x, gamma, beta) =
            (bench.random(1, &[rows, cols])?, bench.random(2, &[cols])?, bench.random(3, &[cols])?);
        let row = x.slice(0, 0..1)?.to_vec::<f32>()?;
        let mean = row.iter().map(|v| *v as f64).sum::<f64>() / cols as f64;
        let variance = row.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / cols as f64;
        let want = (row[0] as f64 - mean) / (variance + 1e-6).sqrt() * gamma.to_vec::<f32>()?[0] as f64
            + beta.to_vec::<f32>()?[0] as f64;
        let [x, gamma, beta] = [x, gamma, beta].map(Var::constant);
        let forward = move || layer_norm(&Tape::no_grad(), &x, &gamma, &beta, 1e-6, None);
        let first = forward()?.value().slice(0, 0..1)?.to_vec::<f32>()?[0];
        Ready::new(move || forward().map(drop), move || close("layernorm", first, want))
    })?;
    bench.case(sink, &format!("layernorm/forward+backward {rows}x{cols}"), work([rows, cols], 5, 24), || {
        let (x, dy) = (bench.random(1, &[rows, cols])?, bench.random(4, &[rows, cols])?);
        let gamma = bench.parameter(&bench.random(2, &[cols])?)?;
        let beta = bench.parameter(&bench.random(3, &[cols])?)?;
        Ready::new(
            move || {
                let tape = Tape::new();
                let x = tape.leaf(x.clone());
                let y = layer_norm(&tape, &x, &gamma, &beta, 1e-6, None)?;
                tape.backward(vec![(&y, dy.clone())]).map(drop)
            },
            || Ok(()),
        )
    })
}

fn softmaxes(bench: &Bench, sink: &mut Sink, [rows, cols]: [usize; 2]) -> Result<()> {
    bench.case(sink, &format!("softmax/forward {rows}x{cols}"), work([rows, cols], 2, 12), || {
        let x = Var::constant(bench.random(1, &[rows, cols])?);
        let forward = move || softmax(&Tape::no_grad(), &x, 1.0);
        let sum = forward()?.value().slice(0, rows - 1..rows)?.to_vec::<f32>()?.iter().sum();
        Ready::new(move || forward().map(drop), move || close("softmax", sum, 1.0))
    })
}

fn gelus(bench: &Bench, sink: &mut Sink, [rows, cols]: [usize; 2]) -> Result<()> {
    bench.case(sink, &format!("gelu/forward {rows}x{cols}"), work([rows, cols], 2, 20), || {
        let (x, y) = (bench.random(1, &[rows, cols])?, bench.empty(&[rows, cols])?);
        let (seen, out) = (x.clone(), y.clone());
        Ready::new(
            move || gelu_forward(&y, &x),
            move || {
                let x = seen.slice(0, 0..1)?.to_vec::<f32>()?[0] as f64;
                // Φ by its series, which is exact enough below one half
                let z = x / 2f64.sqrt();
                let erf = 2.0 / std::f64::consts::PI.sqrt() * (z - z.powi(3) / 3.0 + z.powi(5) / 10.0);
                close("gelu", out.slice(0, 0..1)?.to_vec::<f32>()?[0], 0.5 * x * (1.0 + erf))
            },
        )
    })?;
    bench.case(sink, &format!("gelu/backward {rows}x{cols}"), work([rows, cols], 3, 30), || {
        let (x, dy) = (bench.random(1, &[rows, cols])?, bench.random(2, &[rows, cols])?);
        let dx = bench.empty(&[rows, cols])?;
        Ready::new(move || gelu_backward(&dx, &x, &dy, false), || Ok(()))
    })
}

/// Gates of rows of so many columns.
fn swiglus(bench: &Bench, sink: &mut Sink, [rows, cols]: [usize; 2]) -> Result<()> {
    bench.case(sink, &format!("swiglu/forward {rows}x{cols}"), work([rows, cols], 3, 14), || {
        let (x, y) = (bench.random(1, &[rows, 2 * cols])?, bench.empty(&[rows, cols])?);
        let (seen, out) = (x.clone(), y.clone());
        Ready::new(
            move || swiglu_forward(&y, &x),
            move || {
                let row = seen.slice(0, 0..1)?.to_vec::<f32>()?;
                let (gate, value) = (row[0] as f64, row[cols] as f64);
                close("swiglu", out.slice(0, 0..1)?.to_vec::<f32>()?[0], gate * value / (1.0 + (-gate).exp()))
            },
        )
    })?;
    bench.case(sink, &format!("swiglu/backward {rows}x{cols}"), work([rows, cols], 5, 20), || {
        let (x, dy) = (bench.random(1, &[rows, 2 * cols])?, bench.random(2, &[rows, cols])?);
        let dx = bench.empty(&[rows, 2 * cols])?;
        Ready::new(move || swiglu_backward(&dx, &x, &dy, false), || Ok(()))
    })
}

fn residuals(bench: &Bench, sink: &mut Sink, [rows, cols]: [usize; 2]) -> Result<()> {
    bench.case(sink, &format!("residual/forward {rows}x{cols}"), work([rows, cols], 3, 2), || {
        let (x, branch, gamma) =
            (bench.random(1, &[rows, cols])?, bench.random(2, &[rows, cols])?, bench.random(3, &[cols])?);
        let first = |t: &crate::tensor::Tensor| Ok(t.to_vec::<f32>()?[0] as f64);
        let want = first(&x.slice(0, 0..1)?)? + first(&gamma)? * first(&branch.slice(0, 0..1)?)?;
        let [x, branch, gamma] = [x, branch, gamma].map(Var::constant);
        let forward = move || residual(&Tape::no_grad(), &x, &branch, &gamma, None);
        let got = forward()?.value().slice(0, 0..1)?.to_vec::<f32>()?[0];
        Ready::new(move || forward().map(drop), move || close("residual", got, want))
    })
}

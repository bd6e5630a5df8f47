//! The kernels, at the sizes of ViT-S training. Each is compared with a plain loop on a few elements before it is timed.

use std::cell::Cell;
use std::rc::Rc;

use criterion::Criterion;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Init, ParameterSpec, Parameters};
use poa_gpu::ops::attention::{SequenceGroup, attention};
use poa_gpu::ops::conv::{Conv, MapShape, conv2d};
use poa_gpu::ops::layer_norm::layer_norm;
use poa_gpu::ops::matmul::window::{Window, window_gradient, window_product};
use poa_gpu::ops::matmul::{Force, Matrix, Options, matmul};
use poa_gpu::ops::prototype_loss::{LossRow, LossRows, PrototypeLoss, Segment, prototype_loss};
use poa_gpu::ops::sinkhorn::sinkhorn;
use poa_gpu::ops::strided_copy::strided_copy;
use poa_gpu::ops::window_attention::{MapGroup, Windows, window_attention};
use poa_gpu::optim::adamw::{AdamW, AdamWConfig, Multipliers, StepSettings};
use poa_gpu::tensor::{DType, Tensor};

use crate::support::{Bench, Work};

type Run = fn(&mut Criterion, &Bench);

pub fn all(c: &mut Criterion, bench: &Bench) {
    let runs: [(&str, Run); 8] = [
        ("matmul", matmuls),
        ("conv", convolutions),
        ("layernorm", layer_norms),
        ("attention", attentions),
        ("window_attention", window_attentions),
        ("cross_entropy", cross_entropies),
        ("sinkhorn", sinkhorns),
        ("adamw", adamw),
    ];
    for (name, run) in runs {
        if bench.wanted(name) {
            run(c, bench);
        }
    }
}

fn close(what: &str, got: f32, want: f64) {
    assert!((got as f64 - want).abs() <= 1e-3 * want.abs().max(1.0), "{what}: {got}, {want} expected");
}

fn matmuls(c: &mut Criterion, bench: &Bench) {
    for [m, n, k] in
        [[512, 512, 512], [1024, 1024, 1024], [788, 1152, 384], [788, 1536, 384], [788, 384, 1536]]
    {
        let (a, b) = (bench.random(1, &[m, k]), bench.random(2, &[n, k]));
        let out = Tensor::empty(&bench.device, &[m, n], DType::F32).unwrap();
        let product = || {
            let b = Matrix::new(&b).unwrap().t();
            matmul(&Matrix::new(&a).unwrap(), &b, &Matrix::new(&out).unwrap(), &Options::default()).unwrap();
        };
        product();
        let (x, y, z) =
            (a.to_vec::<f32>().unwrap(), b.to_vec::<f32>().unwrap(), out.to_vec::<f32>().unwrap());
        for (i, j) in [(0, 0), (m - 1, n - 1), (m / 3, n / 2)] {
            close("matmul", z[i * n + j], (0..k).map(|q| x[i * k + q] as f64 * y[j * k + q] as f64).sum());
        }
        let work = Work { flops: 2.0 * (m * n * k) as f64, bytes: 4.0 * (m * k + n * k + m * n) as f64 };
        bench.measure(c, &format!("matmul/{m}x{n}x{k}"), work, 7, product);
    }
}

/// A 3×3 convolution of the third stage of a ResNet and its gradients, beside the product of that size.
fn convolutions(c: &mut Criterion, bench: &Bench) {
    let (shape, channels) = (MapShape { images: 64, height: 14, width: 14 }, 256);
    let (m, k) = (shape.rows(), 9 * channels);
    let maps = |seed| bench.random(seed, &[m, channels]);
    let four = |t: &Tensor| t.reshape(&[shape.images, shape.height, shape.width, channels]).unwrap();
    let (x, dy, out) = (maps(1), maps(2), maps(3));
    let weight = bench.random(4, &[channels, channels, 3, 3]);
    let conv = Conv { weight: Var::constant(weight.clone()), stride: 1, padding: 1, alpha: 1.0 };
    let var = Var::constant(x.clone());
    let forward = || conv2d(&Tape::no_grad(), &var, shape, &conv).unwrap().0;
    let (a, w) = (x.to_vec::<f32>().unwrap(), weight.to_vec::<f32>().unwrap());
    let corner = (0..4 * channels)
        .map(|i| {
            let (tap, ch) = (i / channels, i % channels);
            let (row, column) = (tap / 2, tap % 2);
            let tap = (row + 1) * 3 + column + 1;
            a[(row * shape.width + column) * channels + ch] as f64 * w[ch * 9 + tap] as f64
        })
        .sum();
    close("conv", forward().value().to_vec::<f32>().unwrap()[0], corner);
    let work = Work {
        flops: 2.0 * (m * channels * k) as f64,
        bytes: 4.0 * (2 * m * channels + k * channels) as f64,
    };
    let matrix = bench.random(5, &[m, k]);
    let flat = weight.reshape(&[channels, k]).unwrap();
    bench.measure(c, &format!("conv/matmul {m}x{channels}x{k}"), work, 5, || {
        let b = Matrix::new(&flat).unwrap().t();
        matmul(&Matrix::new(&matrix).unwrap(), &b, &Matrix::new(&out).unwrap(), &Options::default()).unwrap();
    });
    bench.measure(c, "conv/forward 3x3 256 14x14x64", work, 5, || drop(forward()));
    let taps = bench.random(6, &[3, 3, channels, channels]);
    let window = Window { step: 1, start: [-1, -1], reversed: true };
    let (maps, places) = (four(&dy), four(&out));
    bench.measure(c, "conv/input gradient 3x3 256 14x14x64", work, 5, || {
        window_product(&maps, window, &taps.transpose(2, 3), &places, 1.0, false, Force::default()).unwrap();
    });
    let official = weight.transpose(0, 2).transpose(1, 3).transpose(2, 3);
    bench.measure(c, "conv/weight gradient 3x3 256 14x14x64", work, 5, || {
        window_gradient(&four(&x), Window::new(1, 1), &maps, &taps, 1.0, Force::default()).unwrap();
        strided_copy(&official, &taps, true).unwrap();
    });
}

fn layer_norms(c: &mut Criterion, bench: &Bench) {
    for [rows, cols] in [[788, 384], [12_608, 384], [3940, 1024]] {
        let x = bench.random(1, &[rows, cols]);
        let (gamma, beta) = (bench.random(2, &[cols]), bench.random(3, &[cols]));
        let dy = bench.random(4, &[rows, cols]);
        let parameter = |t: &Tensor| {
            let gradient = Tensor::zeros(&bench.device, &[cols], DType::F32).unwrap();
            Var::parameter(t.clone(), gradient, Rc::new(Cell::new(false)))
        };
        let (gamma, beta) = (parameter(&gamma), parameter(&beta));
        let constant = Var::constant(x.clone());
        let forward = || layer_norm(&Tape::no_grad(), &constant, &gamma, &beta, 1e-6, None).unwrap();
        let row = &x.to_vec::<f32>().unwrap()[..cols];
        let mean = row.iter().map(|v| *v as f64).sum::<f64>() / cols as f64;
        let variance = row.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / cols as f64;
        let want = (row[0] as f64 - mean) / (variance + 1e-6).sqrt()
            * gamma.value().to_vec::<f32>().unwrap()[0] as f64
            + beta.value().to_vec::<f32>().unwrap()[0] as f64;
        close("layernorm", forward().value().to_vec::<f32>().unwrap()[0], want);
        let bytes = 4.0 * (rows * cols) as f64;
        let work = Work { flops: 8.0 * (rows * cols) as f64, bytes: 2.0 * bytes };
        bench.measure(c, &format!("layernorm/forward {rows}x{cols}"), work, 9, || drop(forward()));
        let both = || {
            let tape = Tape::new();
            let x = tape.leaf(x.clone());
            let y = layer_norm(&tape, &x, &gamma, &beta, 1e-6, None).unwrap();
            drop(tape.backward(vec![(&y, dy.clone())]).unwrap());
        };
        let work = Work { flops: 24.0 * (rows * cols) as f64, bytes: 5.0 * bytes };
        bench.measure(c, &format!("layernorm/forward+backward {rows}x{cols}"), work, 9, both);
    }
}

fn attentions(c: &mut Criterion, bench: &Bench) {
    for (count, length, heads, dim) in [(4, 197, 6, 64), (16, 37, 6, 64), (64, 49, 6, 32), (64, 49, 6, 16)] {
        let rows = count * length;
        let qkv = bench.random(1, &[rows, 3 * heads * dim]);
        let dy = bench.random(2, &[rows, heads * dim]);
        let groups = [SequenceGroup { count, length }];
        let scale = (dim as f32).powf(-0.5);
        let constant = Var::constant(qkv.clone());
        let forward = || attention(&Tape::no_grad(), &constant, &groups, heads, scale).unwrap();
        let (x, w) = (qkv.to_vec::<f32>().unwrap(), heads * dim);
        let score = |j: usize| {
            let dot: f64 = (0..dim).map(|d| x[d] as f64 * x[j * 3 * w + w + d] as f64).sum();
            (dot * scale as f64).exp()
        };
        let total: f64 = (0..length).map(score).sum();
        let want = (0..length).map(|j| score(j) / total * x[j * 3 * w + 2 * w] as f64).sum();
        close("attention", forward().value().to_vec::<f32>().unwrap()[0], want);
        let scores = (count * heads * length * length) as f64;
        let work = Work { flops: 4.0 * scores * dim as f64, bytes: 16.0 * (rows * w) as f64 };
        let name = format!("{}x{length}x{dim}", count * heads);
        bench.measure(c, &format!("attention/forward {name}"), work, 7, || drop(forward()));
        let both = || {
            let tape = Tape::new();
            let x = tape.leaf(qkv.clone());
            let y = attention(&tape, &x, &groups, heads, scale).unwrap();
            drop(tape.backward(vec![(&y, dy.clone())]).unwrap());
        };
        let work = Work { flops: 14.0 * scores * dim as f64, bytes: 52.0 * (rows * w) as f64 };
        bench.measure(c, &format!("attention/forward+backward {name}"), work, 5, both);
    }
}

/// Shifted windows, as many scores as sequences of 49 have in [`attentions`]; padded ones have a row of padding more.
fn window_attentions(c: &mut Criterion, bench: &Bench) {
    for (side, heads, dim) in [(56, 6, 32), (56, 6, 16), (53, 6, 32)] {
        let maps = [MapGroup { count: 1, height: side, width: side }];
        let windows = Windows::new(&bench.device, &maps, 7, 3).unwrap();
        let qkv = bench.random(1, &[windows.input_rows(), 3 * heads * dim]);
        let table = bench.random(2, &[13 * 13, heads]);
        let dy = bench.random(3, &[windows.rows(), heads * dim]);
        let gradient = Tensor::zeros(&bench.device, table.shape(), DType::F32).unwrap();
        let table = Var::parameter(table, gradient, Rc::new(Cell::new(false)));
        let scale = (dim as f32).powf(-0.5);
        let constant = Var::constant(qkv.clone());
        let forward =
            || window_attention(&Tape::no_grad(), &constant, &table, &windows, heads, scale).unwrap();
        // weights add up to one: no value of an output can exceed those of v
        let largest = forward().value().to_vec::<f32>().unwrap().iter().fold(0.0f32, |m, y| m.max(y.abs()));
        let bound = qkv.to_vec::<f32>().unwrap().iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(largest > 0.0 && largest <= bound, "window_attention: {largest} of {bound}");
        let scores = (windows.count() * heads * 49 * 49) as f64;
        let cells = (windows.rows() * heads * dim) as f64;
        let name = format!("{}x49x{dim} of {side}x{side}", windows.count() * heads);
        let work = Work { flops: 4.0 * scores * dim as f64, bytes: 16.0 * cells };
        bench.measure(c, &format!("window_attention/forward {name}"), work, 7, || drop(forward()));
        let both = || {
            let tape = Tape::new();
            let x = tape.leaf(qkv.clone());
            let y = window_attention(&tape, &x, &table, &windows, heads, scale).unwrap();
            drop(tape.backward(vec![(&y, dy.clone())]).unwrap());
        };
        let work = Work { flops: 14.0 * scores * dim as f64, bytes: 52.0 * cells };
        bench.measure(c, &format!("window_attention/forward+backward {name}"), work, 5, both);
    }
}

fn cross_entropies(c: &mut Criterion, bench: &Bench) {
    let (rows, dim) = (100, 256);
    for prototypes in [8192, 65_536] {
        let features = |seed| bench.random(seed, &[rows, dim]);
        let (v, g) = (bench.random(3, &[prototypes, dim]), bench.random(4, &[prototypes, 1]));
        let targets = sinkhorn(vec![bench.random(5, &[rows, prototypes])], 0.05, 3).unwrap();
        let table = (0..rows as u32)
            .map(|i| LossRow { targets: [i, (i + 1) % rows as u32], intact: 0.8, elastic: 0.2, distill: 0.2 })
            .collect();
        let table = LossRows::new(&bench.device, table).unwrap();
        let (intact, elastic) = (features(1), features(2));
        let parameter = |t: &Tensor| {
            let gradient = Tensor::zeros(&bench.device, t.shape(), DType::F32).unwrap();
            Var::parameter(t.clone(), gradient, Rc::new(Cell::new(false)))
        };
        let (v, g) = (parameter(&v), parameter(&g));
        let run = || {
            let tape = Tape::new();
            let (intact, elastic) = (tape.leaf(intact.clone()), tape.leaf(elastic.clone()));
            let segments = [Segment { rows: 0..rows, targets: &targets, distill: true }];
            let call = PrototypeLoss {
                intact: &intact,
                elastic: Some(&elastic),
                v: &v,
                g: &g,
                rows: &table,
                segments: &segments,
                temperature: 0.1,
                budget: None,
            };
            let loss = prototype_loss(&tape, &call).unwrap();
            let one = Tensor::from_slice(&bench.device, &[1], &[1.0f32]).unwrap();
            let total = loss.total.value().clone();
            drop(tape.backward(vec![(&loss.total, one)]).unwrap());
            total
        };
        // cross-entropy is at least the targets' entropy and at most what logits of this size allow
        let value = run().item().unwrap();
        assert!(value > 0.0 && value < 1e6, "cross_entropy: {value}");
        let products = 3.0 * 2.0 * 2.0 * (rows * dim * prototypes) as f64;
        let work =
            Work { flops: products, bytes: 4.0 * (8 * rows * prototypes + 4 * dim * prototypes) as f64 };
        bench.measure(c, &format!("cross_entropy/{rows}x{dim}x{prototypes} both students"), work, 5, || {
            drop(run())
        });
    }
}

fn sinkhorns(c: &mut Criterion, bench: &Bench) {
    for [rows, prototypes] in [[100, 8192], [100, 65_536]] {
        let logits = bench.random(1, &[rows, prototypes]);
        let run = || sinkhorn(vec![logits.clone()], 0.05, 3).unwrap();
        let sum: f64 = run().to_vec().unwrap()[..prototypes].iter().sum();
        close("sinkhorn", sum as f32, 1.0);
        let elements = (rows * prototypes) as f64;
        // three iterations of one column and one row pass, a read each
        let work = Work { flops: 6.0 * 4.0 * elements, bytes: 6.0 * 4.0 * elements };
        bench.measure(c, &format!("sinkhorn/{rows}x{prototypes}"), work, 7, || drop(run()));
    }
}

fn adamw(c: &mut Criterion, bench: &Bench) {
    let n = 16 << 20;
    let specs = [ParameterSpec::new("backbone.w", &[n], Init::Normal(0.02))];
    let layout = FlatLayout::new(&specs, bench.device.max_tensor_bytes()).unwrap();
    let values = FlatBuffers::zeros(&layout, &bench.device).unwrap();
    values.buffers()[0].upload(&bench.random(1, &[n]).to_vec::<f32>().unwrap()).unwrap();
    let student = Parameters::trained(values).unwrap();
    let teacher = FlatBuffers::zeros(&layout, &bench.device).unwrap();
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, clip_grad: 1.5 };
    let one = vec![Multipliers { lr: 1.0, weight_decay: 1.0, last_layer: false }];
    let optimizer = AdamW::new(&layout, &bench.device, config, one).unwrap();
    let loss = Tensor::from_slice(&bench.device, &[1], &[1.0f32]).unwrap();
    let gradient = bench.random(2, &[n]);
    let var = student.var("backbone.w").unwrap();
    let settings = StepSettings { lr: 1e-3, last_layer_lr: 1e-3, weight_decay: 0.04, teacher_momentum: 0.99 };
    // a gradient arrives once a step: that is what marks the parameter as touched
    let run = || {
        let tape = Tape::new();
        let y = poa_gpu::ops::gather::narrow_rows(
            &tape,
            &var.view(|t| t.reshape(&[n / 1024, 1024])).unwrap(),
            0,
            n / 1024,
        )
        .unwrap();
        drop(tape.backward(vec![(&y, gradient.reshape(&[n / 1024, 1024]).unwrap())]).unwrap());
        optimizer.measure(student.gradients().unwrap(), &loss).unwrap();
        optimizer.update(&student, &teacher, settings).unwrap();
    };
    let before = student.values().read("backbone.w").unwrap()[7] as f64;
    run();
    let sign = gradient.to_vec::<f32>().unwrap()[7].signum() as f64;
    close("adamw", student.values().read("backbone.w").unwrap()[7], before * (1.0 - 4e-5) - 1e-3 * sign);
    // gradient added (3 accesses), norm (1), update: read p g m v t, write p g m v t
    let work = Work { flops: 20.0 * n as f64, bytes: 4.0 * 14.0 * n as f64 };
    bench.measure(c, "adamw/16M parameters, clip, ema", work, 5, run);
}

//! What the kernel tests share: both devices with fences on, random strided operands, and one check that
//! compares an operation's outputs and gradients on both devices with a float64 reference and its central
//! differences.
#![allow(dead_code)]

use std::rc::Rc;

use half::f16;
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::cpu::{instruction_sets, with_instruction_set};
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::tensor::{DType, Device, Element, Tensor, to_type};
use poa_gpu::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

thread_local! {
    static DEVICES: Vec<Device> = {
        let mut all = vec![Device::cpu()];
        if !cpu_alone() {
            let gpu = ops::open(&DeviceChoice::Gpu)
                .expect("kernel tests need a wgpu adapter; kernels-tests/run installs a software one");
            all.push(gpu);
        }
        for device in &all {
            device.set_fences(true);
            device.set_strict(true);
        }
        all
    };
}

/// Whether the tests are to look at the CPU's kernels alone: under Miri and in `kernels-tests/sanitize`.
fn cpu_alone() -> bool {
    cfg!(miri) || std::env::var_os("POA_TEST_CPU_ALONE").is_some()
}

/// The CPU device and a wgpu adapter, both with fences on and for listed kernels alone; one of each a thread.
pub fn devices() -> Vec<Device> {
    DEVICES.with(|d| d.clone())
}

/// The wgpu adapter alone.
pub fn gpu() -> Device {
    devices().remove(1)
}

/// `n` values, roughly normal, from a seed.
pub fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| (0..4).map(|_| rng.random::<f32>() - 0.5).sum::<f32>() * 1.7).collect()
}

/// ‖a − b‖² / ‖b‖².
pub fn nmse(a: &[f32], b: &[f64]) -> f64 {
    let d: f64 = a.iter().zip(b).map(|(a, b)| (*a as f64 - b).powi(2)).sum();
    let n: f64 = b.iter().map(|b| b * b).sum();
    if d == 0.0 { 0.0 } else { d / n.max(1e-30) }
}

/// Every |a − b| ≤ atol + rtol·|b|, no NaN anywhere, and a small NMSE.
#[track_caller]
pub fn assert_close(what: &str, a: &[f32], b: &[f64], atol: f64, rtol: f64) {
    assert_elements_close(what, a, b, atol, rtol);
    let e = nmse(a, b);
    assert!(e <= (rtol * rtol).max(1e-10), "{what}: NMSE {e:e}");
}

/// Whether two gradients of sums of terms of order one are both nothing, but for the rounding of those terms:
/// of a softmax that is certain, say, which one device makes exactly zero and another does not.
fn is_rounding(a: &[f32], b: &[f64]) -> bool {
    const ROUNDING: f64 = 4.0 * f32::EPSILON as f64;
    let norm = a.iter().map(|a| (*a as f64).powi(2)).sum::<f64>().max(b.iter().map(|b| b * b).sum());
    norm.sqrt() <= ROUNDING
}

/// Every |a − b| ≤ atol + rtol·|b|, and no NaN anywhere.
#[track_caller]
fn assert_elements_close(what: &str, a: &[f32], b: &[f64], atol: f64, rtol: f64) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    for (i, (&x, &y)) in a.iter().zip(b).enumerate() {
        let error = (x as f64 - y).abs();
        assert!(error <= atol + rtol * y.abs(), "{what}: element {i} is {x}, {y} expected");
    }
}

/// How an operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Placing {
    /// Dense, from the start of its memory.
    Dense,
    /// With an offset and, for matrices, rows further apart than they are long.
    Strided,
    /// The same, everything at multiples of four: rows that vectors can read.
    Vec4Aligned,
    /// At multiples of eight, where rows have as many elements.
    Vec8Aligned,
}

/// An operand of an operation under test.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
    /// How it lies in memory.
    pub placing: Placing,
    /// Whether it stands for a parameter: its gradient is added to a strided view that holds something
    /// already.
    pub parameter: bool,
    /// Whether a gradient is wanted.
    pub tracked: bool,
}

impl Operand {
    /// A random, dense, tracked activation.
    pub fn new(seed: u64, shape: &[usize]) -> Self {
        let values = random(seed, shape.iter().product());
        Self { shape: shape.to_vec(), values, placing: Placing::Dense, parameter: false, tracked: true }
    }

    /// The same, strided.
    pub fn strided(mut self) -> Self {
        self.placing = Placing::Strided;
        self
    }

    /// The same, strided by multiples of four.
    pub fn vec4_aligned(mut self) -> Self {
        self.placing = Placing::Vec4Aligned;
        self
    }

    /// The same as a parameter.
    pub fn parameter(mut self) -> Self {
        self.parameter = true;
        self
    }

    /// The same without gradient.
    pub fn constant(mut self) -> Self {
        self.tracked = false;
        self
    }

    /// The same with other values.
    pub fn map(mut self, f: impl Fn(f32) -> f32) -> Self {
        self.values.iter_mut().for_each(|v| *v = f(*v));
        self
    }
}

/// A tensor of `values` placed as asked: the surroundings hold NaN.
pub fn place(device: &Device, shape: &[usize], values: &[f32], placing: Placing) -> Result<Tensor> {
    place_among(device, shape, values, f32::NAN, placing)
}

/// The same in half precision.
pub fn place_half(device: &Device, shape: &[usize], values: &[f32], placing: Placing) -> Result<Tensor> {
    let values: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
    place_among(device, shape, &values, f16::NAN, placing)
}

fn place_among<T: Element>(
    device: &Device,
    shape: &[usize],
    values: &[T],
    around: T,
    placing: Placing,
) -> Result<Tensor> {
    if placing == Placing::Dense || shape.is_empty() {
        return Tensor::from_slice(device, shape, values);
    }
    let cols = shape[shape.len() - 1];
    let rows = shape[..shape.len() - 1].iter().product::<usize>();
    let (before, after) = match placing {
        Placing::Vec4Aligned => (8, 4 + cols.next_multiple_of(4) - cols),
        Placing::Vec8Aligned => (8, 8),
        _ => (3, 2),
    };
    let wide = cols + before + after;
    let mut all = vec![around; (rows + 1) * wide];
    for r in 0..rows {
        all[(r + 1) * wide + before..][..cols].copy_from_slice(&values[r * cols..][..cols]);
    }
    let whole = Tensor::from_slice(device, &[rows + 1, wide], &all)?;
    whole.slice(0, 1..rows + 1)?.slice(1, before..before + cols)?.reshape(shape)
}

/// Tolerances of [`check`].
#[derive(Clone, Copy)]
pub struct Tolerance {
    /// Absolute.
    pub atol: f64,
    /// Relative.
    pub rtol: f64,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { atol: 2e-5, rtol: 2e-5 }
    }
}

type Reference<'a> = &'a dyn Fn(&[Vec<f64>]) -> Vec<Vec<f64>>;

/// Runs `op` on both devices with these operands and a random cotangent for every output, and compares
/// - outputs with `reference` (float64, one vector an output);
/// - gradients with central differences of `reference`, along random coordinates and one dense direction;
/// - gradients of both devices with each other, element by element;
/// - all of these on the CPU with every instruction set that kernels are compiled for and this machine has;
/// - and that outputs were written completely and nothing beside them.
pub fn check(
    name: &str,
    operands: &[Operand],
    tolerance: Tolerance,
    op: impl Fn(&Tape, &[Var]) -> Result<Vec<Var>>,
    reference: Reference,
) {
    let inputs: Vec<Vec<f64>> =
        operands.iter().map(|o| o.values.iter().map(|v| *v as f64).collect()).collect();
    let expected = reference(&inputs);
    let cotangents: Vec<Vec<f32>> =
        expected.iter().enumerate().map(|(i, e)| random(1000 + i as u64, e.len())).collect();
    let mut gradients = Vec::new();
    for device in devices() {
        let label = format!("{name} on {}", device.kind());
        let got = run(&label, &device, operands, &expected, &cotangents, tolerance, &op)
            .unwrap_or_else(|e| panic!("{label}: {e}"));
        central_differences(&label, operands, &inputs, &got, &cotangents, tolerance, reference);
        gradients.push(got);
    }
    if let [cpu, gpu] = &gradients[..] {
        let label = format!("{name}, gpu against cpu");
        pairs(gpu, cpu, tolerance, |i, gpu, cpu, atol| {
            let what = format!("{label}: gradient {i}");
            match is_rounding(gpu, cpu) {
                true => assert_elements_close(&what, gpu, cpu, atol, tolerance.rtol),
                false => assert_close(&what, gpu, cpu, atol, tolerance.rtol),
            }
        });
    }
    // the last and best is what the CPU has just used
    for set in instruction_sets().split_last().map_or(&[][..], |(_, others)| others) {
        let label = format!("{name} on cpu with {set} instructions");
        let device = &devices()[0];
        let got = with_instruction_set(set, || {
            run(&label, device, operands, &expected, &cotangents, tolerance, &op)
        });
        let got = got.unwrap_or_else(|e| panic!("{label}: {e}"));
        // no NMSE: rounding differs, and some gradients are nothing else
        pairs(&got, &gradients[0], tolerance, |i, got, want, atol| {
            assert_elements_close(&format!("{label}: gradient {i}"), got, want, atol, tolerance.rtol);
        });
    }
}

/// Calls `compare(number, got, wanted, atol)` for gradients that both runs have.
fn pairs(
    got: &[Option<Vec<f32>>],
    want: &[Option<Vec<f32>>],
    tolerance: Tolerance,
    compare: impl Fn(usize, &[f32], &[f64], f64),
) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let (Some(got), Some(want)) = (got, want) else { continue };
        let want: Vec<f64> = want.iter().map(|v| *v as f64).collect();
        let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs())).max(1.0);
        compare(i, got, &want, tolerance.atol * scale);
    }
}

fn run(
    label: &str,
    device: &Device,
    operands: &[Operand],
    expected: &[Vec<f64>],
    cotangents: &[Vec<f32>],
    tolerance: Tolerance,
    op: &impl Fn(&Tape, &[Var]) -> Result<Vec<Var>>,
) -> Result<Vec<Option<Vec<f32>>>> {
    let tape = Tape::new();
    let mut vars = Vec::new();
    let mut before = Vec::new();
    for (i, o) in operands.iter().enumerate() {
        let value = place(device, &o.shape, &o.values, o.placing)?;
        let prior = random(2000 + i as u64, o.values.len());
        vars.push(match (o.tracked, o.parameter) {
            (false, _) => Var::constant(value),
            (true, false) => tape.leaf(value),
            (true, true) => {
                let gradient = place(device, &o.shape, &prior, o.placing)?;
                Var::parameter(value, gradient, Rc::default())
            }
        });
        before.push(prior);
    }
    let outputs = op(&tape, &vars)?;
    assert_eq!(outputs.len(), expected.len(), "{label}: number of outputs");
    for (i, (out, want)) in outputs.iter().zip(expected).enumerate() {
        let scale = want.iter().fold(0.0f64, |m, v| m.max(v.abs())).max(1.0);
        assert_close(
            &format!("{label}: output {i}"),
            &out.value().to_vec::<f32>()?,
            want,
            tolerance.atol * scale,
            tolerance.rtol,
        );
        if out.value().layout().is_contiguous() && out.value().layout().offset == 64 {
            assert!(out.value().fences_intact()?, "{label}: output {i} was written beside");
        }
    }
    if !operands.iter().any(|o| o.tracked) {
        return Ok(vec![None; operands.len()]);
    }
    let mut seeds = Vec::new();
    for (out, c) in outputs.iter().zip(cotangents) {
        if out.is_tracked() {
            seeds.push((out, Tensor::from_slice(device, out.value().shape(), c)?));
        }
    }
    let gradients = tape.backward(seeds)?;
    let mut all = Vec::new();
    for ((o, var), prior) in operands.iter().zip(&vars).zip(&before) {
        if !o.tracked {
            all.push(None);
            continue;
        }
        let g =
            gradients.get(var).ok_or_else(|| Error::Mismatch(format!("{label}: a gradient is missing")))?;
        let mut g = g.to_vec::<f32>()?;
        if o.parameter {
            g.iter_mut().zip(prior).for_each(|(g, p)| *g -= p);
        }
        assert!(g.iter().all(|v| v.is_finite()), "{label}: a gradient has unwritten elements");
        all.push(Some(g));
    }
    Ok(all)
}

/// What activations of half precision may be off, relative to the largest.
const HALF: f64 = 3e-3;

/// Runs `op` on the GPU with the operands marked `true` in half precision, and on the CPU with the same
/// rounded values in single precision, and compares outputs, gradients and fences. `op` gives the kind of
/// precision back that it got.
pub fn check_half(name: &str, operands: &[(Operand, bool)], op: impl Fn(&Tape, &[Var]) -> Result<Vec<Var>>) {
    let round = |v: &[f32]| v.iter().map(|v| f16::from_f32(*v).to_f32()).collect::<Vec<f32>>();
    let single = |t: &Tensor| to_type(t, DType::F32).unwrap().to_vec::<f32>().unwrap();
    let mut results: Vec<Vec<Vec<f32>>> = Vec::new();
    for device in devices() {
        let gpu = device.kind() == "gpu";
        let tape = Tape::new();
        let mut vars = Vec::new();
        for (o, half) in operands {
            let values = if *half { round(&o.values) } else { o.values.clone() };
            let value = match *half && gpu {
                true => place_half(&device, &o.shape, &values, o.placing).unwrap(),
                false => place(&device, &o.shape, &values, o.placing).unwrap(),
            };
            vars.push(match (o.tracked, o.parameter) {
                (false, _) => Var::constant(value),
                (true, false) => tape.leaf(value),
                (true, true) => {
                    // gradients of parameters are single
                    let zeros = place(&device, &o.shape, &vec![0.0; values.len()], o.placing).unwrap();
                    Var::parameter(value, zeros, Rc::default())
                }
            });
        }
        let outputs = op(&tape, &vars).unwrap_or_else(|e| panic!("{name} on {}: {e}", device.kind()));
        let mut all: Vec<Vec<f32>> = Vec::new();
        let mut seeds = Vec::new();
        for (i, out) in outputs.iter().enumerate() {
            let t = out.value();
            if t.layout().is_contiguous() && t.layout().offset == 64 {
                assert!(t.fences_intact().unwrap(), "{name}: output {i} was written beside");
            }
            all.push(single(t));
            let cotangent = round(&random(1000 + i as u64, t.elements()));
            let seed = Tensor::from_slice(&device, t.shape(), &cotangent).unwrap();
            seeds.push((out, to_type(&seed, t.dtype()).unwrap()));
        }
        let gradients = tape.backward(seeds).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (var, (o, _)) in vars.iter().zip(operands).filter(|(_, (o, _))| o.tracked) {
            let gradient =
                gradients.get(var).unwrap_or_else(|| panic!("{name}: no gradient of {:?}", o.shape));
            all.push(single(gradient));
        }
        results.push(all);
    }
    for (i, (cpu, gpu)) in results[0].iter().zip(&results[1]).enumerate() {
        let cpu: Vec<f64> = cpu.iter().map(|v| *v as f64).collect();
        let scale = cpu.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        assert_close(&format!("{name}: output or gradient {i}"), gpu, &cpu, HALF * scale, HALF);
    }
}

fn central_differences(
    label: &str,
    operands: &[Operand],
    inputs: &[Vec<f64>],
    gradients: &[Option<Vec<f32>>],
    cotangents: &[Vec<f32>],
    tolerance: Tolerance,
    reference: Reference,
) {
    const H: f64 = 1e-5;
    const COORDINATES: usize = if cfg!(miri) { 1 } else { 6 };
    let objective = |x: &[Vec<f64>]| -> f64 {
        let dot = |y: &Vec<f64>, c: &Vec<f32>| y.iter().zip(c).map(|(y, c)| y * *c as f64).sum::<f64>();
        reference(x).iter().zip(cotangents).map(|(y, c)| dot(y, c)).sum()
    };
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for (i, gradient) in gradients.iter().enumerate() {
        let Some(gradient) = gradient else { continue };
        let n = gradient.len();
        let mut directions: Vec<Vec<(usize, f64)>> =
            (0..n.min(COORDINATES)).map(|_| vec![(rng.random_range(0..n), 1.0)]).collect();
        directions.push((0..n).map(|j| (j, (rng.random::<f64>() - 0.5) / (n as f64).sqrt())).collect());
        let scale = gradient.iter().fold(0.0f64, |m, v| m.max(v.abs() as f64)).max(1.0);
        for direction in directions {
            let moved = |sign: f64| {
                let mut x = inputs.to_vec();
                direction.iter().for_each(|(j, d)| x[i][*j] += sign * H * d);
                objective(&x)
            };
            let want = (moved(1.0) - moved(-1.0)) / (2.0 * H);
            let got: f64 = direction.iter().map(|(j, d)| gradient[*j] as f64 * d).sum();
            assert!(
                (got - want).abs() <= (tolerance.atol * scale + tolerance.rtol * want.abs()) * 5.0,
                "{label}: gradient of operand {i} {:?} along {} coordinates is {got}, {want} expected",
                operands[i].shape,
                direction.len()
            );
        }
    }
}

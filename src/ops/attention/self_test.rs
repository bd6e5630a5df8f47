//! What an adapter's cooperative matrices make of a known attention, asked when the adapter is opened: see
//! [`crate::ops::matmul::self_test`].

use half::f16;

use super::{Plan, Problem, SequenceGroup, Variant, attention, attention_planned, plans};
use crate::autograd::Tape;
use crate::error::{Error, Result};
use crate::gpu::GpuDevice;
use crate::tensor::{DType, Device, Tensor};

/// A sequence over the edge of every tile, and a short one.
const SEQUENCES: [SequenceGroup; 2] =
    [SequenceGroup { count: 1, length: 75 }, SequenceGroup { count: 1, length: 6 }];
/// A long one, in which tiles follow each other 129 times, and how often it is computed.
const LONG: usize = 4100;
const TIMES: usize = 20;
const HEADS: usize = 2;
const HEAD_DIM: usize = 32;
/// Of the largest value: ten roundings to half precision, and far below what a wrong place makes.
const TOLERANCE: f32 = 1e-2;

/// Output and gradient.
type Results = [Vec<f32>; 2];

/// Runs attention and its gradients with every plan of an opened adapter that takes cooperative matrices, and
/// says which differ from the CPU's, or from one time to the next.
pub fn self_test(device: &Device, gpu: &GpuDevice) -> Vec<String> {
    let problem = Problem { groups: SEQUENCES.to_vec(), heads: HEADS, head_dim: HEAD_DIM, half: true };
    let plans = plans(&problem, gpu.caps());
    let (length, times) = if gpu.caps().software { (LONG / 8, 2) } else { (LONG, TIMES) };
    let tested = plans.iter().filter(|plan| matches!(plan.variant, Variant::Cooperative { .. }));
    let checked = tested.map(|plan| (plan, check_attention(device, plan, &plans[0], length, times)));
    checked.filter_map(|(plan, e)| Some(format!("attention, {plan:?}: {}", e.err()?))).collect()
}

/// Whether a plan computes attention and its gradients as the CPU does, and long sequences as `plain`,
/// another plan, does; with the same bits every time.
pub fn check_attention(
    device: &Device,
    plan: &Plan,
    plain: &Plan,
    length: usize,
    times: usize,
) -> Result<()> {
    compare(&run(device, Some(plan), &SEQUENCES)?, &run(&Device::cpu(), None, &SEQUENCES)?)?;
    // of a long sequence the CPU would take a second
    let long = [SequenceGroup { count: 1, length }];
    let first = run(device, Some(plan), &long)?;
    compare(&first, &run(device, Some(plain), &long)?)?;
    for time in 2..=times {
        let again = run(device, Some(plan), &long)?;
        for (name, first, again) in named(&first, &again) {
            let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
            if let Some(i) = first.iter().zip(again).position(differs) {
                let place = format!("element {i} of the {name} of {length} rows");
                let problem = format!("{place} is {} at first and {} at time {time}", first[i], again[i]);
                return Err(Error::Mismatch(problem));
            }
        }
    }
    Ok(())
}

fn named<'a>(a: &'a Results, b: &'a Results) -> [(&'static str, &'a [f32], &'a [f32]); 2] {
    [("output", &a[0], &b[0]), ("gradient", &a[1], &b[1])]
}

/// Values that depend on their place.
fn values(n: usize, step: usize) -> Vec<f32> {
    (0..n).map(|i| f16::from_f32((i * step % 61) as f32 / 30.0 - 1.0).to_f32()).collect()
}

/// Output and gradient for these values of q, k and v and of the cotangent; with kernels of half precision
/// where there is a plan. The cotangent is large, so that gradients of long sequences' scores are no numbers
/// that half precision flushes to zero.
fn run(device: &Device, plan: Option<&Plan>, sequences: &[SequenceGroup]) -> Result<Results> {
    let rows: usize = sequences.iter().map(|g| g.count * g.length).sum();
    let width = HEADS * HEAD_DIM;
    let tensor = |cols: usize, step: usize, factor: f32| {
        let single: Vec<f32> = values(rows * cols, step).into_iter().map(|v| factor * v).collect();
        match plan {
            None => Tensor::from_slice(device, &[rows, cols], &single),
            Some(_) => {
                let halves: Vec<f16> = single.into_iter().map(f16::from_f32).collect();
                Tensor::from_slice(device, &[rows, cols], &halves)
            }
        }
    };
    let tape = Tape::new();
    let qkv = tape.leaf(tensor(3 * width, 37, 1.0)?);
    let scale = (HEAD_DIM as f32).powf(-0.5);
    let out = match plan {
        None => attention(&tape, &qkv, sequences, HEADS, scale)?,
        Some(plan) => attention_planned(&tape, &qkv, sequences, HEADS, scale, plan)?,
    };
    let gradients = tape.backward(vec![(&out, tensor(width, 23, 64.0)?)])?;
    let gradient = gradients.get(&qkv).ok_or_else(|| Error::Mismatch("no gradient".into()))?;
    let read = |t: &Tensor| match t.dtype() {
        DType::F16 => Ok(t.to_vec::<f16>()?.into_iter().map(f16::to_f32).collect()),
        _ => t.to_vec::<f32>(),
    };
    Ok([read(out.value())?, read(gradient)?])
}

fn compare(got: &Results, want: &Results) -> Result<()> {
    for (name, got, want) in named(got, want) {
        let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let wrong = want.iter().zip(got).position(|(w, g)| g.is_nan() || (w - g).abs() > TOLERANCE * largest);
        if let Some(i) = wrong {
            let problem = format!("element {i} of the {name} is {}, {} expected", got[i], want[i]);
            return Err(Error::Mismatch(problem));
        }
    }
    Ok(())
}

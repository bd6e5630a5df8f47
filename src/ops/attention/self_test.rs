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
const HEADS: usize = 2;
const HEAD_DIM: usize = 32;
/// Of the largest value: ten roundings to half precision, and far below what a wrong place makes.
const TOLERANCE: f32 = 1e-2;

/// Runs attention and its gradients with every plan of an opened adapter that takes cooperative matrices, and
/// says which differ from the CPU's.
pub fn self_test(device: &Device, gpu: &GpuDevice) -> Vec<String> {
    let problem = Problem { groups: SEQUENCES.to_vec(), heads: HEADS, head_dim: HEAD_DIM, half: true };
    let cooperative = |plan: &Plan| matches!(plan.variant, Variant::Cooperative { .. });
    let tested: Vec<_> = plans(&problem, gpu.caps()).into_iter().filter(cooperative).collect();
    if tested.is_empty() {
        return Vec::new();
    }
    let want = run(&Device::cpu(), None);
    let failure = |plan: &Plan| {
        let result = want.as_ref().map_err(ToString::to_string);
        let result = result.and_then(|want| check(device, plan, want).map_err(|e| e.to_string()));
        result.err().map(|e| format!("attention, {plan:?}: {e}"))
    };
    tested.iter().filter_map(failure).collect()
}

/// Values that depend on their place.
fn values(n: usize, step: usize) -> Vec<f32> {
    (0..n).map(|i| f16::from_f32((i * step % 61) as f32 / 30.0 - 1.0).to_f32()).collect()
}

/// Output and gradient for these values of q, k and v and of the cotangent; with kernels of half precision
/// where there is a plan.
fn run(device: &Device, plan: Option<&Plan>) -> Result<[Vec<f32>; 2]> {
    let rows: usize = SEQUENCES.iter().map(|g| g.count * g.length).sum();
    let width = HEADS * HEAD_DIM;
    let tensor = |cols: usize, step: usize| {
        let single = values(rows * cols, step);
        match plan {
            None => Tensor::from_slice(device, &[rows, cols], &single),
            Some(_) => {
                let halves: Vec<f16> = single.into_iter().map(f16::from_f32).collect();
                Tensor::from_slice(device, &[rows, cols], &halves)
            }
        }
    };
    let tape = Tape::new();
    let qkv = tape.leaf(tensor(3 * width, 37)?);
    let scale = (HEAD_DIM as f32).powf(-0.5);
    let out = match plan {
        None => attention(&tape, &qkv, &SEQUENCES, HEADS, scale)?,
        Some(plan) => attention_planned(&tape, &qkv, &SEQUENCES, HEADS, scale, plan)?,
    };
    let gradients = tape.backward(vec![(&out, tensor(width, 23)?)])?;
    let gradient = gradients.get(&qkv).ok_or_else(|| Error::Mismatch("no gradient".into()))?;
    let read = |t: &Tensor| match t.dtype() {
        DType::F16 => Ok(t.to_vec::<f16>()?.into_iter().map(f16::to_f32).collect()),
        _ => t.to_vec::<f32>(),
    };
    Ok([read(out.value())?, read(gradient)?])
}

fn check(device: &Device, plan: &Plan, want: &[Vec<f32>; 2]) -> Result<()> {
    let got = run(device, Some(plan))?;
    for (name, want, got) in [("output", &want[0], &got[0]), ("gradient", &want[1], &got[1])] {
        let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let wrong = want.iter().zip(got).position(|(w, g)| g.is_nan() || (w - g).abs() > TOLERANCE * largest);
        if let Some(i) = wrong {
            let problem = format!("element {i} of the {name} is {}, {} expected", got[i], want[i]);
            return Err(Error::Mismatch(problem));
        }
    }
    Ok(())
}

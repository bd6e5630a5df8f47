//! Attention over sequences, and inside windows of maps.

use super::harness::{Bench, Ready, Sink, close, wrong};
use super::products::{operand_types, single};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::ops::attention::{self, Plan, SequenceGroup, attention, attention_planned};
use crate::ops::window_attention::{MapGroup, Windows, window_attention};
use crate::profile::Work;
use crate::tensor::{DType, Device, to_type};

pub(super) fn run(bench: &Bench, sink: &mut Sink) -> Result<()> {
    if bench.wanted("attention") {
        attentions(bench, sink)?;
    }
    if bench.full() && bench.wanted("window_attention") {
        window_attentions(bench, sink)?;
    }
    Ok(())
}

/// (images, tokens, heads, width of a head): global and local crops of ViT-S, as many scores as the windows
/// have, and global crops of ViT-L.
const SEQUENCES: [[usize; 4]; 5] =
    [[4, 197, 6, 64], [16, 37, 6, 64], [64, 49, 6, 32], [64, 49, 6, 16], [16, 197, 16, 64]];

fn attentions(bench: &Bench, sink: &mut Sink) -> Result<()> {
    for &sizes in &SEQUENCES[..if bench.full() { SEQUENCES.len() } else { 1 }] {
        for dtype in operand_types(&bench.device) {
            sequences(bench, sink, sizes, dtype, None)?;
        }
    }
    let (Device::Gpu(gpu), true) = (&bench.device, bench.full()) else { return Ok(()) };
    for dtype in operand_types(&bench.device) {
        let [count, length, heads, head_dim] = SEQUENCES[0];
        let groups = vec![SequenceGroup { count, length }];
        let problem = attention::Problem { groups, heads, head_dim, half: dtype == DType::F16 };
        for plan in attention::plans(&problem, gpu.caps()) {
            sequences(bench, sink, SEQUENCES[0], dtype, Some(plan))?;
        }
    }
    Ok(())
}

fn sequences(
    bench: &Bench,
    sink: &mut Sink,
    [count, length, heads, dim]: [usize; 4],
    dtype: DType,
    plan: Option<Plan>,
) -> Result<()> {
    let rows = count * length;
    let groups = [SequenceGroup { count, length }];
    let scale = (dim as f32).powf(-0.5);
    let scores = (count * heads * length * length) as f64;
    let half = if dtype == DType::F16 { " half" } else { "" };
    let suffix = plan.as_ref().map_or(String::new(), |p| format!(" {:?} {}x{}", p.variant, p.lanes, p.own));
    let name = format!("{}x{length}x{dim}{half}{suffix}", count * heads);
    let random = |seed, cols| to_type(&bench.random(seed, &[rows, cols])?, dtype);
    let call = move |tape: &Tape, qkv: &Var| match &plan {
        None => attention(tape, qkv, &groups, heads, scale),
        Some(plan) => attention_planned(tape, qkv, &groups, heads, scale, plan),
    };
    let (forward, both) = (call.clone(), call);
    let bytes = (rows * heads * dim * dtype.bytes()) as f64;
    let work = Work { flops: 4.0 * scores * dim as f64, bytes: 4.0 * bytes };
    bench.case(sink, &format!("attention/forward {name}"), work, || {
        let qkv = random(1, 3 * heads * dim)?;
        let x = single(&qkv)?;
        let constant = Var::constant(qkv);
        let first = single(forward(&Tape::no_grad(), &constant)?.value())?[0];
        let w = heads * dim;
        let score = |j: usize| {
            let dot: f64 = (0..dim).map(|d| x[d] as f64 * x[j * 3 * w + w + d] as f64).sum();
            (dot * scale as f64).exp()
        };
        let total: f64 = (0..length).map(score).sum();
        let want = (0..length).map(|j| score(j) / total * x[j * 3 * w + 2 * w] as f64).sum();
        Ready::new(
            move || forward(&Tape::no_grad(), &constant).map(drop),
            move || close("attention", first, want),
        )
    })?;
    let work = Work { flops: 14.0 * scores * dim as f64, bytes: 13.0 * bytes };
    bench.case(sink, &format!("attention/forward+backward {name}"), work, || {
        let qkv = random(1, 3 * heads * dim)?;
        let dy = random(2, heads * dim)?;
        Ready::new(
            move || {
                let tape = Tape::new();
                let x = tape.leaf(qkv.clone());
                let y = both(&tape, &x)?;
                tape.backward(vec![(&y, dy.clone())]).map(drop)
            },
            || Ok(()),
        )
    })
}

/// Shifted windows, as many scores as sequences of 49 have in [`SEQUENCES`]; padded ones have a row of
/// padding more.
fn window_attentions(bench: &Bench, sink: &mut Sink) -> Result<()> {
    for (side, heads, dim) in [(56, 6, 32), (56, 6, 16), (53, 6, 32)] {
        let maps = [MapGroup { count: 1, height: side, width: side }];
        let windows = Windows::new(&bench.device, &maps, 7, 3)?;
        let scale = (dim as f32).powf(-0.5);
        let scores = (windows.count() * heads * 49 * 49) as f64;
        let cells = (windows.rows() * heads * dim) as f64;
        let name = format!("{}x49x{dim} of {side}x{side}", windows.count() * heads);
        let qkv = bench.random(1, &[windows.input_rows(), 3 * heads * dim])?;
        let table = bench.parameter(&bench.random(2, &[13 * 13, heads])?)?;
        let work = Work { flops: 4.0 * scores * dim as f64, bytes: 16.0 * cells };
        bench.case(sink, &format!("window_attention/forward {name}"), work, || {
            let constant = Var::constant(qkv.clone());
            let (table, windows) = (table.clone(), &windows);
            let forward =
                move || window_attention(&Tape::no_grad(), &constant, &table, windows, heads, scale);
            // weights add up to one: no value of an output can exceed those of v
            let largest = forward()?.value().to_vec::<f32>()?.iter().fold(0.0f32, |m, y| m.max(y.abs()));
            let bound = qkv.to_vec::<f32>()?.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            Ready::new(
                move || forward().map(drop),
                move || match largest > 0.0 && largest <= bound {
                    true => Ok(()),
                    false => Err(wrong("window_attention", format!("{largest} of at most {bound}"))),
                },
            )
        })?;
        let work = Work { flops: 14.0 * scores * dim as f64, bytes: 52.0 * cells };
        bench.case(sink, &format!("window_attention/forward+backward {name}"), work, || {
            let dy = bench.random(3, &[windows.rows(), heads * dim])?;
            let (qkv, table, windows) = (&qkv, &table, &windows);
            Ready::new(
                move || {
                    let tape = Tape::new();
                    let x = tape.leaf(qkv.clone());
                    let y = window_attention(&tape, &x, table, windows, heads, scale)?;
                    tape.backward(vec![(&y, dy.clone())]).map(drop)
                },
                || Ok(()),
            )
        })?;
    }
    Ok(())
}

//! Attention over sequences, and inside windows of maps.

use super::{Bench, Ready, Sink, close, wrong};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::ops::attention::{self, SequenceGroup, attention, attention_planned};
use crate::ops::window_attention::{MapGroup, Windows, window_attention};
use crate::profile::Work;
use crate::tensor::Device;

pub(super) fn run(bench: &Bench, sink: &mut Sink) -> Result<()> {
    if bench.wanted("attention") {
        attentions(bench, sink)?;
    }
    if bench.full() && bench.wanted("window_attention") {
        window_attentions(bench, sink)?;
    }
    Ok(())
}

/// (images, tokens, heads, width of a head): global and local crops of ViT-S, then as many scores as the windows have.
const SEQUENCES: [(usize, usize, usize, usize); 4] =
    [(4, 197, 6, 64), (16, 37, 6, 64), (64, 49, 6, 32), (64, 49, 6, 16)];

fn attentions(bench: &Bench, sink: &mut Sink) -> Result<()> {
    for &(count, length, heads, dim) in &SEQUENCES[..if bench.full() { 4 } else { 1 }] {
        let rows = count * length;
        let groups = [SequenceGroup { count, length }];
        let scale = (dim as f32).powf(-0.5);
        let scores = (count * heads * length * length) as f64;
        let name = format!("{}x{length}x{dim}", count * heads);
        let mut plans = vec![(String::new(), None)];
        if let (Device::Gpu(gpu), true) = (&bench.device, bench.full() && length == 197) {
            let problem = attention::Problem { groups: groups.to_vec(), heads, head_dim: dim, half: false };
            let all = attention::plans(&problem, gpu.caps());
            plans.extend(all.into_iter().map(|plan| (format!(" {:?}", plan.variant), Some(plan))));
        }
        for (suffix, plan) in plans {
            let call = move |tape: &Tape, qkv: &Var| match &plan {
                None => attention(tape, qkv, &groups, heads, scale),
                Some(plan) => attention_planned(tape, qkv, &groups, heads, scale, plan),
            };
            let (forward, both) = (call.clone(), call);
            let work = Work { flops: 4.0 * scores * dim as f64, bytes: 16.0 * (rows * heads * dim) as f64 };
            bench.case(sink, &format!("attention/forward {name}{suffix}"), work, || {
                let qkv = bench.random(1, &[rows, 3 * heads * dim])?;
                let x = qkv.to_vec::<f32>()?;
                let constant = Var::constant(qkv);
                let first = forward(&Tape::no_grad(), &constant)?.value().to_vec::<f32>()?[0];
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
            let work = Work { flops: 14.0 * scores * dim as f64, bytes: 52.0 * (rows * heads * dim) as f64 };
            bench.case(sink, &format!("attention/forward+backward {name}{suffix}"), work, || {
                let qkv = bench.random(1, &[rows, 3 * heads * dim])?;
                let dy = bench.random(2, &[rows, heads * dim])?;
                Ready::new(
                    move || {
                        let tape = Tape::new();
                        let x = tape.leaf(qkv.clone());
                        let y = both(&tape, &x)?;
                        tape.backward(vec![(&y, dy.clone())]).map(drop)
                    },
                    || Ok(()),
                )
            })?;
        }
    }
    Ok(())
}

/// Shifted windows, as many scores as sequences of 49 have in [`SEQUENCES`]; padded ones have a row of padding more.
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

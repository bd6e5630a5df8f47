//! The losses over prototypes: targets by Sinkhorn-Knopp, cross-entropy with all its gradients.

use super::harness::{Bench, Ready, Sink, close, wrong};
use crate::autograd::Tape;
use crate::error::Result;
use crate::ops::prototype_loss::{LossRow, LossRows, PrototypeLoss, Segment, prototype_loss};
use crate::ops::sinkhorn::sinkhorn;
use crate::profile::Work;
use crate::tensor::Tensor;

/// Rows of a batch, and width of the bottleneck.
const ROWS: usize = 100;
const DIM: usize = 256;

pub(super) fn run(bench: &Bench, sink: &mut Sink) -> Result<()> {
    for &prototypes in if bench.full() { &[8192, 65_536][..] } else { &[8192] } {
        cross_entropies(bench, sink, prototypes)?;
        sinkhorns(bench, sink, prototypes)?;
    }
    Ok(())
}

fn cross_entropies(bench: &Bench, sink: &mut Sink, prototypes: usize) -> Result<()> {
    let work = Work {
        // logits, features and prototypes of two students
        flops: 3.0 * 2.0 * 2.0 * (ROWS * DIM * prototypes) as f64,
        bytes: 4.0 * (8 * ROWS * prototypes + 4 * DIM * prototypes) as f64,
    };
    bench.case(sink, &format!("cross_entropy/{ROWS}x{DIM}x{prototypes} both students"), work, || {
        let targets = sinkhorn(vec![bench.random(5, &[ROWS, prototypes])?], 0.05, 3)?;
        let table = (0..ROWS as u32)
            .map(|i| LossRow { targets: [i, (i + 1) % ROWS as u32], intact: 0.8, elastic: 0.2, distill: 0.2 })
            .collect();
        let table = LossRows::new(&bench.device, table)?;
        let (intact, elastic) = (bench.random(1, &[ROWS, DIM])?, bench.random(2, &[ROWS, DIM])?);
        let v = bench.parameter(&bench.random(3, &[prototypes, DIM])?)?;
        let g = bench.parameter(&bench.random(4, &[prototypes, 1])?)?;
        let run = move || {
            let tape = Tape::new();
            let (intact, elastic) = (tape.leaf(intact.clone()), tape.leaf(elastic.clone()));
            let call = PrototypeLoss {
                intact: &intact,
                elastic: Some(&elastic),
                v: &v,
                g: &g,
                rows: &table,
                segments: &[Segment { rows: 0..ROWS, targets: &targets, distill: true }],
                temperature: 0.1,
                budget: None,
                loss_scale: None,
            };
            let loss = prototype_loss(&tape, &call)?;
            let total = loss.total.value().clone();
            let one = Tensor::from_slice(&bench.device, &[1], &[1.0f32])?;
            tape.backward(vec![(&loss.total, one)])?;
            Ok(total)
        };
        // cross-entropy is at least the targets' entropy and at most what logits of this size allow
        let value = run()?.item()?;
        Ready::new(
            move || run().map(drop),
            move || match value > 0.0 && value < 1e6 {
                true => Ok(()),
                false => Err(wrong("cross_entropy", value)),
            },
        )
    })
}

fn sinkhorns(bench: &Bench, sink: &mut Sink, prototypes: usize) -> Result<()> {
    let elements = (ROWS * prototypes) as f64;
    // three iterations of a pass over columns and one over rows, a read each
    let work = Work { flops: 6.0 * 4.0 * elements, bytes: 6.0 * 4.0 * elements };
    bench.case(sink, &format!("sinkhorn/{ROWS}x{prototypes}"), work, || {
        let logits = bench.random(1, &[ROWS, prototypes])?;
        let run = move || sinkhorn(vec![logits.clone()], 0.05, 3);
        let sum: f64 = run()?.to_vec()?[..prototypes].iter().sum();
        Ready::new(move || run().map(drop), move || close("sinkhorn", sum as f32, 1.0))
    })
}

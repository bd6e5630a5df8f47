//! Attention on the CPU device: a task a sequence and head, a block of queries at a time.

use rayon::prelude::*;

use super::call::Call;
use super::head::{Backward, Forward, Head, Sizes, take, with_scratch};
use crate::cpu::simd::{LANES, padded};
use crate::cpu::{Arch, RowsMut, math, par_parts};
use crate::error::Result;
use crate::profile;
use crate::tensor::Tensor;

/// Scores of a block of queries, at most: with what goes with them they should stay in the second-level
/// cache.
const BLOCK: usize = 16 * 1024;

/// Where sequences begin, and where the last one ends.
fn starts(call: &Call) -> Vec<usize> {
    let mut starts = vec![0];
    for group in &call.groups {
        let first = starts[starts.len() - 1];
        starts.extend((1..=group.count).map(|i| first + i * group.length));
    }
    starts
}

/// Queries in a block of a sequence of `length`: whole vectors, and blocks as even as can be.
fn block(length: usize) -> usize {
    let vectors = length.div_ceil(LANES);
    let most = (BLOCK / length / LANES).max(1);
    vectors.div_ceil(vectors.div_ceil(most)) * LANES
}

/// Blocks of queries of a sequence: first query and sizes.
fn blocks(length: usize, d: usize) -> impl Iterator<Item = (usize, Sizes)> {
    let most = block(length);
    (0..length)
        .step_by(most)
        .map(move |start| (start, Sizes { keys: length, queries: most.min(length - start), d }))
}

pub(super) fn forward(call: &Call) -> Result<()> {
    let rx = call.qkv.rows("attention")?;
    let (d, heads, scale) = (call.head_dim, call.heads, call.scale);
    let width = heads * d;
    let qkv = &*call.qkv.cpu_read::<f32>("attention")?;
    let (mut out, mut saved) =
        (call.out.cpu_rows_mut::<f32>("attention")?, call.saved.cpu_write::<f32>("attention")?);
    // a task a sequence and head; on this device the logarithms are [rows, heads]
    let starts = starts(call);
    let out = out.rows_mut().tiles(&starts, d);
    let lse = RowsMut::dense(&mut saved, heads).tiles(&starts, 1);
    let arch = Arch::get();
    profile::flops(call.flops(&call.groups, 2));
    par_parts((out, lse)).for_each(|(task, (mut out, mut lse))| {
        let (first, length, head) = (starts[task / heads], out.count(), task % heads);
        let part = |part: usize| Head { data: qkv, rows: rx, column: part * width + head * d, d };
        let (n, w) = (block(length).min(padded(length)), padded(d));
        let most = Sizes { keys: length, queries: n, d };
        with_scratch(2 * length * w + 2 * n * w + n + most.forward(), |mut scratch| {
            let k = take(&mut scratch, length * w);
            let v = take(&mut scratch, length * w);
            let q = take(&mut scratch, n * w);
            let result = take(&mut scratch, n * w);
            let level = take(&mut scratch, n);
            part(1).gather(k, first..first + length);
            part(2).gather(v, first..first + length);
            for (start, sizes) in blocks(length, d) {
                let rows = first + start..first + start + sizes.queries;
                let (q, result) = (&mut q[..sizes.queries * w], &mut result[..sizes.queries * w]);
                let level = &mut level[..sizes.columns()];
                part(0).gather(q, rows.clone());
                arch.dispatch(Forward {
                    sizes,
                    scale,
                    q,
                    k,
                    v,
                    bias: None,
                    out: result,
                    lse: level,
                    scratch,
                });
                for (i, (values, level)) in result.chunks_exact(w).zip(level).enumerate() {
                    out.row(start + i).copy_from_slice(&values[..d]);
                    lse.row(start + i)[0] = *level;
                }
            }
        });
    });
    Ok(())
}

pub(super) fn backward(call: &Call, dout: &Tensor, dqkv: &Tensor, accumulate: bool) -> Result<()> {
    let rx = call.qkv.rows("attention")?;
    let (ro, rd) = (call.out.rows("attention")?, dout.rows("attention")?);
    let (d, heads, scale) = (call.head_dim, call.heads, call.scale);
    let width = heads * d;
    let (qkv, out, lse) = (
        &*call.qkv.cpu_read::<f32>("attention")?,
        &*call.out.cpu_read::<f32>("attention")?,
        &*call.saved.cpu_read::<f32>("attention")?,
    );
    let dout = &*dout.cpu_read::<f32>("attention")?;
    let (mut dqkv, starts) = (dqkv.cpu_rows_mut::<f32>("attention")?, starts(call));
    let (dq, rest) = dqkv.rows_mut().split_cols_at(width);
    let (dk, dv) = rest.split_cols_at(width);
    let [dq, dk, dv] = [dq, dk, dv].map(|part| part.tiles(&starts, d));
    let arch = Arch::get();
    profile::flops(call.flops(&call.groups, 5));
    par_parts((dq, dk, dv)).for_each(|(task, (mut to_q, mut to_k, mut to_v))| {
        let (first, length, head) = (starts[task / heads], to_q.count(), task % heads);
        let part = |part: usize| Head { data: qkv, rows: rx, column: part * width + head * d, d };
        let result = Head { data: out, rows: ro, column: head * d, d };
        let cotangent = Head { data: dout, rows: rd, column: head * d, d };
        let write = |to: &mut RowsMut<f32>, first: usize, values: &[f32]| {
            for (i, values) in values.chunks_exact(padded(d)).enumerate() {
                let to = to.row(first + i);
                match accumulate {
                    true => to.iter_mut().zip(values).for_each(|(to, v)| *to += v),
                    false => to.copy_from_slice(&values[..d]),
                }
            }
        };
        let (n, w) = (block(length).min(padded(length)), padded(d));
        let most = Sizes { keys: length, queries: n, d };
        with_scratch(4 * length * w + 3 * n * w + 2 * n + most.backward(), |mut scratch| {
            let [k, v, dk, dv] = [0; 4].map(|_| take(&mut scratch, length * w));
            let [q, dy, dq] = [0; 3].map(|_| take(&mut scratch, n * w));
            let [level, delta] = [0; 2].map(|_| take(&mut scratch, n));
            part(1).gather(k, first..first + length);
            part(2).gather(v, first..first + length);
            for (start, sizes) in blocks(length, d) {
                let (rows, n) = (first + start..first + start + sizes.queries, sizes.queries);
                let (q, dy, dq) = (&mut q[..n * w], &mut dy[..n * w], &mut dq[..n * w]);
                let (level, delta) = (&mut level[..sizes.columns()], &mut delta[..sizes.columns()]);
                part(0).gather(q, rows.clone());
                cotangent.gather(dy, rows.clone());
                level[n..].fill(f32::INFINITY);
                delta[n..].fill(0.0);
                for (i, row) in rows.enumerate() {
                    let (y, dy) = (result.row(row), cotangent.row(row));
                    level[i] = lse[row * heads + head];
                    delta[i] = arch.run(
                        #[inline(always)]
                        |_| math::sum(d, |c| y[c] * dy[c]),
                    );
                }
                arch.dispatch(Backward {
                    sizes,
                    scale,
                    q,
                    k,
                    v,
                    dout: dy,
                    bias: None,
                    lse: level,
                    delta,
                    dq,
                    dk,
                    dv,
                    accumulate: start > 0,
                    sum: None,
                    scratch,
                });
                write(&mut to_q, start, dq);
            }
            write(&mut to_k, 0, dk);
            write(&mut to_v, 0, dv);
        });
    });
    Ok(())
}

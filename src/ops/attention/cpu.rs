//! Attention on the CPU device: a task a sequence and head, a block of queries at a time.

use rayon::prelude::*;

use super::call::Call;
use super::head::{Backward, Forward, Head, Sizes, take, with_scratch};
use crate::cpu::simd::{LANES, padded};
use crate::cpu::{Arch, SyncPtr, math};
use crate::error::Result;
use crate::profile;
use crate::tensor::Tensor;

/// Scores of a block of queries, at most: with what goes with them they should stay in the second-level cache.
const BLOCK: usize = 16 * 1024;

/// The rows of one sequence for one head.
#[derive(Clone, Copy)]
struct Task {
    first: usize,
    length: usize,
    head: usize,
}

fn tasks(call: &Call) -> Vec<Task> {
    let mut first = 0;
    let mut all = Vec::new();
    for group in &call.groups {
        for _ in 0..group.count {
            all.extend((0..call.heads).map(|head| Task { first, length: group.length, head }));
            first += group.length;
        }
    }
    all
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
    let (rx, ro) = (call.qkv.rows("attention")?, call.out.rows("attention")?);
    let (d, width, scale) = (call.head_dim, call.heads * call.head_dim, call.scale);
    let qkv = call.qkv.cpu::<f32>();
    let out = SyncPtr(call.out.cpu_mut::<f32>().as_mut_ptr());
    let lse = SyncPtr(call.saved.cpu_mut::<f32>().as_mut_ptr());
    let arch = Arch::get();
    profile::flops(call.flops(&call.groups, 2));
    tasks(call).into_par_iter().for_each(|Task { first, length, head }| {
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
                for ((row, values), level) in rows.zip(result.chunks_exact(w)).zip(level) {
                    // SAFETY: each task writes its own rows and columns.
                    unsafe {
                        out.slice(row * ro.stride + head * d, d).copy_from_slice(&values[..d]);
                        lse.slice(head * rx.rows + row, 1)[0] = *level;
                    }
                }
            }
        });
    });
    Ok(())
}

pub(super) fn backward(call: &Call, dout: &Tensor, dqkv: &Tensor, accumulate: bool) -> Result<()> {
    let rx = call.qkv.rows("attention")?;
    let (ro, rd, rg) = (call.out.rows("attention")?, dout.rows("attention")?, dqkv.rows("attention")?);
    let (d, width, scale) = (call.head_dim, call.heads * call.head_dim, call.scale);
    let (qkv, out, lse) = (call.qkv.cpu::<f32>(), call.out.cpu::<f32>(), call.saved.cpu::<f32>());
    let dout = dout.cpu::<f32>();
    let gradient = SyncPtr(dqkv.cpu_mut::<f32>().as_mut_ptr());
    let arch = Arch::get();
    profile::flops(call.flops(&call.groups, 5));
    tasks(call).into_par_iter().for_each(|Task { first, length, head }| {
        let part = |part: usize| Head { data: qkv, rows: rx, column: part * width + head * d, d };
        let result = Head { data: out, rows: ro, column: head * d, d };
        let cotangent = Head { data: dout, rows: rd, column: head * d, d };
        let write = |part: usize, first: usize, values: &[f32]| {
            for (i, values) in values.chunks_exact(padded(d)).enumerate() {
                // SAFETY: each task writes its own rows and columns.
                let to = unsafe { gradient.slice((first + i) * rg.stride + part * width + head * d, d) };
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
                    level[i] = lse[head * rx.rows + row];
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
                write(0, first + start, dq);
            }
            write(1, first, dk);
            write(2, first, dv);
        });
    });
    Ok(())
}

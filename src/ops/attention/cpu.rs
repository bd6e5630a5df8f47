//! Attention on the CPU device: a task a sequence and head, a block of queries at a time.

use rayon::prelude::*;

use super::call::Call;
use super::head::{Backward, Forward, Head, Sizes, take, with_scratch};
use crate::cpu::simd::{LANES, padded};
use crate::cpu::{Arch, RowsMut, math, par_parts};
use crate::error::Result;
use crate::profile;
use crate::tensor::{Rows, Tensor};

/// Scores of a block of queries, at most: with what goes with them they should stay in the second-level
/// cache.
const BLOCK: usize = 16 * 1024;

/// Where the queries of sequences begin, and their keys, and where the last ones end.
fn starts(call: &Call) -> [Vec<usize>; 2] {
    let (mut queries, mut keys) = (vec![0], vec![0]);
    for (asked, length) in call.sequences() {
        queries.push(queries[queries.len() - 1] + asked);
        keys.push(keys[keys.len() - 1] + length);
    }
    [queries, keys]
}

/// Queries in a block of those of a sequence: whole vectors, and blocks as even as can be.
fn block(queries: usize, keys: usize) -> usize {
    let vectors = queries.div_ceil(LANES).max(1);
    let most = (BLOCK / keys.max(1) / LANES).max(1);
    vectors.div_ceil(vectors.div_ceil(most)) * LANES
}

/// Blocks of queries of a sequence: first query and sizes.
fn blocks(queries: usize, keys: usize, d: usize) -> impl Iterator<Item = (usize, Sizes)> {
    let most = block(queries, keys);
    (0..queries)
        .step_by(most)
        .map(move |start| (start, Sizes { keys, queries: most.min(queries - start), d }))
}

/// Queries, keys and values in memory.
struct Operands<'a> {
    q: (&'a [f32], Rows),
    kv: (&'a [f32], Rows),
    width: usize,
    d: usize,
}

impl<'a> Operands<'a> {
    fn of(call: &Call, q: &'a [f32], kv: &'a [f32]) -> Result<Self> {
        let (q, kv) = ((q, call.q.rows("attention")?), (kv, call.kv.rows("attention")?));
        Ok(Self { q, kv, width: call.heads * call.head_dim, d: call.head_dim })
    }

    /// A head's part of each.
    fn heads(&self, head: usize) -> [Head<'a>; 3] {
        let part = |(data, rows), column| Head { data, rows, column, d: self.d };
        [(self.q, 0), (self.kv, 0), (self.kv, self.width)].map(|(of, first)| part(of, first + head * self.d))
    }
}

pub(super) fn forward(call: &Call) -> Result<()> {
    let (d, heads, scale) = (call.head_dim, call.heads, call.scale);
    let (q, kv) = (&*call.q.cpu_read::<f32>("attention")?, &*call.kv.cpu_read::<f32>("attention")?);
    let operands = Operands::of(call, q, kv)?;
    let (mut out, mut saved) =
        (call.out.cpu_rows_mut::<f32>("attention")?, call.saved.cpu_write::<f32>("attention")?);
    // a task a sequence and head; on this device the logarithms are [queries, heads]
    let [asked, starts] = starts(call);
    let out = out.rows_mut().tiles(&asked, d);
    let lse = RowsMut::dense(&mut saved, heads).tiles(&asked, 1);
    let arch = Arch::get();
    profile::flops(call.all_flops(2));
    par_parts((out, lse)).for_each(|(task, (mut out, mut lse))| {
        let (sequence, count) = (task / heads, out.count());
        let (query, keys) = (asked[sequence], starts[sequence]..starts[sequence + 1]);
        let length = keys.len();
        let [from_q, from_k, from_v] = operands.heads(task % heads);
        let (n, w) = (block(count, length).min(padded(count)), padded(d));
        let most = Sizes { keys: length, queries: n, d };
        with_scratch(2 * length * w + 2 * n * w + n + most.forward(), |mut scratch| {
            let k = take(&mut scratch, length * w);
            let v = take(&mut scratch, length * w);
            let q = take(&mut scratch, n * w);
            let result = take(&mut scratch, n * w);
            let level = take(&mut scratch, n);
            from_k.gather(k, keys.clone());
            from_v.gather(v, keys);
            for (start, sizes) in blocks(count, length, d) {
                let rows = query + start..query + start + sizes.queries;
                let (q, result) = (&mut q[..sizes.queries * w], &mut result[..sizes.queries * w]);
                let level = &mut level[..sizes.columns()];
                from_q.gather(q, rows);
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
    if call.queries.is_some() {
        let width = call.heads * call.head_dim;
        let mut dqkv = dqkv.cpu_write::<f32>("attention")?;
        let (dq, dkv) = dqkv.split_at_mut(call.q.elements());
        let (dq, dkv) = (RowsMut::dense(dq, width), RowsMut::dense(dkv, 2 * width));
        return gradients(call, dout, dq, dkv, accumulate);
    }
    let mut dqkv = dqkv.cpu_rows_mut::<f32>("attention")?;
    let (dq, dkv) = dqkv.rows_mut().split_cols_at(call.heads * call.head_dim);
    gradients(call, dout, dq, dkv, accumulate)
}

fn gradients(
    call: &Call,
    dout: &Tensor,
    dq: RowsMut<f32>,
    dkv: RowsMut<f32>,
    accumulate: bool,
) -> Result<()> {
    let (ro, rd) = (call.out.rows("attention")?, dout.rows("attention")?);
    let (d, heads, scale) = (call.head_dim, call.heads, call.scale);
    let (q, kv, out, lse) = (
        &*call.q.cpu_read::<f32>("attention")?,
        &*call.kv.cpu_read::<f32>("attention")?,
        &*call.out.cpu_read::<f32>("attention")?,
        &*call.saved.cpu_read::<f32>("attention")?,
    );
    let dout = &*dout.cpu_read::<f32>("attention")?;
    let operands = Operands::of(call, q, kv)?;
    let [asked, starts] = starts(call);
    let (dk, dv) = dkv.split_cols_at(heads * d);
    let (dq, dk, dv) = (dq.tiles(&asked, d), dk.tiles(&starts, d), dv.tiles(&starts, d));
    let arch = Arch::get();
    profile::flops(call.all_flops(5));
    par_parts((dq, dk, dv)).for_each(|(task, (mut to_q, mut to_k, mut to_v))| {
        let (sequence, count, head) = (task / heads, to_q.count(), task % heads);
        let (query, keys) = (asked[sequence], starts[sequence]..starts[sequence + 1]);
        let length = keys.len();
        let [from_q, from_k, from_v] = operands.heads(head);
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
        let (n, w) = (block(count, length).min(padded(count)), padded(d));
        let most = Sizes { keys: length, queries: n, d };
        with_scratch(4 * length * w + 3 * n * w + 2 * n + most.backward(), |mut scratch| {
            let [k, v, dk, dv] = [0; 4].map(|_| take(&mut scratch, length * w));
            let [q, dy, dq] = [0; 3].map(|_| take(&mut scratch, n * w));
            let [level, delta] = [0; 2].map(|_| take(&mut scratch, n));
            from_k.gather(k, keys.clone());
            from_v.gather(v, keys);
            if count == 0 {
                dk.fill(0.0);
                dv.fill(0.0);
            }
            for (start, sizes) in blocks(count, length, d) {
                let (rows, n) = (query + start..query + start + sizes.queries, sizes.queries);
                let (q, dy, dq) = (&mut q[..n * w], &mut dy[..n * w], &mut dq[..n * w]);
                let (level, delta) = (&mut level[..sizes.columns()], &mut delta[..sizes.columns()]);
                from_q.gather(q, rows.clone());
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

//! Window attention on the CPU device: a window and head at a time, its rows gathered into scratch that stays in the
//! first-level caches, products by `gemm`.

use rayon::prelude::*;

use super::Call;
use super::windows::ROW_BITS;
use crate::autograd::Target;
use crate::cpu::{SyncPtr, math};
use crate::error::Result;
use crate::ops::attention::cpu::{View, normalise, product, with_scratch};
use crate::tensor::{Rows, Tensor};

/// What is added to scores between regions.
const MASKED: f32 = -100.0;
/// Windows whose gradients one task sums, at least.
const WINDOWS: usize = 8;
/// Tasks of a head, at most.
const TASKS: usize = 64;

/// What all windows share.
struct Geometry<'a> {
    /// Tokens of a window.
    length: usize,
    /// Elements of a head.
    d: usize,
    /// Rows of the maps; a larger row is padding.
    rows: usize,
    /// Biases `[heads, length, length]`, query by query.
    bias: Vec<f32>,
    index: &'a [u32],
}

/// Place in the bias table of a query and a key.
fn distance(window: usize, query: usize, key: usize) -> usize {
    let spot = |t: usize| t / window * (2 * window - 1) + t % window;
    spot(query) + 2 * window * (window - 1) - spot(key)
}

impl<'a> Geometry<'a> {
    fn new(call: &'a Call) -> Result<Self> {
        let window = call.windows.window();
        let length = window * window;
        let (table, stride) = (call.bias.cpu::<f32>(), call.bias.rows("window_attention")?.stride);
        let mut bias = Vec::with_capacity(call.heads * length * length);
        for head in 0..call.heads {
            for query in 0..length {
                bias.extend((0..length).map(|key| table[distance(window, query, key) * stride + head]));
            }
        }
        let index = call.windows.index.cpu::<u32>();
        Ok(Self { length, d: call.head_dim, rows: call.windows.rows(), bias, index })
    }

    fn entries(&self, window: usize) -> &'a [u32] {
        &self.index[window * self.length..][..self.length]
    }

    /// scale·Q·Kᵀ + bias + mask of a window, in `scores`.
    fn scores(&self, scores: &mut [f32], q: &[f32], k: &[f32], scale: f32, head: usize, entries: &[u32]) {
        let (t, d) = (self.length, self.d);
        let (q, k) = (View(q.as_ptr(), d, 1), View(k.as_ptr(), d, 1));
        // SAFETY: q, k and the scores are as long as the sizes say.
        unsafe { product((t, t, d), (scores.as_mut_ptr(), t), false, scale, q, k.t()) };
        let bias = &self.bias[head * t * t..][..t * t];
        scores.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
        let region = |e: u32| e >> ROW_BITS;
        if entries.iter().any(|e| region(*e) != region(entries[0])) {
            for (row, query) in scores.chunks_exact_mut(t).zip(entries) {
                for (s, key) in row.iter_mut().zip(entries) {
                    *s += if region(*query) == region(*key) { 0.0 } else { MASKED };
                }
            }
        }
    }

    /// The rows of `entries` of `from`, one after the other; zeros where there are none.
    fn gather(
        &self,
        to: &mut [f32],
        from: &[f32],
        rows: usize,
        stride: usize,
        column: usize,
        entries: &[u32],
    ) {
        for (to, &entry) in to.chunks_exact_mut(self.d).zip(entries) {
            match row(entry) {
                r if r < rows => to.copy_from_slice(&from[r * stride + column..][..self.d]),
                _ => to.fill(0.0),
            }
        }
    }
}

fn row(entry: u32) -> usize {
    (entry & ((1 << ROW_BITS) - 1)) as usize
}

pub(super) fn forward(call: &Call) -> Result<()> {
    let (rx, ro) = (call.qkv.rows("window_attention")?, call.out.rows("window_attention")?);
    let g = Geometry::new(call)?;
    let (t, d, width) = (g.length, g.d, call.heads * call.head_dim);
    let qkv = call.qkv.cpu::<f32>();
    let out = SyncPtr(call.out.cpu_mut::<f32>().as_mut_ptr());
    let lse = SyncPtr(call.saved.cpu_mut::<f32>().as_mut_ptr());
    let (heads, scale) = (call.heads, call.scale);
    (0..call.windows.count() * heads).into_par_iter().for_each(|task| {
        let (entries, head) = (g.entries(task / heads), task % heads);
        with_scratch(3 * t * d + t * t, |scratch| {
            let (parts, scores) = scratch.split_at_mut(3 * t * d);
            for (part, to) in parts.chunks_exact_mut(t * d).enumerate() {
                g.gather(to, qkv, rx.rows, rx.stride, part * width + head * d, entries);
            }
            let (q, kv) = parts.split_at_mut(t * d);
            let (k, v) = kv.split_at(t * d);
            g.scores(scores, q, k, scale, head, entries);
            for (scores, &entry) in scores.chunks_exact_mut(t).zip(entries) {
                let level = normalise(scores);
                if row(entry) < g.rows {
                    // SAFETY: every row is in one window.
                    unsafe { lse.slice(head * g.rows + row(entry), 1)[0] = level };
                }
            }
            let (weights, v) = (View(scores.as_ptr(), t, 1), View(v.as_ptr(), d, 1));
            // SAFETY: q has room for as many rows as the product has, and is not needed any more.
            unsafe { product((t, d, t), (q.as_mut_ptr(), d), false, 1.0, weights, v) };
            for (y, &entry) in q.chunks_exact(d).zip(entries) {
                if row(entry) < g.rows {
                    // SAFETY: every row and head is in one task.
                    unsafe { out.slice(row(entry) * ro.stride + head * d, d) }.copy_from_slice(y);
                }
            }
        });
    });
    Ok(())
}

/// What a task sums over its windows.
struct Sums {
    /// dS `[length, length]`.
    ds: Vec<f32>,
    /// dk and dv of padding `[2, head_dim]`.
    padding: Vec<f32>,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.ds.iter_mut().zip(&other.ds).for_each(|(a, b)| *a += b);
        self.padding.iter_mut().zip(&other.padding).for_each(|(a, b)| *a += b);
    }
}

pub(super) fn backward(call: &Call, dout: &Tensor, dqkv: &Tensor, dbias: Option<Target>) -> Result<()> {
    let g = Geometry::new(call)?;
    let (t, d, width) = (g.length, g.d, call.heads * call.head_dim);
    let rg = dqkv.rows("window_attention")?;
    let gradient = SyncPtr(dqkv.cpu_mut::<f32>().as_mut_ptr());
    let count = call.windows.count();
    let per_task = WINDOWS.max(count.div_ceil(TASKS));
    let tasks = count.div_ceil(per_task);
    let pass = Backward::new(call, &g, dout)?;
    // tasks are cut by size and added in order, so the sums do not depend on the number of threads
    let parts: Vec<Sums> = (0..tasks * call.heads)
        .into_par_iter()
        .map(|task| {
            let (head, first) = (task / tasks, task % tasks * per_task);
            let mut sums = Sums { ds: vec![0.0; t * t], padding: vec![0.0; 2 * d] };
            for window in first..(first + per_task).min(count) {
                pass.window(window, head, &gradient, rg.stride, &mut sums);
            }
            sums
        })
        .collect();
    let mut heads: Vec<Sums> = Vec::with_capacity(call.heads);
    for (i, part) in parts.into_iter().enumerate() {
        match heads.get_mut(i / tasks) {
            Some(sums) => sums.add(&part),
            None => heads.push(part),
        }
    }
    if call.windows.is_padded() {
        // SAFETY: the row of padding, which no task writes.
        let last = unsafe { gradient.slice(g.rows * rg.stride, 3 * width) };
        // its q has no gradient, since padded queries are dropped
        last[..width].fill(0.0);
        for (head, sums) in heads.iter().enumerate() {
            for (part, values) in sums.padding.chunks_exact(d).enumerate() {
                last[(1 + part) * width + head * d..][..d].copy_from_slice(values);
            }
        }
    }
    dbias.map_or(Ok(()), |target| fold_bias(call.windows.window(), &heads, &target))
}

fn fold_bias(window: usize, heads: &[Sums], target: &Target) -> Result<()> {
    let rows = target.tensor.rows("window_attention")?;
    let (out, length) = (target.tensor.cpu_mut::<f32>(), window * window);
    for (head, sums) in heads.iter().enumerate() {
        let mut folded = vec![0.0; rows.rows];
        for (i, value) in sums.ds.iter().enumerate() {
            folded[distance(window, i / length, i % length)] += value;
        }
        for (r, value) in folded.into_iter().enumerate() {
            let to = &mut out[r * rows.stride + head];
            *to = value + if target.accumulate { *to } else { 0.0 };
        }
    }
    Ok(())
}

/// What the backward pass of a window and head reads: matrices with their rows.
struct Backward<'a> {
    g: &'a Geometry<'a>,
    qkv: (&'a [f32], Rows),
    out: (&'a [f32], Rows),
    dout: (&'a [f32], Rows),
    lse: &'a [f32],
    scale: f32,
}

impl<'a> Backward<'a> {
    fn new(call: &'a Call, g: &'a Geometry, dout: &'a Tensor) -> Result<Self> {
        Ok(Self {
            g,
            qkv: (call.qkv.cpu(), call.qkv.rows("window_attention")?),
            out: (call.out.cpu(), call.out.rows("window_attention")?),
            dout: (dout.cpu(), dout.rows("window_attention")?),
            lse: call.saved.cpu(),
            scale: call.scale,
        })
    }

    /// Writes (=) the gradients of a window's rows to `to`, whose rows are `stride` apart, and adds to the sums.
    fn window(&self, window: usize, head: usize, to: &SyncPtr<f32>, stride: usize, sums: &mut Sums) {
        let g = self.g;
        let (t, d, entries) = (g.length, g.d, g.entries(window));
        let width = self.out.1.cols;
        with_scratch(8 * t * d + 2 * t * t, |scratch| {
            let (rows, tiles) = scratch.split_at_mut(8 * t * d);
            let (inputs, results) = rows.split_at_mut(5 * t * d);
            let (p, ds) = tiles.split_at_mut(t * t);
            for (part, to) in inputs.chunks_exact_mut(t * d).enumerate() {
                let ((from, rows), column) = match part {
                    0..3 => (self.qkv, part * width + head * d),
                    3 => (self.out, head * d),
                    _ => (self.dout, head * d),
                };
                g.gather(to, from, rows.rows, rows.stride, column, entries);
            }
            let part = |i: usize| &inputs[i * t * d..][..t * d];
            let view = |i: usize| View(part(i).as_ptr(), d, 1);
            g.scores(p, part(0), part(1), self.scale, head, entries);
            // SAFETY: the operands are as long as the sizes say.
            unsafe { product((t, t, d), (ds.as_mut_ptr(), t), false, 1.0, view(4), view(2).t()) };
            let rows = p.chunks_exact_mut(t).zip(ds.chunks_exact_mut(t));
            for (i, (p, ds)) in rows.enumerate() {
                if row(entries[i]) >= g.rows {
                    // padded queries have no cotangent
                    p.fill(0.0);
                    ds.fill(0.0);
                    continue;
                }
                let (y, dy) = (&part(3)[i * d..][..d], &part(4)[i * d..][..d]);
                let delta = math::sum(d, |c| y[c] * dy[c]);
                let lse = self.lse[head * g.rows + row(entries[i])];
                for (p, ds) in p.iter_mut().zip(ds) {
                    *p = math::exp(*p - lse);
                    *ds = *p * (*ds - delta);
                }
            }
            sums.ds.iter_mut().zip(&*ds).for_each(|(sum, ds)| *sum += ds);
            let (p, ds) = (View(p.as_ptr(), t, 1), View(ds.as_ptr(), t, 1));
            let result = |i: usize, results: &mut [f32]| (results[i * t * d..].as_mut_ptr(), d);
            // SAFETY: as above.
            unsafe {
                product((t, d, t), result(0, results), false, self.scale, ds, view(1));
                product((t, d, t), result(1, results), false, self.scale, ds.t(), view(0));
                product((t, d, t), result(2, results), false, 1.0, p.t(), view(4));
            }
            for (part, values) in results.chunks_exact(t * d).enumerate() {
                for (values, &entry) in values.chunks_exact(d).zip(entries) {
                    if row(entry) < g.rows {
                        let at = row(entry) * stride + part * width + head * d;
                        // SAFETY: every row and head is in one task.
                        unsafe { to.slice(at, d) }.copy_from_slice(values);
                    } else if part > 0 {
                        let padding = &mut sums.padding[(part - 1) * d..][..d];
                        padding.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
                    }
                }
            }
        });
    }
}

//! Window attention on the CPU device: a window and head at a time, its rows gathered into scratch that stays in the
//! first-level caches; what is computed there is attention's.

use rayon::prelude::*;

use super::call::Call;
use super::windows::ROW_BITS;
use crate::autograd::Target;
use crate::cpu::{Arch, SyncPtr, math};
use crate::error::Result;
use crate::ops::attention::head::{Backward, Forward, Head, Sizes, take, with_scratch};
use crate::tensor::Tensor;

/// What is added to scores between regions.
const MASKED: f32 = -100.0;
/// Windows whose gradients one task sums, at least.
const WINDOWS: usize = 8;
/// Tasks of a head, at most.
const TASKS: usize = 64;

/// What all windows share.
struct Geometry<'a> {
    sizes: Sizes,
    /// Rows of the maps; a larger row is padding.
    rows: usize,
    /// Biases `[heads, keys, columns]`.
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
        let sizes = Sizes { keys: length, queries: length, d: call.head_dim };
        let (table, stride) = (call.bias.cpu::<f32>(), call.bias.rows("window_attention")?.stride);
        let mut bias = vec![0.0; call.heads * sizes.scores()];
        for (head, bias) in bias.chunks_exact_mut(sizes.scores()).enumerate() {
            for (key, row) in bias.chunks_exact_mut(sizes.columns()).enumerate() {
                for (query, value) in row[..length].iter_mut().enumerate() {
                    *value = table[distance(window, query, key) * stride + head];
                }
            }
        }
        let index = call.windows.index.cpu::<u32>();
        Ok(Self { sizes, rows: call.windows.rows(), bias, index })
    }

    fn entries(&self, window: usize) -> &'a [u32] {
        &self.index[window * self.sizes.keys..][..self.sizes.keys]
    }

    /// What is added to a window's scores: bias, and in `memory` bias and mask where the window has several regions.
    fn added<'b>(&'b self, head: usize, entries: &[u32], memory: &'b mut [f32]) -> &'b [f32] {
        let n = self.sizes.scores();
        let bias = &self.bias[head * n..][..n];
        let region = |e: u32| e >> ROW_BITS;
        if entries.iter().all(|e| region(*e) == region(entries[0])) {
            return bias;
        }
        let columns = self.sizes.columns();
        let rows = memory.chunks_exact_mut(columns).zip(bias.chunks_exact(columns));
        for ((row, bias), key) in rows.zip(entries) {
            for ((value, bias), query) in row.iter_mut().zip(bias).zip(entries) {
                *value = bias + if region(*query) == region(*key) { 0.0 } else { MASKED };
            }
            row[entries.len()..].fill(0.0);
        }
        memory
    }
}

fn row(entry: u32) -> usize {
    (entry & ((1 << ROW_BITS) - 1)) as usize
}

pub(super) fn forward(call: &Call) -> Result<()> {
    call.say_flops(2);
    let (rx, ro) = (call.qkv.rows("window_attention")?, call.out.rows("window_attention")?);
    let g = Geometry::new(call)?;
    let sizes = g.sizes;
    let (Sizes { keys: t, d, .. }, w, width) = (sizes, sizes.width(), call.heads * call.head_dim);
    let qkv = call.qkv.cpu::<f32>();
    let out = SyncPtr(call.out.cpu_mut::<f32>().as_mut_ptr());
    let lse = SyncPtr(call.saved.cpu_mut::<f32>().as_mut_ptr());
    let (heads, scale) = (call.heads, call.scale);
    let arch = Arch::get();
    (0..call.windows.count() * heads).into_par_iter().for_each(|task| {
        let (entries, head) = (g.entries(task / heads), task % heads);
        with_scratch(4 * t * w + sizes.columns() + sizes.scores() + sizes.forward(), |mut scratch| {
            let [q, k, v, result] = [0; 4].map(|_| take(&mut scratch, t * w));
            let level = take(&mut scratch, sizes.columns());
            let masked = take(&mut scratch, sizes.scores());
            for (part, to) in [&mut *q, &mut *k, &mut *v].into_iter().enumerate() {
                let from = Head { data: qkv, rows: rx, column: part * width + head * d, d };
                from.gather(to, entries.iter().map(|e| row(*e)));
            }
            let bias = Some(g.added(head, entries, masked));
            arch.dispatch(Forward { sizes, scale, q, k, v, bias, out: result, lse: level, scratch });
            for ((values, level), &entry) in result.chunks_exact(w).zip(level).zip(entries) {
                if row(entry) < g.rows {
                    // SAFETY: every row and head is in one task.
                    unsafe {
                        out.slice(row(entry) * ro.stride + head * d, d).copy_from_slice(&values[..d]);
                        lse.slice(head * g.rows + row(entry), 1)[0] = *level;
                    }
                }
            }
        });
    });
    Ok(())
}

/// What a task sums over its windows.
struct Sums {
    /// dS `[keys, columns]`.
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
    call.say_flops(5);
    let g = Geometry::new(call)?;
    let (d, width) = (call.head_dim, call.heads * call.head_dim);
    let rg = dqkv.rows("window_attention")?;
    let gradient = SyncPtr(dqkv.cpu_mut::<f32>().as_mut_ptr());
    let count = call.windows.count();
    let per_task = WINDOWS.max(count.div_ceil(TASKS));
    let tasks = count.div_ceil(per_task);
    let pass = Pass::new(call, &g, dout)?;
    // tasks are cut by size and added in order, so the sums do not depend on the number of threads
    let parts: Vec<Sums> = (0..tasks * call.heads)
        .into_par_iter()
        .map(|task| {
            let (head, first) = (task / tasks, task % tasks * per_task);
            let mut sums = Sums { ds: vec![0.0; g.sizes.scores()], padding: vec![0.0; 2 * d] };
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
    dbias.map_or(Ok(()), |target| fold_bias(call.windows.window(), g.sizes, &heads, &target))
}

fn fold_bias(window: usize, sizes: Sizes, heads: &[Sums], target: &Target) -> Result<()> {
    let rows = target.tensor.rows("window_attention")?;
    let out = target.tensor.cpu_mut::<f32>();
    for (head, Sums { ds, .. }) in heads.iter().enumerate() {
        let mut folded = vec![0.0; rows.rows];
        for (key, row) in ds.chunks_exact(sizes.columns()).enumerate() {
            for (query, value) in row[..sizes.queries].iter().enumerate() {
                folded[distance(window, query, key)] += value;
            }
        }
        for (r, value) in folded.into_iter().enumerate() {
            let to = &mut out[r * rows.stride + head];
            *to = value + if target.accumulate { *to } else { 0.0 };
        }
    }
    Ok(())
}

/// What the backward pass of a window and head reads.
struct Pass<'a> {
    arch: Arch,
    g: &'a Geometry<'a>,
    scale: f32,
    /// Columns of head 0.
    parts: [Head<'a>; 3],
    out: Head<'a>,
    dout: Head<'a>,
    lse: &'a [f32],
}

impl<'a> Pass<'a> {
    fn new(call: &'a Call, g: &'a Geometry, dout: &'a Tensor) -> Result<Self> {
        let d = call.head_dim;
        let head = |tensor: &'a Tensor, column: usize| -> Result<Head<'a>> {
            Ok(Head { data: tensor.cpu(), rows: tensor.rows("window_attention")?, column, d })
        };
        let width = call.heads * d;
        let parts = [head(&call.qkv, 0)?, head(&call.qkv, width)?, head(&call.qkv, 2 * width)?];
        let (out, dout) = (head(&call.out, 0)?, head(dout, 0)?);
        Ok(Self { arch: Arch::get(), g, scale: call.scale, parts, out, dout, lse: call.saved.cpu() })
    }

    /// Writes (=) the gradients of a window's rows to `to`, whose rows are `stride` apart, and adds to the sums.
    fn window(&self, window: usize, head: usize, to: &SyncPtr<f32>, stride: usize, sums: &mut Sums) {
        let (g, entries, sizes) = (self.g, self.g.entries(window), self.g.sizes);
        let (Sizes { keys: t, d, .. }, w, columns) = (sizes, sizes.width(), sizes.columns());
        let at = |from: Head<'a>| Head { column: from.column + head * d, ..from };
        with_scratch(7 * t * w + 2 * columns + sizes.scores() + sizes.backward(), |mut scratch| {
            let [q, k, v, dy, dq, dk, dv] = [0; 7].map(|_| take(&mut scratch, t * w));
            let [level, delta] = [0; 2].map(|_| take(&mut scratch, columns));
            let masked = take(&mut scratch, sizes.scores());
            let [x, y, z] = self.parts;
            for (from, to) in [(x, &mut *q), (y, &mut *k), (z, &mut *v), (self.dout, &mut *dy)] {
                at(from).gather(to, entries.iter().map(|e| row(*e)));
            }
            // padded queries have no cotangent
            level.fill(f32::INFINITY);
            delta.fill(0.0);
            for (i, row) in entries.iter().map(|e| row(*e)).enumerate().filter(|(_, row)| *row < g.rows) {
                let (y, dy) = (at(self.out).row(row), at(self.dout).row(row));
                level[i] = self.lse[head * g.rows + row];
                delta[i] = self.arch.run(
                    #[inline(always)]
                    |_| math::sum(d, |c| y[c] * dy[c]),
                );
            }
            self.arch.dispatch(Backward {
                sizes,
                scale: self.scale,
                q,
                k,
                v,
                dout: dy,
                bias: Some(g.added(head, entries, masked)),
                lse: level,
                delta,
                dq: &mut *dq,
                dk: &mut *dk,
                dv: &mut *dv,
                accumulate: false,
                sum: Some(&mut sums.ds),
                scratch,
            });
            for (part, values) in [dq, dk, dv].into_iter().enumerate() {
                for (values, &entry) in values.chunks_exact(w).zip(entries) {
                    if row(entry) < g.rows {
                        let at = row(entry) * stride + self.parts[part].column + head * d;
                        // SAFETY: every row and head is in one task.
                        unsafe { to.slice(at, d) }.copy_from_slice(&values[..d]);
                    } else if part > 0 {
                        let padding = &mut sums.padding[(part - 1) * d..][..d];
                        padding.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
                    }
                }
            }
        });
    }
}

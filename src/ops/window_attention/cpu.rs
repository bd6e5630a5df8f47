//! Window attention on the CPU device: a window and head at a time, its rows gathered into scratch that stays
//! in the first-level caches; what is computed there is attention's.

use rayon::prelude::*;

use super::call::Call;
use super::windows::ROW_BITS;
use crate::autograd::Target;
use crate::cpu::{Arch, NOWHERE, Places, RowsMut, Scattered, math, par_parts};
use crate::error::Result;
use crate::ops::attention::head::{Backward, Forward, Head, Sizes, take, with_scratch};
use crate::tensor::{CpuRead, Tensor};

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
    index: CpuRead<'a, u32>,
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
        let table = call.bias.cpu_rows::<f32>("window_attention")?;
        let mut bias = vec![0.0; call.heads * sizes.scores()];
        for (head, bias) in bias.chunks_exact_mut(sizes.scores()).enumerate() {
            for (key, row) in bias.chunks_exact_mut(sizes.columns()).enumerate() {
                for (query, value) in row[..length].iter_mut().enumerate() {
                    *value = table.row(distance(window, query, key))[head];
                }
            }
        }
        let index = call.windows.index.cpu_read::<u32>("window_attention")?;
        Ok(Self { sizes, rows: call.windows.rows(), bias, index })
    }

    fn entries(&self, window: usize) -> &[u32] {
        &self.index[window * self.sizes.keys..][..self.sizes.keys]
    }

    /// The row of each entry, and nowhere for padding.
    fn places(&self) -> Result<Places<'static>> {
        let place = |e: &u32| if row(*e) < self.rows { row(*e) as u32 } else { NOWHERE };
        Places::new("window_attention", self.index.iter().map(place).collect::<Vec<_>>(), self.rows)
    }

    /// What is added to a window's scores: bias, and in `memory` bias and mask where the window has several
    /// regions.
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
    let rx = call.qkv.rows("window_attention")?;
    let g = Geometry::new(call)?;
    let sizes = g.sizes;
    let (Sizes { keys: t, d, .. }, w, width) = (sizes, sizes.width(), call.heads * call.head_dim);
    let qkv = &*call.qkv.cpu_read::<f32>("window_attention")?;
    let (heads, scale) = (call.heads, call.scale);
    let (mut out, mut saved) =
        (call.out.cpu_rows_mut::<f32>("window_attention")?, call.saved.cpu_write::<f32>("window_attention")?);
    // a task a window and head; on this device the logarithms are [rows, heads]
    let places = g.places()?;
    let out = out.rows_mut().scattered(&places).tiles(t, d);
    let lse = RowsMut::dense(&mut saved, heads).scattered(&places).tiles(t, 1);
    let arch = Arch::get();
    par_parts((out, lse)).for_each(|(task, (mut out, mut lse))| {
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
            for (i, (values, level)) in result.chunks_exact(w).zip(level).enumerate() {
                if let (Some(out), Some(lse)) = (out.row(i), lse.row(i)) {
                    out.copy_from_slice(&values[..d]);
                    lse[0] = *level;
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
    let (d, heads) = (call.head_dim, call.heads);
    let width = heads * d;
    let count = call.windows.count();
    let per_task = WINDOWS.max(count.div_ceil(TASKS));
    let lse = &*call.saved.cpu_read::<f32>("window_attention")?;
    let (qkv, out) =
        (&*call.qkv.cpu_read::<f32>("window_attention")?, &*call.out.cpu_read::<f32>("window_attention")?);
    let rows = [&call.qkv, &call.out, dout].map(|t| t.rows("window_attention"));
    let (dout, [rx, ro, rd]) = (&*dout.cpu_read::<f32>("window_attention")?, rows);
    let (rx, ro, rd) = (rx?, ro?, rd?);
    let head = |data, rows, column| Head { data, rows, column, d };
    let pass = Pass {
        arch: Arch::get(),
        g: &g,
        heads,
        scale: call.scale,
        parts: [0, 1, 2].map(|part| head(qkv, rx, part * width)),
        out: head(out, ro, 0),
        dout: head(dout, rd, 0),
        lse,
    };
    // a task some windows and a head; the row of padding, which none writes, comes last
    let (mut dqkv, places) = (dqkv.cpu_rows_mut::<f32>("window_attention")?, g.places()?);
    let (maps, mut last) = dqkv.rows_mut().split_rows_at(g.rows);
    let (dq, rest) = maps.split_cols_at(width);
    let (dk, dv) = rest.split_cols_at(width);
    let [dq, dk, dv] = [dq, dk, dv].map(|part| part.scattered(&places).tiles(per_task * g.sizes.keys, d));
    // tasks are cut by size and added in order, so the sums do not depend on the number of threads
    let parts: Vec<Sums> = par_parts((dq, dk, dv))
        .map(|(task, (dq, dk, dv))| {
            let (head, first) = (task % heads, task / heads * per_task);
            let mut sums = Sums { ds: vec![0.0; g.sizes.scores()], padding: vec![0.0; 2 * d] };
            let mut to = [dq, dk, dv];
            for window in first..(first + per_task).min(count) {
                pass.window(window, head, &mut to, (window - first) * g.sizes.keys, &mut sums);
            }
            sums
        })
        .collect();
    let mut by_head: Vec<Sums> = Vec::with_capacity(heads);
    for (i, part) in parts.into_iter().enumerate() {
        match by_head.get_mut(i % heads) {
            Some(sums) => sums.add(&part),
            None => by_head.push(part),
        }
    }
    if call.windows.is_padded() {
        let last = last.row(0);
        // its q has no gradient, since padded queries are dropped
        last[..width].fill(0.0);
        for (head, sums) in by_head.iter().enumerate() {
            for (part, values) in sums.padding.chunks_exact(d).enumerate() {
                last[(1 + part) * width + head * d..][..d].copy_from_slice(values);
            }
        }
    }
    dbias.map_or(Ok(()), |target| fold_bias(call.windows.window(), g.sizes, &by_head, &target))
}

fn fold_bias(window: usize, sizes: Sizes, heads: &[Sums], target: &Target) -> Result<()> {
    let rows = target.tensor.rows("window_attention")?;
    let mut out = target.tensor.cpu_rows_mut::<f32>("window_attention")?;
    let mut out = out.rows_mut();
    for (head, Sums { ds, .. }) in heads.iter().enumerate() {
        let mut folded = vec![0.0; rows.rows];
        for (key, row) in ds.chunks_exact(sizes.columns()).enumerate() {
            for (query, value) in row[..sizes.queries].iter().enumerate() {
                folded[distance(window, query, key)] += value;
            }
        }
        for (r, value) in folded.into_iter().enumerate() {
            let to = &mut out.row(r)[head];
            *to = value + if target.accumulate { *to } else { 0.0 };
        }
    }
    Ok(())
}

/// What the backward pass of a window and head reads.
struct Pass<'a> {
    arch: Arch,
    g: &'a Geometry<'a>,
    heads: usize,
    scale: f32,
    /// Columns of head 0.
    parts: [Head<'a>; 3],
    out: Head<'a>,
    dout: Head<'a>,
    lse: &'a [f32],
}

impl<'a> Pass<'a> {
    /// Writes (=) the gradients of a window's rows to those of q, k and v from `first` on, and adds to the
    /// sums.
    fn window(
        &self,
        window: usize,
        head: usize,
        to: &mut [Scattered<f32>; 3],
        first: usize,
        sums: &mut Sums,
    ) {
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
                level[i] = self.lse[row * self.heads + head];
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
            for (part, (values, to)) in [dq, dk, dv].into_iter().zip(to).enumerate() {
                for (i, values) in values.chunks_exact(w).enumerate() {
                    if let Some(to) = to.row(first + i) {
                        to.copy_from_slice(&values[..d]);
                    } else if part > 0 {
                        let padding = &mut sums.padding[(part - 1) * d..][..d];
                        padding.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
                    }
                }
            }
        });
    }
}

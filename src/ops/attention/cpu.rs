//! Attention on the CPU device: a task a sequence and head, a block of queries at a time, products by `gemm`.

use std::cell::RefCell;

use rayon::prelude::*;

use super::Call;
use crate::cpu::{SyncPtr, math};
use crate::error::Result;
use crate::tensor::{Rows, Tensor};

/// Scores that a tile holds at most; it should stay in the second-level cache.
const TILE: usize = 64 * 1024;
/// Queries in a block, at least and at most.
const BLOCK: (usize, usize) = (16, 256);

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `n` floats of undefined contents that stay with the thread.
pub(in crate::ops) fn with_scratch(n: usize, f: impl FnOnce(&mut [f32])) {
    let mut scratch = SCRATCH.take();
    if scratch.len() < n {
        scratch.resize(n, 0.0);
    }
    f(&mut scratch[..n]);
    SCRATCH.set(scratch);
}

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

/// Queries in a block of a sequence of `length`: blocks are as even as can be.
fn block(length: usize) -> usize {
    let most = (TILE / length).clamp(BLOCK.0, BLOCK.1);
    length.div_ceil(length.div_ceil(most))
}

/// A matrix in memory: first element, distance of rows, distance of columns.
#[derive(Clone, Copy)]
pub(in crate::ops) struct View(pub *const f32, pub usize, pub usize);

impl View {
    pub fn t(self) -> Self {
        Self(self.0, self.2, self.1)
    }
}

/// The element of `memory` at `at`, which is in bounds.
fn element(memory: &SyncPtr<f32>, at: usize) -> *mut f32 {
    memory.0.wrapping_add(at)
}

/// C = (or C +=) α·A·B with C of dense columns.
///
/// # Safety
/// The views lie in memory that may be read, C in memory that nothing else touches.
pub(in crate::ops) unsafe fn product(
    (m, n, k): (usize, usize, usize),
    (c, c_rows): (*mut f32, usize),
    accumulate: bool,
    alpha: f32,
    a: View,
    b: View,
) {
    // SAFETY: the caller's.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            1,
            c_rows as isize,
            accumulate,
            a.0,
            a.2 as isize,
            a.1 as isize,
            b.0,
            b.2 as isize,
            b.1 as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Turns a row of scores into its softmax and gives its log-sum-exp.
pub(in crate::ops) fn normalise(row: &mut [f32]) -> f32 {
    let most = math::max(row.len(), |j| row[j]);
    row.iter_mut().for_each(|s| *s = math::exp(*s - most));
    let total = math::sum(row.len(), |j| row[j]);
    let share = 1.0 / total;
    row.iter_mut().for_each(|s| *s *= share);
    most + total.ln()
}

pub(super) fn forward(call: &Call) -> Result<()> {
    let (rx, ro) = (call.qkv.rows("attention")?, call.out.rows("attention")?);
    let (d, width, scale) = (call.head_dim, call.heads * call.head_dim, call.scale);
    let qkv = call.qkv.cpu::<f32>();
    let out = SyncPtr(call.out.cpu_mut::<f32>().as_mut_ptr());
    let lse = SyncPtr(call.lse.cpu_mut::<f32>().as_mut_ptr());
    let pieces: Vec<(Task, usize)> = tasks(call)
        .into_iter()
        .flat_map(|t| (0..t.length).step_by(block(t.length)).map(move |start| (t, start)))
        .collect();
    pieces.into_par_iter().for_each(|(task, start)| {
        let t = task.length;
        let n = block(t).min(t - start);
        let at = |part: usize, row: usize| {
            View(&qkv[(task.first + row) * rx.stride + part * width + task.head * d], rx.stride, 1)
        };
        with_scratch(n * t, |scores| {
            let to = (task.first + start) * ro.stride + task.head * d;
            // SAFETY: the views are in bounds; each task writes its own rows and columns.
            let saved = unsafe {
                product((n, t, d), (scores.as_mut_ptr(), t), false, scale, at(0, start), at(1, 0).t());
                lse.slice(task.head * rx.rows + task.first + start, n)
            };
            for (row, saved) in scores.chunks_exact_mut(t).zip(&mut *saved) {
                *saved = normalise(row);
            }
            // SAFETY: as above.
            unsafe {
                let scores = View(scores.as_ptr(), t, 1);
                product((n, d, t), (element(&out, to), ro.stride), false, 1.0, scores, at(2, 0));
            }
        });
    });
    Ok(())
}

pub(super) fn backward(call: &Call, dout: &Tensor, dqkv: &Tensor, accumulate: bool) -> Result<()> {
    let rx = call.qkv.rows("attention")?;
    let (ro, rd, rg) = (call.out.rows("attention")?, dout.rows("attention")?, dqkv.rows("attention")?);
    let width = call.heads * call.head_dim;
    let (qkv, out, lse) = (call.qkv.cpu::<f32>(), call.out.cpu::<f32>(), call.lse.cpu::<f32>());
    let dout = dout.cpu::<f32>();
    let gradient = SyncPtr(dqkv.cpu_mut::<f32>().as_mut_ptr());
    let view = |data: &[f32], rows: Rows, row: usize, column: usize| {
        View(&data[row * rows.stride + column], rows.stride, 1)
    };
    let (d, scale) = (call.head_dim, call.scale);
    tasks(call).into_par_iter().for_each(|task| {
        let Task { first, length: t, head } = task;
        let n = block(t);
        let column = |part: usize| part * width + head * d;
        // each task writes its own rows and columns
        let to = |part: usize, row: usize| {
            (element(&gradient, (first + row) * rg.stride + column(part)), rg.stride)
        };
        let part = |part: usize, row: usize| view(qkv, rx, first + row, column(part));
        with_scratch(2 * n * t, |scratch| {
            let (p, ds) = scratch.split_at_mut(n * t);
            for start in (0..t).step_by(n) {
                let n = n.min(t - start);
                let cotangent = view(dout, rd, first + start, head * d);
                // SAFETY: the views are in bounds.
                unsafe {
                    product((n, t, d), (p.as_mut_ptr(), t), false, scale, part(0, start), part(1, 0).t());
                    product((n, t, d), (ds.as_mut_ptr(), t), false, 1.0, cotangent, part(2, 0).t());
                }
                for (i, (p, ds)) in p.chunks_exact_mut(t).zip(ds.chunks_exact_mut(t)).take(n).enumerate() {
                    let row = first + start + i;
                    let (y, dy) =
                        (&out[row * ro.stride + head * d..][..d], &dout[row * rd.stride + head * d..][..d]);
                    let delta = math::sum(d, |c| y[c] * dy[c]);
                    let lse = lse[head * rx.rows + row];
                    for (p, ds) in p.iter_mut().zip(ds) {
                        *p = math::exp(*p - lse);
                        *ds = *p * (*ds - delta);
                    }
                }
                let (p, ds) = (View(p.as_ptr(), t, 1), View(ds.as_ptr(), t, 1));
                let add = accumulate || start > 0;
                // SAFETY: as above.
                unsafe {
                    product((n, d, t), to(0, start), accumulate, scale, ds, part(1, 0));
                    product((t, d, n), to(1, 0), add, scale, ds.t(), part(0, start));
                    product((t, d, n), to(2, 0), add, 1.0, p.t(), cotangent);
                }
            }
        });
    });
    Ok(())
}

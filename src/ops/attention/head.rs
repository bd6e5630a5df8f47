//! One head on the CPU device: a block of queries against all keys of a sequence, in scratch memory. What
//! attention over sequences and over windows share.
//!
//! Scores stand transposed, a key a row and a query a column. So a softmax runs down the columns, all queries
//! of a vector at once, and products read rows as they are; q alone, and do, are transposed. Rows have
//! [`Sizes::width`] elements and scores [`Sizes::columns`], what is padded being zero.

use std::cell::RefCell;

use pulp::{Simd, WithSimd};

use crate::cpu::simd::{LANES, Product, exp, load, padded, store};
use crate::tensor::Rows;

/// Weights whose sum is kept apart before it is added to the others: long sums in one place round more.
const RUN: usize = 16;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `n` floats of undefined contents that stay with the thread, the first on a cache line's
/// start.
pub(in crate::ops) fn with_scratch(n: usize, f: impl FnOnce(&mut [f32])) {
    let mut scratch = SCRATCH.take();
    if scratch.len() < n + LANES {
        scratch.resize(n + LANES, 0.0);
    }
    let start = scratch.as_ptr().align_offset(4 * LANES).min(LANES);
    f(&mut scratch[start..start + n]);
    SCRATCH.set(scratch);
}

/// Takes `n` floats off the front.
pub(in crate::ops) fn take<'a>(scratch: &mut &'a mut [f32], n: usize) -> &'a mut [f32] {
    scratch.split_off_mut(..n).expect("scratch was asked for by the same sizes")
}

/// How large the matrices are.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Sizes {
    pub keys: usize,
    pub queries: usize,
    /// Elements of a head.
    pub d: usize,
}

impl Sizes {
    /// Elements of a row of q, k, v and what is like them.
    pub fn width(&self) -> usize {
        padded(self.d)
    }

    /// Elements of a row of scores.
    pub fn columns(&self) -> usize {
        padded(self.queries)
    }

    /// Elements of a matrix of scores.
    pub fn scores(&self) -> usize {
        self.keys * self.columns()
    }

    /// Scratch that [`Forward`] needs beside its operands.
    pub fn forward(&self) -> usize {
        self.d * self.columns() + self.scores()
    }

    /// Scratch that [`Backward`] needs beside its operands.
    pub fn backward(&self) -> usize {
        2 * self.forward()
    }
}

/// Columns `column..column + d` of a matrix.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Head<'a> {
    pub data: &'a [f32],
    pub rows: Rows,
    pub column: usize,
    pub d: usize,
}

impl<'a> Head<'a> {
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.rows.stride + self.column..][..self.d]
    }

    /// Copies rows into padded ones; zeros for one that the matrix does not have.
    pub fn gather(&self, to: &mut [f32], rows: impl Iterator<Item = usize>) {
        for (to, row) in to.chunks_exact_mut(padded(self.d)).zip(rows) {
            let kept = if row < self.rows.rows { self.d } else { 0 };
            if kept > 0 {
                to[..kept].copy_from_slice(self.row(row));
            }
            to[kept..].fill(0.0);
        }
    }
}

/// The columns of the first `queries` rows of `from` as rows of `to`.
#[inline(always)]
fn transpose(to: &mut [f32], from: &[f32], sizes: Sizes) {
    for (c, to) in to.chunks_exact_mut(sizes.columns()).enumerate() {
        let (kept, rest) = to.split_at_mut(sizes.queries);
        kept.iter_mut().zip(from[c..].iter().step_by(sizes.width())).for_each(|(to, x)| *to = *x);
        rest.fill(0.0);
    }
}

/// out = softmax(scale·q·kᵀ + bias)·v
pub(in crate::ops) struct Forward<'a> {
    pub sizes: Sizes,
    pub scale: f32,
    /// `[queries, width]`
    pub q: &'a [f32],
    /// `[keys, width]`
    pub k: &'a [f32],
    /// `[keys, width]`
    pub v: &'a [f32],
    /// `[keys, columns]`: what is added to scores.
    pub bias: Option<&'a [f32]>,
    /// `[queries, width]`, written.
    pub out: &'a mut [f32],
    /// `[columns]`: the log-sum-exp of the scores, written.
    pub lse: &'a mut [f32],
    /// [`Sizes::forward`] floats.
    pub scratch: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes, q, k, v, bias, out, lse, mut scratch, .. } = self;
        let Sizes { keys, queries, d } = sizes;
        let (width, columns) = (sizes.width(), sizes.columns());
        let qt = take(&mut scratch, d * columns);
        let scores = take(&mut scratch, sizes.scores());
        transpose(qt, q, sizes);
        simd.vectorize(Product {
            size: (keys, columns, d),
            a: (k, width, 1),
            b: (qt, columns),
            c: (&mut *scores, columns),
            alpha: self.scale,
            accumulate: false,
        });
        // q is not needed any more
        let totals = &mut qt[..columns];
        for column in (0..columns).step_by(S::F32_LANES) {
            let mut most = simd.splat_f32s(f32::NEG_INFINITY);
            for key in 0..keys {
                let at = key * columns + column;
                let mut score = load(simd, &scores[at..]);
                if let Some(bias) = bias {
                    score = simd.add_f32s(score, load(simd, &bias[at..]));
                    store(simd, &mut scores[at..], score);
                }
                most = simd.max_f32s(most, score);
            }
            let mut total = simd.splat_f32s(0.0);
            for start in (0..keys).step_by(RUN) {
                let mut part = simd.splat_f32s(0.0);
                for key in start..(start + RUN).min(keys) {
                    let to = &mut scores[key * columns + column..];
                    let weight = exp(simd, simd.sub_f32s(load(simd, to), most));
                    store(simd, to, weight);
                    part = simd.add_f32s(part, weight);
                }
                total = simd.add_f32s(total, part);
            }
            store(simd, &mut lse[column..], most);
            store(simd, &mut totals[column..], total);
        }
        lse.iter_mut().zip(&*totals).for_each(|(lse, total)| *lse += total.ln());
        simd.vectorize(Product {
            size: (queries, width, keys),
            a: (scores, 1, columns),
            b: (v, width),
            c: (&mut *out, width),
            alpha: 1.0,
            accumulate: false,
        });
        for (row, total) in out.chunks_exact_mut(width).zip(&*totals) {
            let share = 1.0 / total;
            row.iter_mut().for_each(|x| *x *= share);
        }
    }
}

/// The gradients of [`Forward`]: with P = exp(scores − lse) and dS = P∘(do·vᵀ − delta), dq = scale·dS·k,
/// dk = scale·dSᵀ·q and dv = Pᵀ·do.
pub(in crate::ops) struct Backward<'a> {
    pub sizes: Sizes,
    pub scale: f32,
    /// `[queries, width]`
    pub q: &'a [f32],
    /// `[keys, width]`
    pub k: &'a [f32],
    /// `[keys, width]`
    pub v: &'a [f32],
    /// `[queries, width]`
    pub dout: &'a [f32],
    /// `[keys, columns]`: what is added to scores.
    pub bias: Option<&'a [f32]>,
    /// `[columns]`: the saved log-sum-exp; ∞ for a query without a cotangent and for padding.
    pub lse: &'a [f32],
    /// `[columns]`: Σ do·out of each query.
    pub delta: &'a [f32],
    /// `[queries, width]`, written.
    pub dq: &'a mut [f32],
    /// `[keys, width]`, written, or added to where `accumulate`.
    pub dk: &'a mut [f32],
    /// As `dk`.
    pub dv: &'a mut [f32],
    pub accumulate: bool,
    /// `[keys, columns]`: dS is added to it.
    pub sum: Option<&'a mut [f32]>,
    /// [`Sizes::backward`] floats.
    pub scratch: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { sizes, scale, accumulate, mut sum, mut scratch, .. } = self;
        let Sizes { keys, queries, d } = sizes;
        let (width, columns) = (sizes.width(), sizes.columns());
        let qt = take(&mut scratch, d * columns);
        let dt = take(&mut scratch, d * columns);
        let p = take(&mut scratch, sizes.scores());
        let ds = take(&mut scratch, sizes.scores());
        transpose(qt, self.q, sizes);
        transpose(dt, self.dout, sizes);
        for (rows, columns_of, c, alpha) in [(self.k, &*qt, &mut *p, scale), (self.v, &*dt, &mut *ds, 1.0)] {
            simd.vectorize(Product {
                size: (keys, columns, d),
                a: (rows, width, 1),
                b: (columns_of, columns),
                c: (c, columns),
                alpha,
                accumulate: false,
            });
        }
        for key in 0..keys {
            for column in (0..columns).step_by(S::F32_LANES) {
                let at = key * columns + column;
                let mut score = load(simd, &p[at..]);
                if let Some(bias) = self.bias {
                    score = simd.add_f32s(score, load(simd, &bias[at..]));
                }
                let weight = exp(simd, simd.sub_f32s(score, load(simd, &self.lse[column..])));
                let slope = simd.sub_f32s(load(simd, &ds[at..]), load(simd, &self.delta[column..]));
                let slope = simd.mul_f32s(weight, slope);
                store(simd, &mut p[at..], weight);
                store(simd, &mut ds[at..], slope);
                if let Some(sum) = &mut sum {
                    let total = simd.add_f32s(load(simd, &sum[at..]), slope);
                    store(simd, &mut sum[at..], total);
                }
            }
        }
        simd.vectorize(Product {
            size: (queries, width, keys),
            a: (ds, 1, columns),
            b: (self.k, width),
            c: (self.dq, width),
            alpha: scale,
            accumulate: false,
        });
        for (scores, rows, c, alpha) in [(&*ds, self.q, self.dk, scale), (&*p, self.dout, self.dv, 1.0)] {
            simd.vectorize(Product {
                size: (keys, width, queries),
                a: (scores, columns, 1),
                b: (rows, width),
                c: (c, width),
                alpha,
                accumulate,
            });
        }
    }
}

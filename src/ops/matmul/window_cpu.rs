//! Windows on the CPU: the rows of a piece of the matrix are put together in a buffer of bounded size a thread, and
//! multiplied by the `gemm` crate. Pieces are cut by size alone.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::geometry::Geometry;
use crate::cpu::SyncPtr;
use crate::error::Result;
use crate::tensor::Tensor;

/// Elements of a piece of the matrix.
const PIECE: usize = 512 * 1024;
/// Windows whose weight gradient is summed at a stretch; partial sums of more are added in order.
const STRETCH: usize = 8192;

thread_local! {
    /// The matrix' piece, and the product's where it cannot go where it belongs at once.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

fn grown(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

impl Geometry {
    /// Writes the channels of `taps` at the windows `places`, a window a row.
    fn rows(&self, x: &[f32], places: Range<usize>, taps: Range<usize>, out: &mut [f32]) {
        let (c, [image_far, row_far, pixel_far]) = (self.channels, self.map_strides);
        let step = self.window.step as isize;
        for (place, row) in places.zip(out.chunks_exact_mut(taps.len() * c)) {
            let (line, column) = (place / self.grid[1], place % self.grid[1]);
            let (image, line) = (line / self.grid[0], line % self.grid[0]);
            let top = line as isize * step + self.window.start[0];
            let left = column as isize * step + self.window.start[1];
            for (tap, to) in taps.clone().zip(row.chunks_exact_mut(c)) {
                let y = top + (tap / self.taps[1]) as isize;
                let x_at = left + (tap % self.taps[1]) as isize;
                let inside = |v: isize, size: usize| v >= 0 && (v as usize) < size;
                match inside(y, self.map[0]) && inside(x_at, self.map[1]) {
                    true => {
                        let from = image * image_far + y as usize * row_far + x_at as usize * pixel_far;
                        to.copy_from_slice(&x[from..from + c]);
                    }
                    false => to.fill(0.0),
                }
            }
        }
    }

    /// Where a window's row lies in the other map.
    fn place_at(&self, place: usize) -> usize {
        let (line, column) = (place / self.grid[1], place % self.grid[1]);
        let [image_far, row_far, place_far] = self.grid_strides;
        line / self.grid[0] * image_far + line % self.grid[0] * row_far + column * place_far
    }
}

/// A matrix in memory: pointer, distance of rows, distance of columns.
type Place<T> = (T, usize, usize);

/// c (+)= α·a·b for an (m, k) by (k, n) product on this thread.
///
/// # Safety
/// All in bounds, and c apart from a and b.
unsafe fn multiply(
    (m, n, k): (usize, usize, usize),
    (c, c_row, c_col): Place<*mut f32>,
    (a, a_row, a_col): Place<*const f32>,
    (b, b_row, b_col): Place<*const f32>,
    alpha: f32,
    accumulate: bool,
) {
    let [c_row, c_col, a_row, a_col, b_row, b_col] =
        [c_row, c_col, a_row, a_col, b_row, b_col].map(|stride| stride as isize);
    // SAFETY: the caller's.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c,
            c_col,
            c_row,
            accumulate,
            a,
            a_col,
            a_row,
            b,
            b_col,
            b_row,
            1.0f32,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

pub(super) fn product(
    g: &Geometry,
    x: &Tensor,
    w: &Tensor,
    y: &Tensor,
    alpha: f32,
    accumulate: bool,
) -> Result<()> {
    let taps = g.taps[0] * g.taps[1];
    let (k, n, all) = (taps * g.channels, g.outputs, g.places());
    let per_piece = (PIECE / k).clamp(32, 1024).min(all);
    let [far, across, w_row, w_col] = g.weight;
    // one product over all taps where their weights follow each other
    let dense = !g.window.reversed
        && (g.taps[1] == 1 || across == g.channels * w_row)
        && (g.taps[0] == 1 || far == g.taps[1] * g.channels * w_row);
    let order: Vec<usize> = match (dense, g.window.reversed) {
        (true, _) => vec![0],
        (false, true) => (0..taps).rev().collect(),
        (false, false) => (0..taps).collect(),
    };
    let depth = if dense { k } else { g.channels };
    let (x, w, out) = (x.cpu::<f32>(), w.cpu::<f32>(), SyncPtr(y.cpu_mut::<f32>().as_mut_ptr()));
    (0..all.div_ceil(per_piece)).into_par_iter().for_each(|piece| {
        let places = piece * per_piece..((piece + 1) * per_piece).min(all);
        let rows = places.len();
        SCRATCH.with_borrow_mut(|[matrix, result]| {
            let matrix = grown(matrix, rows * k);
            g.rows(x, places.clone(), 0..taps, matrix);
            // SAFETY: pieces are disjoint rows of y.
            let (to, row_far, add) = match g.even() {
                Some(far) => {
                    let span = (rows - 1) * far + n;
                    (unsafe { out.slice(g.place_at(places.start), span) }.as_mut_ptr(), far, accumulate)
                }
                None => (grown(result, rows * n).as_mut_ptr(), n, false),
            };
            for (i, tap) in order.iter().enumerate() {
                let weight = &w[tap / g.taps[1] * far + tap % g.taps[1] * across..];
                let left = matrix[i * g.channels..].as_ptr();
                // SAFETY: the layouts were checked against their storages; y overlaps neither x nor w.
                unsafe {
                    multiply(
                        (rows, n, depth),
                        (to, row_far, 1),
                        (left, k, 1),
                        (weight.as_ptr(), w_row, w_col),
                        alpha,
                        add || i > 0,
                    );
                }
            }
            if g.even().is_none() {
                for (place, from) in places.zip(result.chunks_exact(n)) {
                    // SAFETY: as above.
                    let to = unsafe { out.slice(g.place_at(place), n) };
                    match accumulate {
                        true => to.iter_mut().zip(from).for_each(|(o, v)| *o += v),
                        false => to.copy_from_slice(from),
                    }
                }
            }
        });
    });
    Ok(())
}

pub(super) fn gradient(g: &Geometry, x: &Tensor, dy: &Tensor, dw: &Tensor, alpha: f32) {
    let taps = g.taps[0] * g.taps[1];
    let (c, n, all) = (g.channels, g.outputs, g.places());
    let stretches = all.div_ceil(STRETCH);
    let per_piece = (PIECE / 2 / c).clamp(256, STRETCH);
    let (x, dy, sums) = (x.cpu::<f32>(), dy.cpu::<f32>(), dw.cpu_mut::<f32>());
    let mut partial = vec![0.0f32; (stretches - 1) * taps * c * n];
    let (first, others) = (SyncPtr(sums.as_mut_ptr()), SyncPtr(partial.as_mut_ptr()));
    (0..stretches * taps).into_par_iter().for_each(|job| {
        let (stretch, tap) = (job / taps, job % taps);
        // SAFETY: every job has a matrix of its own.
        let to = unsafe {
            match stretch {
                0 => first.slice(tap * c * n, c * n),
                _ => others.slice((job - taps) * c * n, c * n),
            }
        };
        let last = ((stretch + 1) * STRETCH).min(all);
        SCRATCH.with_borrow_mut(|[matrix, _]| {
            for start in (stretch * STRETCH..last).step_by(per_piece) {
                let places = start..(start + per_piece).min(last);
                let matrix = grown(matrix, places.len() * c);
                g.rows(x, places.clone(), tap..tap + 1, matrix);
                // SAFETY: all in bounds; the gradient is apart from both.
                unsafe {
                    multiply(
                        (c, n, places.len()),
                        (to.as_mut_ptr(), n, 1),
                        (matrix.as_ptr(), 1, c),
                        (dy[start * n..].as_ptr(), n, 1),
                        alpha,
                        start > stretch * STRETCH,
                    );
                }
            }
        });
    });
    for part in partial.chunks_exact(taps * c * n) {
        sums.iter_mut().zip(part).for_each(|(s, p)| *s += p);
    }
}

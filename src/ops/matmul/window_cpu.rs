//! Windows on the CPU: the rows of a piece of the matrix are put together in a buffer of bounded size a
//! thread, and multiplied there. Pieces are cut by size alone.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::block::{At, Block};
use super::geometry::Geometry;
use super::multiply::multiply_block;
use crate::cpu::{Outputs, RowsMut, even_cuts, par_parts};
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
}

/// A matrix in memory: from its first element on, distance of rows, distance of columns.
type Place<'a> = (&'a [f32], usize, usize);

/// c (+)= α·a·b on this thread; the sums have `k` terms.
fn multiply(
    k: usize,
    c: &mut RowsMut<f32>,
    (a, a_row, a_col): Place,
    (b, b_row, b_col): Place,
    alpha: f32,
    accumulate: bool,
    bf16: bool,
) {
    let (m, n) = (c.count(), c.cols());
    if m == 0 || n == 0 || k == 0 {
        assert!(accumulate || k > 0, "a sum of no terms");
        return;
    }
    assert!((m - 1) * a_row + (k - 1) * a_col < a.len() && (k - 1) * b_row + (n - 1) * b_col < b.len());
    let (c, c_row) = c.as_mut_ptr();
    let block = Block {
        m,
        n,
        k,
        c: At { first: c, row: c_row, col: 1 },
        a: At { first: a.as_ptr(), row: a_row, col: a_col },
        b: At { first: b.as_ptr(), row: b_row, col: b_col },
        alpha,
        accumulate,
        all_cores: false,
        bf16,
    };
    // SAFETY: the last elements of a and b are within their slices, and c is borrowed.
    unsafe { multiply_block(block) };
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
    let bf16 = y.device().bf16();
    let (x, w) = (&*x.cpu_read::<f32>("window_product")?, &*w.cpu_read::<f32>("window_product")?);
    // a piece of rows of the result, by the matrix of its windows
    let multiply_piece = |piece: usize, matrix: &mut Vec<f32>, to: &mut RowsMut<f32>, accumulate: bool| {
        let rows = to.count();
        let matrix = grown(matrix, rows * k);
        g.rows(x, piece * per_piece..piece * per_piece + rows, 0..taps, matrix);
        for (i, tap) in order.iter().enumerate() {
            let weight = &w[tap / g.taps[1] * far + tap % g.taps[1] * across..];
            let left = (&matrix[i * g.channels..], k, 1);
            multiply(depth, to, left, (weight, w_row, w_col), alpha, accumulate || i > 0, bf16);
        }
    };
    if y.layout().rows().is_some() {
        let mut y = y.cpu_rows_mut::<f32>("window_product")?;
        par_parts(y.rows_mut().tiles(even_cuts(all, per_piece), n)).for_each(|(piece, mut to)| {
            SCRATCH.with_borrow_mut(|[matrix, _]| multiply_piece(piece, matrix, &mut to, accumulate));
        });
        return Ok(());
    }
    let mut y = y.cpu_elements_mut::<f32>("window_product")?;
    par_parts(y.lines_mut().blocks(per_piece)).for_each(|(piece, mut to)| {
        SCRATCH.with_borrow_mut(|[matrix, result]| {
            let result = grown(result, to.parts() * n);
            multiply_piece(piece, matrix, &mut RowsMut::dense(result, n), false);
            for (i, from) in result.chunks_exact(n).enumerate() {
                let to = to.row(i);
                match accumulate {
                    true => to.iter_mut().zip(from).for_each(|(o, v)| *o += v),
                    false => to.copy_from_slice(from),
                }
            }
        });
    });
    Ok(())
}

pub(super) fn gradient(g: &Geometry, x: &Tensor, dy: &Tensor, dw: &Tensor, alpha: f32) -> Result<()> {
    let taps = g.taps[0] * g.taps[1];
    let (c, n, all) = (g.channels, g.outputs, g.places());
    let stretches = all.div_ceil(STRETCH);
    let per_piece = (PIECE / 2 / c).clamp(256, STRETCH);
    let bf16 = dw.device().bf16();
    let (x, dy) = (&*x.cpu_read::<f32>("window_gradient")?, &*dy.cpu_read::<f32>("window_gradient")?);
    let sums = &mut *dw.cpu_write::<f32>("window_gradient")?;
    let mut partial = vec![0.0f32; (stretches - 1) * taps * c * n];
    let jobs = sums.par_chunks_mut(c * n).chain(partial.par_chunks_mut(c * n));
    jobs.enumerate().for_each(|(job, to)| {
        let (stretch, tap) = (job / taps, job % taps);
        let mut to = RowsMut::dense(to, n);
        let last = ((stretch + 1) * STRETCH).min(all);
        SCRATCH.with_borrow_mut(|[matrix, _]| {
            for start in (stretch * STRETCH..last).step_by(per_piece) {
                let places = start..(start + per_piece).min(last);
                let (count, matrix) = (places.len(), grown(matrix, places.len() * c));
                g.rows(x, places, tap..tap + 1, matrix);
                let more = start > stretch * STRETCH;
                multiply(count, &mut to, (matrix, 1, c), (&dy[start * n..], n, 1), alpha, more, bf16);
            }
        });
    });
    for part in partial.chunks_exact(taps * c * n) {
        sums.iter_mut().zip(part).for_each(|(s, p)| *s += p);
    }
    Ok(())
}

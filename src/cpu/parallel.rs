//! Row loops over all cores. Work is cut into pieces by size alone, never by the number of threads, so results do
//! not depend on the machine.

use rayon::prelude::*;

use super::arch::Arch;
use super::math::Math;
use crate::layout::Rows;

/// Elements a piece of work should have at least, so that handing it out costs little.
const GRAIN: usize = 16 * 1024;

/// A pointer that may cross threads; the user writes disjoint elements.
pub(crate) struct SyncPtr<T>(pub *mut T);
// SAFETY: every use writes disjoint elements from different threads.
unsafe impl<T> Send for SyncPtr<T> {}
unsafe impl<T> Sync for SyncPtr<T> {}

impl<T> SyncPtr<T> {
    /// `len` elements from `at`.
    #[allow(clippy::mut_from_ref)]
    ///
    /// # Safety
    /// In bounds, and disjoint from every other slice alive.
    pub(crate) unsafe fn slice<'a>(&self, at: usize, len: usize) -> &'a mut [T] {
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}

/// Calls `f(math, row, out_row)` for every row of `out`, in parallel. `out` starts at the matrix' first element.
///
/// Here and below `f` is compiled for several processors ([`Arch`]): give it as a closure that says
/// `#[inline(always)]`.
pub(crate) fn for_rows<T: Send>(out: &mut [T], rows: Rows, f: impl Fn(Math, usize, &mut [T]) + Sync) {
    let pointer = SyncPtr(out.as_mut_ptr());
    pieces(
        rows.rows,
        rows.cols,
        #[inline(always)]
        |math, range| {
            for r in range {
                // SAFETY: rows are disjoint.
                f(math, r, unsafe { pointer.slice(r * rows.stride, rows.cols) });
            }
        },
    );
}

/// As [`for_rows`] with two outputs that have the same number of rows.
pub(crate) fn for_rows2<T: Send, U: Send>(
    (out, rows): (&mut [T], Rows),
    (other, other_rows): (&mut [U], Rows),
    f: impl Fn(Math, usize, &mut [T], &mut [U]) + Sync,
) {
    assert_eq!(rows.rows, other_rows.rows);
    let (a, b) = (SyncPtr(out.as_mut_ptr()), SyncPtr(other.as_mut_ptr()));
    pieces(
        rows.rows,
        rows.cols,
        #[inline(always)]
        |math, range| {
            for r in range {
                // SAFETY: rows are disjoint.
                let (row, other) = unsafe {
                    (a.slice(r * rows.stride, rows.cols), b.slice(r * other_rows.stride, other_rows.cols))
                };
                f(math, r, row, other);
            }
        },
    );
}

/// Splits `rows` rows of `cols` elements into pieces and runs them on all cores.
pub(crate) fn pieces(rows: usize, cols: usize, f: impl Fn(Math, std::ops::Range<usize>) + Sync) {
    let per_piece = GRAIN.div_ceil(cols.max(1)).max(1);
    let arch = Arch::get();
    let run = |range: std::ops::Range<usize>| {
        arch.run(
            #[inline(always)]
            |math| f(math, range),
        )
    };
    if rows <= per_piece {
        return run(0..rows);
    }
    (0..rows.div_ceil(per_piece)).into_par_iter().for_each(|piece| {
        run(piece * per_piece..((piece + 1) * per_piece).min(rows));
    });
}

/// Sums `width` columns over `rows` rows: `add(row, sums)` adds one row. Pieces of rows are summed on all cores and
/// then added in order.
pub(crate) fn reduce_columns(rows: usize, width: usize, add: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let per_piece = GRAIN.div_ceil(width.max(1)).max(8);
    let arch = Arch::get();
    let parts: Vec<Vec<f32>> = (0..rows.div_ceil(per_piece))
        .into_par_iter()
        .map(|piece| {
            let mut sums = vec![0.0; width];
            let range = piece * per_piece..((piece + 1) * per_piece).min(rows);
            arch.run(
                #[inline(always)]
                |_| {
                    for r in range {
                        add(r, &mut sums);
                    }
                },
            );
            sums
        })
        .collect();
    let mut total = vec![0.0; width];
    arch.run(
        #[inline(always)]
        |_| {
            for part in &parts {
                total.iter_mut().zip(part).for_each(|(t, p)| *t += p);
            }
        },
    );
    total
}

//! Row loops over all cores. Work is cut into pieces by size alone, never by the number of threads, so
//! results do not depend on the machine.

use rayon::prelude::*;

use super::arch::Arch;
use super::math::Math;
use super::outputs::Outputs;

/// Elements a piece of work should have at least, so that handing it out costs little. Miri, which looks for
/// races, gets several pieces of small matrices.
const GRAIN: usize = if cfg!(miri) { 64 } else { 16 * 1024 };

/// Calls `f(math, i, part)` for every part of `outputs`, say every row of a matrix, in parallel.
///
/// Here and below `f` is compiled for several processors ([`Arch`]): give it as a closure that says
/// `#[inline(always)]`.
#[inline(always)]
pub(crate) fn for_rows<O: Outputs>(outputs: O, f: impl Fn(Math, usize, O::Part) + Sync) {
    for_some_rows(outputs.parts(), outputs.width(), outputs, f);
}

/// As [`for_rows`] for the first `rows` parts, each the work of about `cols` elements: where outputs may not
/// be there, or what is read is more than what is written.
pub(crate) fn for_some_rows<O: Outputs>(
    rows: usize,
    cols: usize,
    outputs: O,
    f: impl Fn(Math, usize, O::Part) + Sync,
) {
    assert!(rows <= outputs.parts());
    pieces(
        rows,
        cols,
        #[inline(always)]
        |math, range| {
            for r in range {
                // SAFETY: in range, and every row is in one piece.
                f(math, r, unsafe { outputs.take(r) });
            }
        },
    );
}

/// Splits `rows` rows of `cols` elements into pieces and runs them on all cores.
fn pieces(rows: usize, cols: usize, f: impl Fn(Math, std::ops::Range<usize>) + Sync) {
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

/// Sums `width` columns over `rows` rows: `add(row, sums)` adds one row. Pieces of rows are summed on all
/// cores and then added in order.
pub(crate) fn reduce_columns(rows: usize, width: usize, add: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    reduce_columns_with(
        rows,
        width,
        (),
        #[inline(always)]
        |r, (), sums| add(r, sums),
    )
}

/// As [`reduce_columns`], where every row also has a part of `outputs` to write: `add(row, part, sums)`.
pub(crate) fn reduce_columns_with<O: Outputs>(
    rows: usize,
    width: usize,
    outputs: O,
    add: impl Fn(usize, O::Part, &mut [f32]) + Sync,
) -> Vec<f32> {
    assert!(rows <= outputs.parts());
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
                        // SAFETY: in range, and every row is in one piece.
                        add(r, unsafe { outputs.take(r) }, &mut sums);
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

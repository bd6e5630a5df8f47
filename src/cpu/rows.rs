//! Matrices that are lent for writing, and their parts: rows, tiles, rows in the order of an index.

use std::borrow::Cow;
use std::marker::PhantomData;

use super::outputs::Outputs;
use crate::error::{Error, Result};
use crate::layout::Rows;

/// A matrix that is lent for writing. Its rows have nothing to do with what lies between them, which may be
/// lent to someone else; there is no slice over several rows.
pub(crate) struct RowsMut<'a, T> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable borrow of its rows.
unsafe impl<T: Send> Send for RowsMut<'_, T> {}
// SAFETY: through a shared reference elements are reached by `Outputs::take` alone, whose caller keeps them
// apart.
unsafe impl<T: Send> Sync for RowsMut<'_, T> {}

impl<'a, T> RowsMut<'a, T> {
    /// The rows at `data`; their offset is disregarded.
    ///
    /// # Safety
    /// All rows are valid for reads and writes, are used by no one else for `'a`, and do not overlap.
    pub(crate) unsafe fn new(data: *mut T, rows: Rows) -> Self {
        Self { data, rows: rows.rows, cols: rows.cols, stride: rows.stride, lent: PhantomData }
    }

    /// A slice as rows of `cols` elements.
    pub(crate) fn dense(slice: &'a mut [T], cols: usize) -> Self {
        let rows = slice.len().checked_div(cols).unwrap_or(0);
        assert_eq!(rows * cols, slice.len(), "whole rows");
        Self { data: slice.as_mut_ptr(), rows, cols, stride: cols, lent: PhantomData }
    }

    /// Number of rows.
    pub(crate) fn count(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Row `r`.
    #[inline(always)]
    pub(crate) fn row(&mut self, r: usize) -> &mut [T] {
        assert!(r < self.rows);
        // SAFETY: in range, and borrowed from the whole.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(r * self.stride), self.cols) }
    }

    /// Its first element and the distance of rows, for products: these may write its elements while it is
    /// borrowed.
    pub(crate) fn as_mut_ptr(&mut self) -> (*mut T, usize) {
        (self.data, self.stride)
    }

    /// The part of some rows and columns.
    ///
    /// # Safety
    /// The rows and columns are in range, and parts of one matrix do not overlap while they live.
    #[inline(always)]
    unsafe fn part(&self, rows: (usize, usize), cols: (usize, usize)) -> Self {
        debug_assert!(rows.0 <= rows.1 && rows.1 <= self.rows && cols.0 <= cols.1 && cols.1 <= self.cols);
        Self {
            data: self.data.wrapping_add(rows.0 * self.stride + cols.0),
            rows: rows.1 - rows.0,
            cols: cols.1 - cols.0,
            stride: self.stride,
            lent: PhantomData,
        }
    }

    /// The rows before `at`, and the others.
    pub(crate) fn split_rows_at(self, at: usize) -> (Self, Self) {
        assert!(at <= self.rows);
        // SAFETY: in range, apart, and the whole is gone.
        unsafe { (self.part((0, at), (0, self.cols)), self.part((at, self.rows), (0, self.cols))) }
    }

    /// The columns before `at`, and the others.
    pub(crate) fn split_cols_at(self, at: usize) -> (Self, Self) {
        assert!(at <= self.cols);
        // SAFETY: in range, apart, and the whole is gone.
        unsafe { (self.part((0, self.rows), (0, at)), self.part((0, self.rows), (at, self.cols))) }
    }

    /// Tiles: the rows are cut at `cuts`, which begins with 0 and ends with their number, and the columns
    /// into parts of `width`. Tiles of the same rows follow each other.
    pub(crate) fn tiles(self, cuts: impl Into<Cow<'a, [usize]>>, width: usize) -> Tiles<'a, T> {
        let cuts = cuts.into();
        assert!(cuts.first() == Some(&0) && cuts.last() == Some(&self.rows) && cuts.is_sorted());
        assert!(width > 0 && self.cols.is_multiple_of(width));
        Tiles { whole: self, cuts, width }
    }

    /// The rows in the order of an index: part `i` is the row that `places` names for `i`.
    pub(crate) fn scattered(self, places: &'a Places) -> Scattered<'a, T> {
        assert!(places.rows <= self.rows);
        Scattered { whole: self, at: &places.at }
    }
}

/// The cuts of `n` rows into parts of `each`, the last of which may have fewer.
pub(crate) fn even_cuts(n: usize, each: usize) -> Vec<usize> {
    (0..n).step_by(each).chain([n]).collect()
}

// SAFETY: rows do not overlap.
unsafe impl<'a, T: Send> Outputs for RowsMut<'a, T> {
    type Part = &'a mut [T];

    fn parts(&self) -> usize {
        self.rows
    }

    fn width(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    unsafe fn take(&self, i: usize) -> &'a mut [T] {
        debug_assert!(i < self.rows);
        // SAFETY: in range, and no one else has this row by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.cols) }
    }
}

/// See [`RowsMut::tiles`].
pub(crate) struct Tiles<'a, T> {
    whole: RowsMut<'a, T>,
    cuts: Cow<'a, [usize]>,
    width: usize,
}

impl<T> Tiles<'_, T> {
    fn across(&self) -> usize {
        self.whole.cols / self.width
    }
}

// SAFETY: the cuts ascend, so tiles do not overlap.
unsafe impl<'a, T: Send> Outputs for Tiles<'a, T> {
    type Part = RowsMut<'a, T>;

    fn parts(&self) -> usize {
        (self.cuts.len() - 1) * self.across()
    }

    fn width(&self) -> usize {
        self.whole.rows / (self.cuts.len() - 1).max(1) * self.width
    }

    unsafe fn take(&self, i: usize) -> RowsMut<'a, T> {
        let (down, across) = (i / self.across(), i % self.across());
        let cols = (across * self.width, (across + 1) * self.width);
        // SAFETY: in range by the checks of `tiles`, and no one else has this tile by the caller's promise.
        unsafe { self.whole.part((self.cuts[down], self.cuts[down + 1]), cols) }
    }
}

/// Which row of a matrix each of many items is written to: none twice, and all within the matrix. The check
/// costs a bit a row and a look at every index, little beside the rows themselves, so it is made whenever an
/// operation scatters: an index is a tensor and may have changed since it was made.
pub(crate) struct Places<'a> {
    at: Cow<'a, [u32]>,
    rows: usize,
}

/// Marks an item that is written nowhere.
pub(crate) const NOWHERE: u32 = u32::MAX;

impl<'a> Places<'a> {
    /// Rows of a matrix of `rows`, or [`NOWHERE`]; an error of `op` where that does not hold.
    pub(crate) fn new(op: &'static str, at: impl Into<Cow<'a, [u32]>>, rows: usize) -> Result<Self> {
        let at = at.into();
        let mut seen = vec![0u64; rows.div_ceil(64)];
        for &row in at.iter().filter(|row| **row != NOWHERE) {
            let (word, bit) = (row as usize / 64, 1 << (row % 64));
            if row as usize >= rows {
                return Err(Error::shape(op, format!("row {row} of {rows} is named")));
            }
            if seen[word] & bit != 0 {
                return Err(Error::shape(op, format!("row {row} is named twice in what is written")));
            }
            seen[word] |= bit;
        }
        Ok(Self { at, rows })
    }
}

/// See [`RowsMut::scattered`].
pub(crate) struct Scattered<'a, T> {
    whole: RowsMut<'a, T>,
    /// Within the matrix, none twice.
    at: &'a [u32],
}

impl<'a, T> Scattered<'a, T> {
    /// The row of item `i`, where it has one.
    #[inline(always)]
    pub(crate) fn row(&mut self, i: usize) -> Option<&mut [T]> {
        match self.at[i] {
            NOWHERE => None,
            row => Some(self.whole.row(row as usize)),
        }
    }

    /// Tiles of `items` consecutive items and `width` columns; those of the same items follow each other.
    pub(crate) fn tiles(self, items: usize, width: usize) -> ScatteredTiles<'a, T> {
        assert!(items > 0 && width > 0 && self.whole.cols.is_multiple_of(width));
        ScatteredTiles { all: self, items, width }
    }
}

// SAFETY: no row is named twice, and rows do not overlap.
unsafe impl<'a, T: Send> Outputs for Scattered<'a, T> {
    type Part = Option<&'a mut [T]>;

    fn parts(&self) -> usize {
        self.at.len()
    }

    fn width(&self) -> usize {
        self.whole.cols
    }

    #[inline(always)]
    unsafe fn take(&self, i: usize) -> Option<&'a mut [T]> {
        match self.at[i] {
            NOWHERE => None,
            // SAFETY: in range, and no other item has it.
            row => Some(unsafe { self.whole.take(row as usize) }),
        }
    }
}

/// See [`Scattered::tiles`].
pub(crate) struct ScatteredTiles<'a, T> {
    all: Scattered<'a, T>,
    items: usize,
    width: usize,
}

// SAFETY: items have rows of their own, and the columns of tiles of the same items are apart.
unsafe impl<'a, T: Send> Outputs for ScatteredTiles<'a, T> {
    type Part = Scattered<'a, T>;

    fn parts(&self) -> usize {
        self.all.at.len().div_ceil(self.items) * (self.all.whole.cols / self.width)
    }

    fn width(&self) -> usize {
        self.items * self.width
    }

    #[inline(always)]
    unsafe fn take(&self, i: usize) -> Scattered<'a, T> {
        let across = self.all.whole.cols / self.width;
        let (block, column) = (i / across, i % across);
        let items = block * self.items..((block + 1) * self.items).min(self.all.at.len());
        let whole = &self.all.whole;
        // SAFETY: in range; of the rows of this part only those of its items can be reached, which are its
        // own.
        let whole = unsafe { whole.part((0, whole.rows), (column * self.width, (column + 1) * self.width)) };
        Scattered { whole, at: &self.all.at[items] }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::cpu::par_parts;

    #[test]
    fn rows_leave_what_lies_between() {
        let mut values = vec![0; 24];
        let whole = RowsMut::dense(&mut values, 6);
        let (left, right) = whole.split_cols_at(4);
        // both at once: the columns interleave in memory
        par_parts((left, right)).for_each(|(r, (a, b))| {
            a.fill(r + 1);
            b.fill(10 * (r + 1));
        });
        for (r, row) in values.chunks(6).enumerate() {
            assert_eq!(row, [[r + 1; 4].as_slice(), &[10 * (r + 1); 2]].concat());
        }
    }

    #[test]
    fn tiles_cover_a_matrix_once() {
        let mut values = vec![0usize; 7 * 6];
        let tiles = RowsMut::dense(&mut values, 6).tiles(vec![0, 3, 3, 7], 2);
        assert_eq!(tiles.parts(), 9);
        par_parts(tiles).for_each(|(i, mut tile)| {
            (0..tile.count()).for_each(|r| tile.row(r).iter_mut().for_each(|v| *v += i + 1));
        });
        let row = |r: usize| if r < 3 { [1, 1, 2, 2, 3, 3] } else { [7, 7, 8, 8, 9, 9] };
        assert_eq!(values, (0..7).flat_map(row).collect::<Vec<_>>());
        assert_eq!(even_cuts(7, 3), [0, 3, 6, 7]);
        assert_eq!(even_cuts(0, 3), [0]);
    }

    #[test]
    fn scattered_rows() {
        let index = [4, NOWHERE, 0, 2];
        let places = Places::new("test", &index[..], 5).unwrap();
        let mut values = vec![0; 20];
        let whole = RowsMut::dense(&mut values, 4);
        par_parts(whole.scattered(&places).tiles(3, 2)).for_each(|(i, mut tile)| {
            let n = if i < 2 { 3 } else { 1 };
            (0..n).for_each(|k| tile.row(k).into_iter().flatten().for_each(|v| *v += 10 * i + k + 1));
        });
        assert_eq!(values[..4], [3, 3, 13, 13]);
        assert_eq!(values[8..12], [21, 21, 31, 31]);
        assert_eq!(values[16..], [1, 1, 11, 11]);
        assert!(values[4..8].iter().chain(&values[12..16]).all(|v| *v == 0));
    }

    #[test]
    fn an_index_that_names_a_row_twice_is_refused() {
        let of = |index: &[u32]| Places::new("gather_rows", index.to_vec(), 70).err().map(|e| e.to_string());
        assert_eq!(of(&[69, 3, NOWHERE, 5, NOWHERE]), None);
        let twice = of(&[69, 3, 69]).unwrap();
        assert!(twice.contains("gather_rows") && twice.contains("69 is named twice"), "{twice}");
        assert!(of(&[70]).unwrap().contains("row 70 of 70"));
    }
}

//! Views of four dimensions that are lent for writing, line by line.

use std::marker::PhantomData;

use super::outputs::Outputs;

/// Lines of evenly spaced elements, in three dimensions: a view of four dimensions that is lent for writing.
pub(crate) struct LinesMut<'a, T> {
    data: *mut T,
    /// (number, distance) of the lines.
    lead: [(usize, usize); 3],
    /// (number, distance) of the elements of a line.
    line: (usize, usize),
    /// The lines that this is about, of all.
    range: (usize, usize),
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable borrow of its elements.
unsafe impl<T: Send> Send for LinesMut<'_, T> {}
// SAFETY: as of `RowsMut`.
unsafe impl<T: Send> Sync for LinesMut<'_, T> {}

impl<'a, T> LinesMut<'a, T> {
    /// The lines of a view with these (number, distance) at `data`.
    ///
    /// # Safety
    /// All elements are valid for reads and writes, are used by no one else for `'a`, and none occurs twice.
    pub(crate) unsafe fn new(data: *mut T, [a, b, c, line]: [(usize, usize); 4]) -> Self {
        Self { data, lead: [a, b, c], line, range: (0, a.0 * b.0 * c.0), lent: PhantomData }
    }

    #[inline(always)]
    fn at(&self, i: usize) -> *mut T {
        let [(_, far), (n1, middle), (n2, near)] = self.lead;
        let i = self.range.0 + i;
        self.data.wrapping_add(i / n2 / n1 * far + i / n2 % n1 * middle + i % n2 * near)
    }

    /// Line `i`, whose elements lie side by side.
    #[inline(always)]
    pub(crate) fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.range.1 - self.range.0 && (self.line.1 == 1 || self.line.0 == 1));
        // SAFETY: in range, and borrowed from the whole.
        unsafe { std::slice::from_raw_parts_mut(self.at(i), self.line.0) }
    }

    /// `each` consecutive lines at a time.
    pub(crate) fn blocks(self, each: usize) -> LineBlocks<'a, T> {
        assert!(each > 0);
        LineBlocks { all: self, each }
    }
}

/// Evenly spaced elements, lent for writing.
pub(crate) struct Line<'a, T> {
    data: *mut T,
    length: usize,
    distance: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable borrow of its elements.
unsafe impl<T: Send> Send for Line<'_, T> {}

impl<'a, T> Line<'a, T> {
    /// All elements.
    #[inline(always)]
    pub(crate) fn elements(self) -> impl Iterator<Item = &'a mut T> {
        // SAFETY: in range, and given once.
        (0..self.length).map(move |i| unsafe { &mut *self.data.wrapping_add(i * self.distance) })
    }
}

// SAFETY: no element occurs twice.
unsafe impl<'a, T: Send> Outputs for LinesMut<'a, T> {
    type Part = Line<'a, T>;

    fn parts(&self) -> usize {
        self.range.1 - self.range.0
    }

    fn width(&self) -> usize {
        self.line.0
    }

    #[inline(always)]
    unsafe fn take(&self, i: usize) -> Line<'a, T> {
        Line { data: self.at(i), length: self.line.0, distance: self.line.1, lent: PhantomData }
    }
}

/// See [`LinesMut::blocks`].
pub(crate) struct LineBlocks<'a, T> {
    all: LinesMut<'a, T>,
    each: usize,
}

// SAFETY: blocks have lines of their own.
unsafe impl<'a, T: Send> Outputs for LineBlocks<'a, T> {
    type Part = LinesMut<'a, T>;

    fn parts(&self) -> usize {
        self.all.parts().div_ceil(self.each)
    }

    fn width(&self) -> usize {
        self.each * self.all.line.0
    }

    unsafe fn take(&self, i: usize) -> LinesMut<'a, T> {
        let (start, end) = self.all.range;
        let first = start + i * self.each;
        let LinesMut { data, lead, line, .. } = self.all;
        LinesMut { data, lead, line, range: (first, (first + self.each).min(end)), lent: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::cpu::par_parts;

    #[test]
    fn lines_of_a_view() {
        let mut values = vec![0usize; 2 * 3 * 4 * 5];
        let at = values.as_mut_ptr();
        // [2, 3, 4, 5] with the last two dimensions exchanged, and of these every second
        // SAFETY: all within `values`, which is not used meanwhile.
        let lines = unsafe { LinesMut::new(at, [(2, 60), (3, 20), (5, 1), (2, 10)]) };
        par_parts(lines)
            .for_each(|(i, line)| line.elements().enumerate().for_each(|(l, v)| *v += 2 * i + l + 1));
        for (i, v) in values.iter().enumerate() {
            let [image, row, line, column] = [i / 60, i / 20 % 3, i / 5 % 4, i % 5];
            let number = 2 * ((image * 3 + row) * 5 + column) + line / 2 + 1;
            assert_eq!(*v, if line % 2 == 0 { number } else { 0 });
        }
        // SAFETY: as above.
        let lines = unsafe { LinesMut::new(values.as_mut_ptr(), [(2, 60), (3, 20), (4, 5), (5, 1)]) };
        par_parts(lines.blocks(5)).for_each(|(b, mut block)| {
            (0..block.parts()).for_each(|l| block.row(l).fill(5 * b + l));
        });
        assert!(values.chunks(5).enumerate().all(|(i, line)| line.iter().all(|v| *v == i)));
    }
}

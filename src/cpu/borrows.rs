//! Who uses which part of the CPU device's memory right now: what makes handing out slices of shared tensors
//! sound.
//!
//! Tensors share memory, so the compiler cannot see that an operation's output lies apart from its operands.
//! Every view of memory therefore enters its [`Region`] here for as long as it lives, and one that is to be
//! written while another uses one of its elements is refused. The test is exact: columns of one matrix may be
//! read beside others that are written. An operation has a handful of views, so the list is short, and the
//! test is made in every build.

use std::cell::{Cell, RefCell};

use crate::layout::{Layout, Rows};

/// Dimensions of a region beside its runs.
const LEAD: usize = 3;

/// The bytes of a view: runs of neighbouring bytes whose starts are evenly spaced in up to three dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    start: usize,
    /// Bytes of a run.
    run: usize,
    /// (number, distance) of the runs, the outermost dimension first; (1, 0) where there is none.
    lead: [(usize, usize); LEAD],
}

impl Region {
    /// `length` bytes from `start`.
    pub(crate) fn interval(start: usize, length: usize) -> Self {
        Self { start, run: length, lead: [(1, 0); LEAD] }
    }

    /// The rows of a matrix of elements of `size` bytes.
    pub(crate) fn rows(rows: Rows, size: usize) -> Self {
        let Rows { offset, rows, cols, stride } = rows;
        if rows <= 1 || stride == cols {
            return Self::interval(offset * size, rows * cols * size);
        }
        let mut lead = [(1, 0); LEAD];
        lead[LEAD - 1] = (rows, stride * size);
        Self { start: offset * size, run: cols * size, lead }
    }

    /// The elements of any view; where it has more dimensions than fit, all from its first to its last.
    pub(crate) fn of(layout: &Layout, size: usize) -> Self {
        let start = layout.offset * size;
        if layout.elements() == 0 {
            return Self::interval(start, 0);
        }
        let mut dims: Vec<_> = layout.shape.iter().copied().zip(layout.strides.iter().copied()).collect();
        dims.retain(|(n, _)| *n != 1);
        dims.sort_by_key(|(_, stride)| *stride);
        let (mut run, mut lead) = (1, Vec::<(usize, usize)>::new());
        for (n, stride) in dims {
            match lead.last_mut() {
                None if stride == run => run *= n,
                Some((count, inner)) if stride == *count * *inner => *count *= n,
                _ => lead.push((n, stride)),
            }
        }
        if lead.len() > LEAD {
            return Self::interval(start, layout.span() * size);
        }
        let mut region = Self::interval(start, run * size);
        for (to, (n, stride)) in region.lead.iter_mut().rev().zip(lead) {
            *to = (n, stride * size);
        }
        region
    }

    fn is_empty(&self) -> bool {
        self.run == 0 || self.lead.iter().any(|(n, _)| *n == 0)
    }

    /// One past the last byte.
    pub(crate) fn end(&self) -> usize {
        if self.is_empty() {
            return self.start;
        }
        self.start + self.lead.iter().map(|(n, distance)| (n - 1) * distance).sum::<usize>() + self.run
    }

    /// Whether no byte occurs twice, as in what is to be written.
    pub(crate) fn is_disjoint(&self) -> bool {
        let mut extent = self.run;
        self.is_empty()
            || self.lead.iter().rev().filter(|(n, _)| *n > 1).all(|(n, distance)| {
                let apart = *distance >= extent;
                extent += (n - 1) * distance;
                apart
            })
    }

    /// The parts along the outermost dimension, where there is one.
    fn parts(self) -> Option<(usize, impl Fn(usize) -> Self)> {
        let at = self.lead.iter().position(|(n, _)| *n > 1)?;
        let (n, distance) = self.lead[at];
        Some((n, move |i| {
            let mut part = self;
            part.start += i * distance;
            part.lead[at] = (1, 0);
            part
        }))
    }

    /// Whether the two have a byte in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let apart = self.end() <= other.start || other.end() <= self.start;
        if apart || self.is_empty() || other.is_empty() {
            return false;
        }
        match (self.parts(), other.parts()) {
            (None, None) => true,
            (None, Some(parts)) => self.meets(other, parts),
            (Some(parts), None) => other.meets(self, parts),
            (Some((n, part)), Some((m, _))) if n <= m => (0..n).any(|i| part(i).overlaps(other)),
            (Some(_), Some((m, part))) => (0..m).any(|i| part(i).overlaps(self)),
        }
    }

    /// Whether this single run meets one of the other's parts: only those are looked at that it can reach.
    fn meets(&self, other: &Self, (n, part): (usize, impl Fn(usize) -> Self)) -> bool {
        let (_, distance) = other.lead.into_iter().find(|(n, _)| *n > 1).unwrap_or((1, 1));
        let extent = part(0).end() - other.start;
        let end = self.start + self.run;
        // part i reaches from other.start + i·distance so far
        let first = (self.start + 1).saturating_sub(other.start + extent).div_ceil(distance.max(1));
        let last = end.saturating_sub(other.start).div_ceil(distance.max(1));
        (first..last.min(n)).any(|i| part(i).overlaps(self))
    }
}

struct Entry {
    id: u64,
    memory: *const u8,
    region: Region,
    writes: bool,
}

/// The views that live now.
#[derive(Default)]
pub(crate) struct Borrows {
    live: RefCell<Vec<Entry>>,
    next: Cell<u64>,
}

/// A region in use, until this is dropped.
pub(crate) struct Borrow<'a> {
    all: &'a Borrows,
    id: u64,
}

/// Why a region cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Another view reads some of it.
    Read,
    /// Another view writes some of it.
    Written,
    /// It is to be written and has an element twice.
    Twice,
}

impl Borrows {
    /// Enters a view of an allocation; refused where it is to be written and another view uses it, or the
    /// other way.
    pub(crate) fn take(
        &self,
        memory: *const u8,
        region: Region,
        writes: bool,
    ) -> Result<Borrow<'_>, Conflict> {
        if writes && !region.is_disjoint() {
            return Err(Conflict::Twice);
        }
        let mut live = self.live.borrow_mut();
        let meets = |e: &&Entry| e.memory == memory && (writes || e.writes) && e.region.overlaps(&region);
        if let Some(other) = live.iter().find(meets) {
            return Err(if other.writes { Conflict::Written } else { Conflict::Read });
        }
        let id = self.next.replace(self.next.get() + 1);
        live.push(Entry { id, memory, region, writes });
        Ok(Borrow { all: self, id })
    }
}

impl Drop for Borrow<'_> {
    fn drop(&mut self) {
        let mut live = self.all.live.borrow_mut();
        // the latest mostly go first
        if let Some(at) = live.iter().rposition(|e| e.id == self.id) {
            live.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(offset: usize, shape: &[usize], strides: &[usize]) -> Layout {
        Layout { offset, shape: shape.to_vec(), strides: strides.to_vec() }
    }

    #[test]
    fn dense_dimensions_merge() {
        let conv = layout(3, &[8, 4, 3, 3], &[90, 9, 3, 1]);
        assert_eq!(Region::of(&conv, 4), Region::rows(Rows { offset: 3, rows: 8, cols: 36, stride: 90 }, 4));
        let turned = layout(0, &[5, 7], &[1, 5]);
        assert_eq!(Region::of(&turned, 4), Region::interval(0, 140));
        assert_eq!(Region::of(&layout(2, &[3, 0], &[8, 1]), 4), Region::interval(8, 0));
    }

    #[test]
    fn overlap_is_that_of_the_elements() {
        let elements = |l: &Layout| l.indices().map(|i| i + l.offset).collect::<Vec<_>>();
        let mut views = vec![layout(0, &[1], &[1]), layout(5, &[0], &[1]), layout(0, &[60], &[1])];
        for offset in [0, 1, 3, 4, 7, 12, 40] {
            views.push(layout(offset, &[5], &[1]));
            views.push(layout(offset, &[4, 3], &[6, 1]));
            views.push(layout(offset, &[3, 3], &[8, 1]));
            views.push(layout(offset, &[3, 4], &[1, 6]));
            views.push(layout(offset, &[3, 2, 2], &[20, 6, 1]));
            views.push(layout(offset, &[2, 2, 3, 2], &[30, 12, 4, 1]));
            // overlaps itself
            views.push(layout(offset, &[6, 4], &[2, 1]));
        }
        let (mut met, mut apart) = (0, 0);
        for a in &views {
            let mut sorted = elements(a);
            sorted.sort_unstable();
            if Region::of(a, 4).is_disjoint() {
                assert!(sorted.windows(2).all(|w| w[0] != w[1]), "{a:?}");
            }
            for b in &views {
                let want = elements(b).iter().any(|i| sorted.binary_search(i).is_ok());
                assert_eq!(Region::of(a, 4).overlaps(&Region::of(b, 4)), want, "{a:?} and {b:?}");
                *(if want { &mut met } else { &mut apart }) += 1;
            }
        }
        assert!(met > 100 && apart > 100, "{met} {apart}");
    }

    #[test]
    fn what_is_written_is_used_by_no_one_else() {
        let (borrows, memory) = (Borrows::default(), [0u8; 2]);
        let rows = |offset| Region::rows(Rows { offset, rows: 4, cols: 3, stride: 6 }, 4);
        let take = |region, writes| borrows.take(&memory[0], region, writes);
        let left = take(rows(0), true).unwrap_or_else(|_| panic!("nothing lives yet"));
        assert!(take(rows(3), true).is_ok(), "columns that interleave");
        assert_eq!(take(rows(2), false).err(), Some(Conflict::Written));
        assert!(borrows.take(&memory[1], rows(0), true).is_ok(), "another allocation");
        drop(left);
        let read = take(rows(2), false).ok();
        assert!(take(rows(0), false).is_ok());
        assert_eq!(take(rows(0), true).err(), Some(Conflict::Read));
        drop(read);
        assert!(take(rows(0), true).is_ok());
        let twice = Region::of(&layout(0, &[3, 4], &[2, 1]), 4);
        assert!(take(twice, false).is_ok());
        assert_eq!(take(twice, true).err(), Some(Conflict::Twice));
    }
}

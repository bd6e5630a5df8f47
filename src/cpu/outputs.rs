//! Outputs that are shared out to several threads. The `unsafe` of the CPU device's parallel kernels is here
//! and beside it: memory is lent as a whole ([`super::RowsMut`], [`super::LinesMut`]), cut into parts that
//! cannot overlap, and every part is handed out once.

use rayon::prelude::*;

/// An output of many parts, which go to different threads.
///
/// # Safety
/// Parts of different numbers have no element in common.
pub(crate) unsafe trait Outputs: Send + Sync {
    /// A part: a row of a matrix, a tile, a part of each of several outputs.
    type Part: Send;

    /// Number of parts; `usize::MAX` where any number has the same: nothing.
    fn parts(&self) -> usize;

    /// Elements of a part, about: how much work there is.
    fn width(&self) -> usize;

    /// Part `i`.
    ///
    /// # Safety
    /// `i` is below [`Self::parts`] and is asked for once in the life of these outputs.
    unsafe fn take(&self, i: usize) -> Self::Part;
}

/// All parts with their numbers, for a parallel loop in which each is a task.
pub(crate) fn par_parts<O: Outputs>(outputs: O) -> impl IndexedParallelIterator<Item = (usize, O::Part)> {
    // SAFETY: a parallel iterator over a range gives every number once, and owns the outputs.
    (0..outputs.parts()).into_par_iter().map(move |i| (i, unsafe { outputs.take(i) }))
}

// SAFETY: nothing has no elements.
unsafe impl Outputs for () {
    type Part = ();

    fn parts(&self) -> usize {
        usize::MAX
    }

    fn width(&self) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn take(&self, _: usize) {}
}

// SAFETY: the parts are those of what is there.
unsafe impl<O: Outputs> Outputs for Option<O> {
    type Part = Option<O::Part>;

    fn parts(&self) -> usize {
        self.as_ref().map_or(usize::MAX, O::parts)
    }

    fn width(&self) -> usize {
        self.as_ref().map_or(0, O::width)
    }

    #[inline(always)]
    unsafe fn take(&self, i: usize) -> Self::Part {
        // SAFETY: the caller's.
        self.as_ref().map(|outputs| unsafe { outputs.take(i) })
    }
}

// SAFETY: the two are outputs by themselves, and apart, since each is lent exclusively.
unsafe impl<A: Outputs, B: Outputs> Outputs for (A, B) {
    type Part = (A::Part, B::Part);

    fn parts(&self) -> usize {
        self.0.parts().min(self.1.parts())
    }

    fn width(&self) -> usize {
        self.0.width().max(self.1.width())
    }

    #[inline(always)]
    unsafe fn take(&self, i: usize) -> Self::Part {
        // SAFETY: the caller's.
        unsafe { (self.0.take(i), self.1.take(i)) }
    }
}

// SAFETY: as of two.
unsafe impl<A: Outputs, B: Outputs, C: Outputs> Outputs for (A, B, C) {
    type Part = (A::Part, B::Part, C::Part);

    fn parts(&self) -> usize {
        self.0.parts().min(self.1.parts()).min(self.2.parts())
    }

    fn width(&self) -> usize {
        self.0.width().max(self.1.width()).max(self.2.width())
    }

    #[inline(always)]
    unsafe fn take(&self, i: usize) -> Self::Part {
        // SAFETY: the caller's.
        unsafe { (self.0.take(i), self.1.take(i), self.2.take(i)) }
    }
}

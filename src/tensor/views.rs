//! Views of a tensor's memory on the CPU device. Each enters what it uses with the device
//! ([`CpuDevice::lend`](crate::cpu::CpuDevice::lend)) for as long as it lives, so an operation that writes
//! what it also reads in another view, or writes twice, gets an error. One that works in place takes one view
//! for writing.

use std::ops::{Deref, DerefMut};

use super::{Element, Tensor};
use crate::cpu::{Borrow, Conflict, LinesMut, Region, RowsMut};
use crate::error::{Error, Result};
use crate::layout::Rows;
use crate::profile;

/// See [`Tensor::cpu_read`].
pub(crate) struct CpuRead<'a, T> {
    data: *const T,
    length: usize,
    _borrow: Borrow<'a>,
}

// SAFETY: other threads get shared slices of it; the borrow is touched only when it is dropped, by its own
// thread.
unsafe impl<T: Sync> Sync for CpuRead<'_, T> {}

impl<T> Deref for CpuRead<'_, T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: lent for reading while `_borrow` lives.
        unsafe { std::slice::from_raw_parts(self.data, self.length) }
    }
}

/// See [`Tensor::cpu_write`].
pub(crate) struct CpuWrite<'a, T> {
    data: *mut T,
    length: usize,
    _borrow: Borrow<'a>,
}

impl<T> Deref for CpuWrite<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: lent to this alone while `_borrow` lives.
        unsafe { std::slice::from_raw_parts(self.data, self.length) }
    }
}

impl<T> DerefMut for CpuWrite<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: lent to this alone while `_borrow` lives.
        unsafe { std::slice::from_raw_parts_mut(self.data, self.length) }
    }
}

/// See [`Tensor::cpu_rows`].
pub(crate) struct CpuRows<'a, T> {
    data: *const T,
    rows: Rows,
    _borrow: Borrow<'a>,
}

// SAFETY: as of `CpuRead`.
unsafe impl<T: Sync> Sync for CpuRows<'_, T> {}

impl<T> CpuRows<'_, T> {
    /// Row `r`.
    #[inline(always)]
    pub(crate) fn row(&self, r: usize) -> &[T] {
        assert!(r < self.rows.rows);
        // SAFETY: in range, and lent for reading while `_borrow` lives.
        unsafe { std::slice::from_raw_parts(self.data.add(r * self.rows.stride), self.rows.cols) }
    }
}

/// See [`Tensor::cpu_rows_mut`].
pub(crate) struct CpuRowsMut<'a, T> {
    data: *mut T,
    rows: Rows,
    _borrow: Borrow<'a>,
}

impl<T> CpuRowsMut<'_, T> {
    /// The rows, to be shared out.
    pub(crate) fn rows_mut(&mut self) -> RowsMut<'_, T> {
        // SAFETY: lent to this alone, and apart from each other, while `_borrow` lives.
        unsafe { RowsMut::new(self.data, self.rows) }
    }
}

/// See [`Tensor::cpu_elements`].
pub(crate) struct CpuElements<'a, T> {
    data: *const T,
    _borrow: Borrow<'a>,
}

impl<T> CpuElements<'_, T> {
    /// The first element. What the tensor's layout says may be read while this lives.
    pub(crate) fn as_ptr(&self) -> *const T {
        self.data
    }
}

/// See [`Tensor::cpu_elements_mut`].
pub(crate) struct CpuElementsMut<'a, T> {
    data: *mut T,
    /// (number, distance) of the dimensions.
    dims: Vec<(usize, usize)>,
    _borrow: Borrow<'a>,
}

impl<T> CpuElementsMut<'_, T> {
    /// The first element. What the tensor's layout says may be read and written while this is borrowed.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.data
    }

    /// The lines of a view of four dimensions, to be shared out.
    pub(crate) fn lines_mut(&mut self) -> LinesMut<'_, T> {
        let dims = self.dims[..].try_into().expect("four dimensions");
        // SAFETY: lent to this alone while `_borrow` lives, which was refused to a view with an element
        // twice.
        unsafe { LinesMut::new(self.data, dims) }
    }
}

/// Kernels of the CPU device ask for their operands by these. `op` is the operation, for the error where the
/// memory is in use: a [shape error](Error::Shape).
impl Tensor {
    fn lend<T: Element>(
        &self,
        op: &'static str,
        region: Region,
        writes: bool,
    ) -> Result<(*mut T, Borrow<'_>)> {
        if T::DTYPE != self.dtype {
            return Err(Error::shape(op, format!("elements of {:?} expected, got {self:?}", T::DTYPE)));
        }
        profile::touch(self.elements() * self.dtype.bytes());
        let (start, borrow) = self.storage.lend(region, writes).map_err(|conflict| {
            let problem = match conflict {
                Conflict::Twice => "is to be written and has elements twice",
                Conflict::Read => "is to be written and overlaps an operand",
                Conflict::Written if writes => "is to be written and overlaps another output",
                Conflict::Written => "overlaps what is written",
            };
            Error::shape(op, format!("{self:?} {problem}"))
        })?;
        Ok((start.cast::<T>().wrapping_add(self.layout.offset), borrow))
    }

    /// The elements from the view's first to its last, with those between its rows, for reading.
    pub(crate) fn cpu_read<T: Element>(&self, op: &'static str) -> Result<CpuRead<'_, T>> {
        let (length, size) = (self.layout.span(), self.dtype.bytes());
        let region = Region::interval(self.layout.offset * size, length * size);
        let (data, borrow) = self.lend::<T>(op, region, false)?;
        Ok(CpuRead { data, length, _borrow: borrow })
    }

    /// The elements of a dense view, for writing.
    pub(crate) fn cpu_write<T: Element>(&self, op: &'static str) -> Result<CpuWrite<'_, T>> {
        let (length, size) = (self.layout.elements(), self.dtype.bytes());
        if length > 0 && !self.layout.is_contiguous() {
            return Err(Error::shape(op, format!("a dense output expected, got {self:?}")));
        }
        let region = Region::interval(self.layout.offset * size, length * size);
        let (data, borrow) = self.lend(op, region, true)?;
        Ok(CpuWrite { data, length, _borrow: borrow })
    }

    /// The view's rows, for reading; what lies between them may be written meanwhile.
    pub(crate) fn cpu_rows<T: Element>(&self, op: &'static str) -> Result<CpuRows<'_, T>> {
        let rows = self.rows(op)?;
        let (data, borrow) = self.lend::<T>(op, Region::rows(rows, self.dtype.bytes()), false)?;
        Ok(CpuRows { data, rows, _borrow: borrow })
    }

    /// The view's rows, for writing; what lies between them may be used meanwhile.
    pub(crate) fn cpu_rows_mut<T: Element>(&self, op: &'static str) -> Result<CpuRowsMut<'_, T>> {
        let rows = self.rows(op)?;
        let (data, borrow) = self.lend(op, Region::rows(rows, self.dtype.bytes()), true)?;
        Ok(CpuRowsMut { data, rows, _borrow: borrow })
    }

    /// The elements of any view, for reading by pointer.
    pub(crate) fn cpu_elements<T: Element>(&self, op: &'static str) -> Result<CpuElements<'_, T>> {
        let (data, borrow) = self.lend::<T>(op, Region::of(&self.layout, self.dtype.bytes()), false)?;
        Ok(CpuElements { data, _borrow: borrow })
    }

    /// The elements of any view, for writing by pointer or line by line.
    pub(crate) fn cpu_elements_mut<T: Element>(&self, op: &'static str) -> Result<CpuElementsMut<'_, T>> {
        let (data, borrow) = self.lend(op, Region::of(&self.layout, self.dtype.bytes()), true)?;
        let l = &self.layout;
        let dims = l.shape.iter().copied().zip(l.strides.iter().copied()).collect();
        Ok(CpuElementsMut { data, dims, _borrow: borrow })
    }
}

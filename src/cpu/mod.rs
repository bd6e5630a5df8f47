//! The native device: pooled memory and the few helpers its kernels share. The kernels themselves stand beside
//! their GPU counterparts in `src/ops`.

mod arch;
pub(crate) mod math;
mod parallel;
pub(crate) mod simd;

pub(crate) use arch::Arch;
pub use arch::{instruction_sets, with_instruction_set};
pub(crate) use parallel::{SyncPtr, for_rows, for_rows2, pieces, reduce_columns};

use std::cell::{Cell, RefCell};

use crate::pool::{Pool, size_class};

/// Memory of the CPU device, aligned for the widest vector loads.
pub(crate) struct CpuBuffer {
    lines: Box<[Line]>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl CpuBuffer {
    fn new(bytes: usize) -> Self {
        Self { lines: vec![Line([0; 64]); bytes.div_ceil(64)].into_boxed_slice() }
    }

    pub(crate) fn pointer(&self) -> *mut u8 {
        self.lines.as_ptr() as *mut u8
    }

    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.lines.len() * 64);
        // SAFETY: in bounds by the assertion; see `Tensor::cpu_mut` for aliasing.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pointer().add(at), bytes.len()) }
    }

    pub(crate) fn read(&self, at: usize, bytes: &mut [u8]) {
        assert!(at + bytes.len() <= self.lines.len() * 64);
        // SAFETY: in bounds by the assertion.
        unsafe { std::ptr::copy_nonoverlapping(self.pointer().add(at), bytes.as_mut_ptr(), bytes.len()) }
    }
}

/// The native device.
pub struct CpuDevice {
    pool: RefCell<Pool<CpuBuffer>>,
    pub(crate) fences: Cell<bool>,
}

impl CpuDevice {
    pub(crate) fn new() -> Self {
        Self { pool: RefCell::new(Pool::default()), fences: Cell::new(false) }
    }

    pub(crate) fn describe(&self) -> String {
        format!("cpu ({} threads)", rayon::current_num_threads())
    }

    pub(crate) fn allocate(&self, bytes: usize) -> CpuBuffer {
        let bytes = size_class(bytes);
        let mut pool = self.pool.borrow_mut();
        pool.take(bytes).unwrap_or_else(|| {
            pool.note_new(bytes);
            CpuBuffer::new(bytes)
        })
    }

    pub(crate) fn recycle(&self, buffer: CpuBuffer) {
        self.pool.borrow_mut().give(buffer.lines.len() * 64, buffer);
    }

    pub(crate) fn peak_bytes(&self) -> usize {
        self.pool.borrow().peak_bytes()
    }
}

//! The native device: pooled memory and the few helpers its kernels share. The kernels themselves stand
//! beside their GPU counterparts in `src/ops`.

mod arch;
mod borrows;
mod lines;
pub(crate) mod math;
mod outputs;
mod parallel;
mod rows;
pub(crate) mod simd;
mod threads;

pub(crate) use arch::Arch;
pub use arch::{instruction_sets, with_instruction_set};
pub(crate) use borrows::{Borrow, Conflict, Region};
pub(crate) use lines::LinesMut;
pub(crate) use outputs::{Outputs, par_parts};
pub(crate) use parallel::{for_rows, for_some_rows, reduce_columns, reduce_columns_with};
pub(crate) use rows::{NOWHERE, Places, RowsMut, Scattered, even_cuts};
pub use threads::{no_thread, start_threads};

use std::cell::{Cell, RefCell, UnsafeCell};

use borrows::Borrows;

use crate::error::{Error, Result};
use crate::memory::{Limit, attempt};
use crate::pool::{Pool, size_class};

/// Memory of the CPU device, aligned for the widest vector loads.
pub(crate) struct CpuBuffer {
    /// Written through shared references: [`CpuDevice::lend`] knows by whom.
    lines: Box<[UnsafeCell<Line>]>,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl CpuBuffer {
    /// Memory of zeros, where the system has it.
    fn new(bytes: usize) -> Option<Self> {
        let (mut lines, count) = (Vec::new(), bytes.div_ceil(64));
        attempt(|| lines.try_reserve_exact(count)).ok()?;
        lines.resize_with(count, || UnsafeCell::new(Line([0; 64])));
        Some(Self { lines: lines.into_boxed_slice() })
    }

    fn bytes(&self) -> usize {
        self.lines.len() * 64
    }
}

/// The native device.
pub struct CpuDevice {
    pool: RefCell<Pool<CpuBuffer>>,
    borrows: Borrows,
    pub(crate) fences: Cell<bool>,
    /// Whether products may round their operands to bfloat16.
    pub(crate) bf16: Cell<bool>,
}

impl CpuDevice {
    pub(crate) fn new() -> Self {
        Self {
            pool: RefCell::default(),
            borrows: Borrows::default(),
            fences: Cell::new(false),
            bf16: Cell::new(false),
        }
    }

    pub(crate) fn describe(&self) -> String {
        format!("cpu ({} threads)", rayon::current_num_threads())
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<CpuBuffer> {
        let bytes = size_class(bytes);
        let mut pool = self.pool.borrow_mut();
        if let Some(buffer) = pool.take(bytes) {
            return Ok(buffer);
        }
        drop(pool.make_room(bytes));
        let new = CpuBuffer::new(bytes).or_else(|| {
            // let go of what waits for reuse and try once more
            pool.trim();
            CpuBuffer::new(bytes)
        });
        let new = new.ok_or_else(|| {
            Error::Device(format!(
                "out of memory: a tensor of {} MiB is not to be had, {} MiB being in use{}; take a smaller \
                 train.batch_size_per_gpu or smaller crops",
                bytes.div_ceil(1 << 20),
                pool.bytes() >> 20,
                Limit::of_this_process()
            ))
        })?;
        pool.note_new(bytes);
        Ok(new)
    }

    /// Lends a region of an allocation for reading or writing, until the borrow is dropped. The pointer is to
    /// the start of the allocation; the region lies within it.
    pub(crate) fn lend<'a>(
        &'a self,
        buffer: &'a CpuBuffer,
        region: Region,
        writes: bool,
    ) -> Result<(*mut u8, Borrow<'a>), Conflict> {
        assert!(region.end() <= buffer.bytes(), "a view within its memory");
        let start = buffer.lines.as_ptr().cast_mut().cast::<u8>();
        Ok((start, self.borrows.take(start, region, writes)?))
    }

    pub(crate) fn recycle(&self, buffer: CpuBuffer) {
        self.pool.borrow_mut().give(buffer.bytes(), buffer);
    }

    pub(crate) fn peak_bytes(&self) -> usize {
        self.pool.borrow().peak_bytes()
    }
}

//! Memory of an adapter, and how kernels get at it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// A pooled buffer.
pub(crate) struct GpuBuffer {
    /// The memory; a rehearsal has none.
    pub(super) memory: Option<wgpu::Buffer>,
    pub(super) bytes: usize,
    /// Its number, from 1; no other buffer ever has it.
    pub(super) id: u64,
    /// The submission in which a recorded command last used the buffer.
    pub(super) last_use: Cell<Option<u64>>,
}

impl GpuBuffer {
    pub(super) fn new(memory: Option<wgpu::Buffer>, bytes: usize) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let id = 1 + MADE.fetch_add(1, Ordering::Relaxed);
        Self { memory, bytes, id, last_use: Cell::new(None) }
    }

    /// The memory, which commands are recorded with.
    pub(super) fn buffer(&self) -> &wgpu::Buffer {
        self.memory.as_ref().expect("commands are recorded for buffers with memory")
    }
}

/// Memory that a kernel is to bind.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    /// All of this is bound; where the operand begins in it, parameters say.
    pub buffer: &'a GpuBuffer,
    /// Bytes of an element.
    pub element_bytes: usize,
    /// Bytes of the operand, which a profile reports.
    pub bytes: usize,
}

/// What lies in a buffer of a GPU and can be bound: tensors.
pub(crate) trait Bind {
    /// The memory.
    fn operand(&self) -> Operand<'_>;
}

/// A copy to the host that is under way.
pub(crate) struct PendingBuffer {
    pub(super) staging: wgpu::Buffer,
    pub(super) submission: Option<wgpu::SubmissionIndex>,
}

/// A device's read-back that is under way.
pub(crate) struct PendingCopy {
    pub(super) source: CopySource,
    /// Dispatches before it.
    pub(super) after: u64,
}

/// What a device's read-back comes from.
pub(super) enum CopySource {
    /// A copy of the device's memory.
    Buffer(PendingBuffer),
    /// A rehearsal: so many bytes of nothing.
    Nothing(usize),
}

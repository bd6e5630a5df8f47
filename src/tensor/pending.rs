//! Reading back without waiting for work recorded later.

use super::{Device, Element, Tensor};
use crate::error::{Error, Result};
use crate::gpu::PendingCopy;

/// Elements on their way to the host.
pub struct PendingRead {
    device: Device,
    source: Source,
}

enum Source {
    Ready(Vec<f32>),
    Gpu(PendingCopy),
}

impl Tensor {
    /// Starts a read-back of a contiguous `f32` tensor: what it holds now arrives when [`PendingRead::wait`]
    /// is called, and work that is recorded in between is not waited for.
    pub fn read_later(&self) -> Result<PendingRead> {
        if !self.layout().is_contiguous() || self.dtype() != f32::DTYPE {
            return Err(Error::shape(
                "read_later",
                format!("a contiguous f32 tensor expected, got {self:?}"),
            ));
        }
        let source = match self.device() {
            Device::Cpu(_) => Source::Ready(self.cpu_read::<f32>("start_read")?.to_vec()),
            Device::Gpu(gpu) => {
                let (at, count) = (self.layout().offset, self.elements());
                Source::Gpu(gpu.start_read(self.storage().gpu_buffer(), at * 4, count * 4)?)
            }
        };
        Ok(PendingRead { device: self.device().clone(), source })
    }
}

impl PendingRead {
    /// The elements; waits for the commands that were recorded before the read-back.
    pub fn wait(self) -> Result<Vec<f32>> {
        match (self.source, &self.device) {
            (Source::Ready(values), _) => Ok(values),
            (Source::Gpu(copy), Device::Gpu(gpu)) => gpu.finish_read(copy),
            (Source::Gpu(_), Device::Cpu(_)) => unreachable!("a read-back belongs to its device"),
        }
    }
}

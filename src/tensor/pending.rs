//! Reading back without waiting for work recorded later.

use super::{Device, Element, Tensor};
use crate::error::{Error, Result};
use crate::gpu::PendingCopy;

/// Elements on their way to the host.
pub struct PendingRead {
    device: Device,
    source: Source,
    /// How many of each tensor.
    counts: Vec<usize>,
}

enum Source {
    Ready(Vec<f32>),
    Gpu(PendingCopy),
}

impl Tensor {
    /// Starts a read-back of a contiguous `f32` tensor: what it holds now arrives when [`PendingRead::wait`]
    /// is called, and work that is recorded in between is not waited for.
    pub fn read_later(&self) -> Result<PendingRead> {
        PendingRead::of(self.device(), &[self])
    }
}

impl PendingRead {
    /// As [`Tensor::read_later`], of several tensors on a device in one copy.
    pub fn of(device: &Device, tensors: &[&Tensor]) -> Result<Self> {
        if let Some(other) = tensors.iter().find(|t| !t.layout().is_contiguous() || t.dtype() != f32::DTYPE) {
            let problem = format!("contiguous f32 tensors expected, got {other:?}");
            return Err(Error::shape("read_later", problem));
        }
        let source = match device {
            Device::Cpu(_) => {
                let mut all = Vec::with_capacity(tensors.iter().map(|t| t.elements()).sum());
                for t in tensors {
                    all.extend_from_slice(&t.cpu_read::<f32>("read_later")?);
                }
                Source::Ready(all)
            }
            // an adapter has no copies of nothing
            Device::Gpu(_) if tensors.iter().all(|t| t.elements() == 0) => Source::Ready(Vec::new()),
            Device::Gpu(gpu) => {
                let some = tensors.iter().filter(|t| t.elements() > 0);
                let parts: Vec<_> = some
                    .map(|t| (t.storage().gpu_buffer(), t.layout().offset * 4, t.elements() * 4))
                    .collect();
                Source::Gpu(gpu.start_read(&parts)?)
            }
        };
        let counts = tensors.iter().map(|t| t.elements()).collect();
        Ok(Self { device: device.clone(), source, counts })
    }

    /// The elements of every tensor; waits as [`PendingRead::wait`] does.
    pub fn wait_each(self) -> Result<Vec<Vec<f32>>> {
        let counts = self.counts.clone();
        let all = self.wait()?;
        let mut rest = all.as_slice();
        let mut next = |count: &usize| {
            let (these, others) = rest.split_at(*count);
            rest = others;
            these.to_vec()
        };
        Ok(counts.iter().map(&mut next).collect())
    }

    /// The elements, tensor after tensor; waits for the commands that were recorded before the read-back.
    pub fn wait(self) -> Result<Vec<f32>> {
        match (self.source, &self.device) {
            (Source::Ready(values), _) => Ok(values),
            (Source::Gpu(copy), Device::Gpu(gpu)) => gpu.finish_read(copy),
            (Source::Gpu(_), Device::Cpu(_)) => unreachable!("a read-back belongs to its device"),
        }
    }
}

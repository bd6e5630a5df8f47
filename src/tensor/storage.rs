//! Device memory behind tensors; dropping it gives it back to the device's pool.

use crate::cpu::{Borrow, Conflict, CpuBuffer, Region};
use crate::error::{Error, Result};
use crate::gpu::GpuBuffer;
use crate::tensor::Device;

/// A pooled allocation on one device.
pub(crate) struct Storage {
    device: Device,
    memory: Option<Memory>,
}

enum Memory {
    Cpu(CpuBuffer),
    Gpu(GpuBuffer),
}

impl Storage {
    pub(crate) fn new(device: &Device, bytes: usize) -> Result<Self> {
        let memory = match device {
            Device::Cpu(cpu) => Memory::Cpu(cpu.allocate(bytes)?),
            Device::Gpu(gpu) => Memory::Gpu(gpu.allocate(bytes)?),
        };
        Ok(Self { device: device.clone(), memory: Some(memory) })
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    fn memory(&self) -> &Memory {
        self.memory.as_ref().expect("storage holds memory until it is dropped")
    }

    /// Lends a region, on the CPU device; see [`CpuDevice::lend`](crate::cpu::CpuDevice::lend).
    pub(crate) fn lend(&self, region: Region, writes: bool) -> Result<(*mut u8, Borrow<'_>), Conflict> {
        match (self.memory(), &self.device) {
            (Memory::Cpu(buffer), Device::Cpu(cpu)) => cpu.lend(buffer, region, writes),
            _ => unreachable!("CPU kernels are only called with CPU tensors"),
        }
    }

    /// The buffer, on a GPU device.
    pub(crate) fn gpu_buffer(&self) -> &GpuBuffer {
        match self.memory() {
            Memory::Gpu(buffer) => buffer,
            Memory::Cpu(_) => unreachable!("GPU kernels are only called with GPU tensors"),
        }
    }

    pub(crate) fn write_bytes(&self, at: usize, bytes: &[u8]) -> Result<()> {
        match (self.memory(), &self.device) {
            (Memory::Gpu(buffer), Device::Gpu(gpu)) => gpu.write(buffer, at, bytes),
            _ => {
                let (start, _borrow) = self.lend_bytes(at, bytes.len(), true)?;
                // SAFETY: lent for writing, so within the memory and used by no one else.
                unsafe { start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
                Ok(())
            }
        }
    }

    pub(crate) fn read_bytes(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        match (self.memory(), &self.device) {
            (Memory::Gpu(buffer), Device::Gpu(gpu)) => gpu.read(buffer, at, bytes),
            _ => {
                let (start, _borrow) = self.lend_bytes(at, bytes.len(), false)?;
                // SAFETY: lent for reading, so within the memory and written by no one.
                unsafe { start.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
                Ok(())
            }
        }
    }

    fn lend_bytes(&self, at: usize, length: usize, writes: bool) -> Result<(*mut u8, Borrow<'_>)> {
        let used = |_| Error::shape("copy", "an operation is using what is copied to or from the host");
        let (start, borrow) = self.lend(Region::interval(at, length), writes).map_err(used)?;
        Ok((start.wrapping_add(at), borrow))
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        match (self.memory.take(), &self.device) {
            (Some(Memory::Cpu(buffer)), Device::Cpu(cpu)) => cpu.recycle(buffer),
            (Some(Memory::Gpu(buffer)), Device::Gpu(gpu)) => gpu.recycle(buffer),
            _ => {}
        }
    }
}

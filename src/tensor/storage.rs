//! Device memory behind tensors; dropping it gives it back to the device's pool.

use crate::cpu::CpuBuffer;
use crate::error::Result;
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
            Device::Cpu(cpu) => Memory::Cpu(cpu.allocate(bytes)),
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

    /// Start of the memory, on the CPU device.
    pub(crate) fn cpu_pointer(&self) -> *mut u8 {
        match self.memory() {
            Memory::Cpu(buffer) => buffer.pointer(),
            Memory::Gpu(_) => unreachable!("CPU kernels are only called with CPU tensors"),
        }
    }

    /// The buffer, on a GPU device.
    pub(crate) fn gpu_buffer(&self) -> &GpuBuffer {
        match self.memory() {
            Memory::Gpu(buffer) => buffer,
            Memory::Cpu(_) => unreachable!("GPU kernels are only called with GPU tensors"),
        }
    }

    pub(crate) fn write_bytes(&self, device: &Device, at: usize, bytes: &[u8]) -> Result<()> {
        match (self.memory(), device) {
            (Memory::Cpu(buffer), _) => buffer.write(at, bytes),
            (Memory::Gpu(buffer), Device::Gpu(gpu)) => gpu.write(buffer, at, bytes)?,
            (Memory::Gpu(_), Device::Cpu(_)) => unreachable!("a storage belongs to its device"),
        }
        Ok(())
    }

    pub(crate) fn read_bytes(&self, device: &Device, at: usize, bytes: &mut [u8]) -> Result<()> {
        match (self.memory(), device) {
            (Memory::Cpu(buffer), _) => buffer.read(at, bytes),
            (Memory::Gpu(buffer), Device::Gpu(gpu)) => gpu.read(buffer, at, bytes)?,
            (Memory::Gpu(_), Device::Cpu(_)) => unreachable!("a storage belongs to its device"),
        }
        Ok(())
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

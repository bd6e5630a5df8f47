//! The two kinds of device behind one handle.

use std::rc::Rc;

use crate::cpu::CpuDevice;
use crate::error::Result;
use crate::gpu::{Caps, GpuDevice};
use crate::profile::{self, Profile};

/// Where tensors live and operations run. A handle; cloning shares the device. Devices stay on their thread.
#[derive(Clone)]
pub enum Device {
    /// Native code on all cores: the reference, and what a machine without a GPU trains on.
    Cpu(Rc<CpuDevice>),
    /// A wgpu adapter.
    Gpu(Rc<GpuDevice>),
}

impl Device {
    /// A new CPU device that uses all cores.
    pub fn cpu() -> Self {
        Self::Cpu(Rc::new(CpuDevice::new()))
    }

    /// The rehearsal of an adapter with these capabilities; see [`GpuDevice::rehearsal`].
    pub fn rehearsal(caps: &Caps) -> Self {
        Self::Gpu(Rc::new(GpuDevice::rehearsal(caps)))
    }

    /// Whether nothing is computed here: what is written is forgotten, what is read is zero.
    pub fn is_rehearsal(&self) -> bool {
        matches!(self, Self::Gpu(gpu) if gpu.is_rehearsal())
    }

    /// One line for logs: kind, name, driver.
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu(cpu) => cpu.describe(),
            Self::Gpu(gpu) => gpu.describe(),
        }
    }

    /// `"cpu"` or `"gpu"`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cpu(_) => "cpu",
            Self::Gpu(_) => "gpu",
        }
    }

    /// Hands recorded work to the device without waiting for it.
    pub fn submit(&self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(gpu) => gpu.submit(),
        }
    }

    /// Waits until all work is done.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(gpu) => gpu.synchronize(),
        }
    }

    /// Ends the recording of a profile that [`profile::start`] began, with the times of this device's
    /// kernels.
    pub fn finish_profile(&self) -> Result<Profile> {
        if let Self::Gpu(gpu) = self {
            gpu.finish_timing()?;
        }
        Ok(profile::finish())
    }

    /// Largest tensor in bytes that one kernel can bind.
    pub fn max_tensor_bytes(&self) -> usize {
        match self {
            Self::Cpu(_) => usize::MAX,
            Self::Gpu(gpu) => gpu.caps().max_binding_bytes,
        }
    }

    /// Bytes of memory taken from the system, at most so far.
    pub fn peak_bytes(&self) -> usize {
        match self {
            Self::Cpu(cpu) => cpu.peak_bytes(),
            Self::Gpu(gpu) => gpu.peak_bytes(),
        }
    }

    /// For tests: new tensors are filled with a poison pattern and fenced by it on both sides, so that
    /// elements a kernel forgets, or writes beside its output, are seen.
    pub fn set_fences(&self, on: bool) {
        match self {
            Self::Cpu(cpu) => cpu.fences.set(on),
            Self::Gpu(gpu) => gpu.fences.set(on),
        }
    }

    /// While what this returns lives, products on the CPU round their operands to bfloat16, if `on` and where the processor
    /// multiplies those faster: sums, results and everything else stay in single precision. Nothing on a GPU.
    pub fn bf16_products(&self, on: bool) -> Bf16Products {
        Bf16Products(match self {
            Self::Cpu(cpu) => Some((cpu.clone(), cpu.bf16.replace(on))),
            Self::Gpu(_) => None,
        })
    }

    pub(crate) fn bf16(&self) -> bool {
        matches!(self, Self::Cpu(cpu) if cpu.bf16.get())
    }

    /// For tests: a kernel that its family does not list, and that no test has validated therefore, is an
    /// error when it is first launched. On in debug builds.
    pub fn set_strict(&self, on: bool) {
        if let Self::Gpu(gpu) = self {
            gpu.strict.set(on);
        }
    }

    pub(crate) fn fences(&self) -> bool {
        match self {
            Self::Cpu(cpu) => cpu.fences.get(),
            Self::Gpu(gpu) => gpu.fences.get(),
        }
    }
}

/// See [`Device::bf16_products`].
#[must_use = "products are rounded while it lives"]
pub struct Bf16Products(Option<(Rc<CpuDevice>, bool)>);

impl Drop for Bf16Products {
    fn drop(&mut self) {
        if let Some((cpu, before)) = &self.0 {
            cpu.bf16.set(*before);
        }
    }
}

//! The two kinds of device behind one handle.

use std::rc::Rc;

use super::storage::{Memory, Storage};
use crate::cpu::CpuDevice;
use crate::error::{Error, Result};
use crate::gpu::{self, Cooperative, GpuDevice};
use crate::logging;
use crate::ops::{attention, matmul};
use crate::profile::{self, Profile};

/// Where tensors live and operations run. A handle; cloning shares the device. Devices stay on their thread.
#[derive(Clone)]
pub enum Device {
    /// Native code on all cores: the reference, and what a machine without a GPU trains on.
    Cpu(Rc<CpuDevice>),
    /// A wgpu adapter.
    Gpu(Rc<GpuDevice>),
}

/// What a user asked for with `--device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A discrete, then an integrated GPU, then the CPU device; never a software adapter.
    Auto,
    /// The CPU device.
    Cpu,
    /// Any wgpu adapter, hardware before software.
    Gpu,
    /// The adapter with this index in `poa-gpu devices`.
    Index(usize),
    /// The first adapter whose name or driver contains this text (any case).
    Name(String),
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "auto" => Self::Auto,
            "cpu" => Self::Cpu,
            "gpu" => Self::Gpu,
            "" => return Err(Error::Usage("--device: auto, cpu, gpu, an index or part of a name".into())),
            _ => text.parse().map(Self::Index).unwrap_or_else(|_| Self::Name(text.to_string())),
        })
    }
}

impl Device {
    /// A new CPU device that uses all cores.
    pub fn cpu() -> Self {
        Self::Cpu(Rc::new(CpuDevice::new()))
    }

    /// Opens the device that was asked for. An adapter's cooperative matrices are tried first; those that give wrong numbers
    /// are left unused, with a warning.
    pub fn open(choice: &DeviceChoice) -> Result<Self> {
        if *choice == DeviceChoice::Cpu {
            return Ok(Self::cpu());
        }
        match gpu::select(choice)? {
            Some(adapter) => Self::open_adapter(&adapter),
            None => Ok(Self::cpu()),
        }
    }

    fn open_adapter(adapter: &wgpu::Adapter) -> Result<Self> {
        let open = |allowed| GpuDevice::open(adapter, allowed).map(Rc::new);
        let gpu = open(Cooperative::ALL)?;
        let device = Self::Gpu(gpu.clone());
        let (mut works, mut failures) = matmul::self_test(&device, &gpu);
        let of_attention = attention::self_test(&device, &gpu);
        works.attention &= of_attention.is_empty();
        failures.extend(of_attention);
        drop(device);
        if failures.is_empty() {
            return Ok(Self::Gpu(gpu));
        }
        for failure in failures {
            logging::warn(format_args!("warning: {} is left unused: {failure}", gpu.describe()));
        }
        drop(gpu);
        open(works).map(Self::Gpu)
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

    /// Ends the recording of a profile that [`profile::start`] began, with the times of this device's kernels.
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

    /// For tests: new tensors are filled with a poison pattern and fenced by it on both sides, so that elements a
    /// kernel forgets, or writes beside its output, are seen.
    pub fn set_fences(&self, on: bool) {
        match self {
            Self::Cpu(cpu) => cpu.fences.set(on),
            Self::Gpu(gpu) => gpu.fences.set(on),
        }
    }

    pub(crate) fn fences(&self) -> bool {
        match self {
            Self::Cpu(cpu) => cpu.fences.get(),
            Self::Gpu(gpu) => gpu.fences.get(),
        }
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<Storage> {
        let memory = match self {
            Self::Cpu(cpu) => Memory::Cpu(cpu.allocate(bytes)),
            Self::Gpu(gpu) => Memory::Gpu(gpu.allocate(bytes)?),
        };
        Ok(Storage::new(self.clone(), memory))
    }
}

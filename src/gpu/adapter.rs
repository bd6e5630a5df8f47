//! Finding adapters and choosing one.

use super::Caps;
use crate::error::{Error, Result};
use crate::shown::shown;

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

/// What `poa-gpu devices` shows of an adapter.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// Name the driver gives.
    pub name: String,
    /// Vulkan, Metal, DX12.
    pub backend: String,
    /// Driver and its version.
    pub driver: String,
    /// Discrete, integrated, virtual, software.
    pub kind: &'static str,
    /// Bytes of memory it has, where its driver says so.
    pub memory: Option<u64>,
    /// Capabilities and limits.
    pub caps: Caps,
}

/// Bytes of memory that an adapter has: the largest heap of its own, as a Vulkan driver names it.
#[cfg(not(target_vendor = "apple"))]
pub(super) fn memory_of(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the adapter is only asked, and outlives the guard.
    let vulkan = unsafe { adapter.as_hal::<wgpu::hal::api::Vulkan>() }?;
    let physical = vulkan.raw_physical_device();
    // SAFETY: the physical device is the instance's.
    let properties =
        unsafe { vulkan.shared_instance().raw_instance().get_physical_device_memory_properties(physical) };
    /// VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
    const DEVICE_LOCAL: u32 = 1;
    let heaps = &properties.memory_heaps[..properties.memory_heap_count as usize];
    heaps.iter().filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).max()
}

#[cfg(target_vendor = "apple")]
pub(super) fn memory_of(_: &wgpu::Adapter) -> Option<u64> {
    None
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(descriptor)
}

/// Every adapter, hardware before software, discrete before integrated; the order of `--device INDEX`.
fn enumerate() -> Vec<wgpu::Adapter> {
    let mut all = pollster::block_on(instance().enumerate_adapters(wgpu::Backends::PRIMARY));
    all.sort_by_key(|a| match a.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    all
}

fn summarise(adapter: &wgpu::Adapter) -> AdapterSummary {
    let info = adapter.get_info();
    AdapterSummary {
        name: shown(&info.name).into_owned(),
        backend: format!("{:?}", info.backend),
        driver: shown([info.driver, info.driver_info].join(" ").trim()).into_owned(),
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        },
        memory: memory_of(adapter),
        caps: Caps::of(adapter),
    }
}

/// All adapters, in the order of `--device INDEX`.
pub fn adapters() -> Vec<AdapterSummary> {
    enumerate().iter().map(summarise).collect()
}

/// The adapter that was asked for; `None` where `auto` finds no GPU and means the CPU device.
pub fn select(choice: &DeviceChoice) -> Result<Option<wgpu::Adapter>> {
    if *choice == DeviceChoice::Cpu {
        return Ok(None);
    }
    let mut all = enumerate();
    let names = || {
        let list: Vec<_> = enumerate()
            .iter()
            .enumerate()
            .map(|(i, a)| format!("{i}: {}", shown(&a.get_info().name)))
            .collect();
        if list.is_empty() {
            "none was found; is a graphics driver installed?".into()
        } else {
            list.join(", ")
        }
    };
    match choice {
        DeviceChoice::Cpu => Ok(None),
        DeviceChoice::Auto => Ok(all.into_iter().find(|a| {
            use wgpu::DeviceType::*;
            matches!(a.get_info().device_type, DiscreteGpu | IntegratedGpu | VirtualGpu)
        })),
        DeviceChoice::Gpu if all.is_empty() => Err(Error::Device(
            "no GPU adapter found; install a Vulkan, Metal or DX12 driver (on Debian and Ubuntu \
             `apt-get install mesa-vulkan-drivers` gives a software one), or use --device cpu"
                .into(),
        )),
        DeviceChoice::Gpu => Ok(Some(all.swap_remove(0))),
        DeviceChoice::Index(i) if *i < all.len() => Ok(Some(all.swap_remove(*i))),
        DeviceChoice::Index(i) => Err(Error::Device(format!(
            "no adapter has index {i}; `poa-gpu devices` lists them ({})",
            names()
        ))),
        DeviceChoice::Name(text) => {
            let wanted = text.to_lowercase();
            all.into_iter()
                .find(|a| {
                    let info = a.get_info();
                    [info.name, info.driver, info.driver_info]
                        .iter()
                        .any(|s| s.to_lowercase().contains(&wanted))
                })
                .map(Some)
                .ok_or_else(|| {
                    Error::Device(format!("no adapter is called `{}`; there are: {}", shown(text), names()))
                })
        }
    }
}

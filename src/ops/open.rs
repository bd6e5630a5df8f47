//! Opening a device.

use std::rc::Rc;

use super::{attention, matmul};
use crate::cpu::start_threads;
use crate::error::Result;
use crate::gpu::{self, Caps, DeviceChoice, GpuDevice};
use crate::logging;
use crate::tensor::Device;

/// Opens the device that was asked for, as [`open_within`] without limits.
pub fn open(choice: &DeviceChoice) -> Result<Device> {
    open_within(choice, &Caps::everything())
}

/// Opens the device that was asked for, and uses no more of an adapter than another one would have. An adapter's cooperative matrices are tried first; those that give
/// wrong numbers are left unused, with a warning.
pub fn open_within(choice: &DeviceChoice, most: &Caps) -> Result<Device> {
    // images are decoded on these threads whatever the device
    start_threads()?;
    match gpu::select(choice)? {
        Some(adapter) => {
            let info = adapter.get_info();
            if info.device_type == wgpu::DeviceType::Cpu {
                logging::warn(format_args!(
                    "{} is a software adapter: it is slow, and --device cpu is several times faster",
                    info.name
                ));
            }
            open_adapter(&adapter, most)
        }
        None => {
            let missed = (*choice == DeviceChoice::Auto).then(gpu::hidden_card).flatten();
            if let Some(why) = missed {
                logging::warn(format_args!("the cpu device is used: {why}"));
            }
            Ok(Device::cpu())
        }
    }
}

fn open_adapter(adapter: &wgpu::Adapter, most: &Caps) -> Result<Device> {
    let open = |most: &Caps| GpuDevice::open(adapter, most).map(Rc::new);
    let gpu = open(most)?;
    let device = Device::Gpu(gpu.clone());
    let (mut works, mut failures) = matmul::self_test(&device, &gpu);
    let of_attention = attention::self_test(&device, &gpu);
    works.attention &= of_attention.is_empty();
    failures.extend(of_attention);
    drop(device);
    if failures.is_empty() {
        return Ok(Device::Gpu(gpu));
    }
    for failure in failures {
        logging::warn(format_args!("{} is left unused: {failure}", gpu.describe()));
    }
    drop(gpu);
    open(&Caps { cooperative: works, ..most.clone() }).map(Device::Gpu)
}

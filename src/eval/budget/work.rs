//! What the forward pass of a sub-network asks of a device, found by rehearsing it.

use crate::error::Result;
use crate::gpu::Caps;
use crate::models::backbone::Backbone;
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use crate::tensor::{DType, Device, Tensor};

/// What a forward pass asks of a device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForwardWork {
    /// Dispatches of kernels.
    pub dispatches: f64,
    /// Floating-point operations, those of norms and activations too.
    pub flops: f64,
    /// Bytes read and written, each operand of a kernel once.
    pub bytes: f64,
    /// Bytes of weights and activations, at most at a time.
    pub memory: u64,
}

/// A sub-network cut out of `backbone`, on a device, with weights that are all the same: what it computes takes as long as with any others.
pub(super) fn cut_out(
    backbone: &dyn Backbone,
    network: Network,
    device: &Device,
) -> Result<(Box<dyn Backbone>, Parameters)> {
    let alone = backbone.alone(network)?;
    let layout = FlatLayout::new(&alone.specs(), device.max_tensor_bytes())?;
    Ok((alone, Parameters::frozen(FlatBuffers::zeros(&layout, device)?)))
}

/// Goes through the forward pass of `network`, cut out of `backbone`, with images of the shape `[n, channels, side, side]`, class tokens and
/// patches; nothing is computed. On the CPU the account is that of an adapter without limits.
pub fn rehearse(
    backbone: &dyn Backbone,
    network: Network,
    shape: [usize; 4],
    device: &Device,
) -> Result<ForwardWork> {
    let caps = match device {
        Device::Gpu(gpu) => gpu.caps().clone(),
        Device::Cpu(_) => Caps { max_binding_bytes: 1 << 40, ..Caps::minimal() },
    };
    let rehearsal = Device::rehearsal(&caps);
    let (alone, parameters) = cut_out(backbone, network, &rehearsal)?;
    let images = Tensor::zeros(&rehearsal, &shape, DType::F32)?;
    let tally = || match &rehearsal {
        Device::Gpu(gpu) => gpu.tally(),
        Device::Cpu(_) => Default::default(),
    };
    // what was made so far is no part of a pass
    tally();
    let encoder = Encoder { device: &rehearsal, backbone: &*alone, parameters: &parameters };
    encoder.features(alone.grid().intact(), &images, true)?;
    let tally = tally();
    Ok(ForwardWork {
        dispatches: tally.dispatches as f64,
        flops: tally.work.flops,
        bytes: tally.work.bytes,
        memory: rehearsal.peak_bytes() as u64,
    })
}

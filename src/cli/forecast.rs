//! What a run will need of its device's memory, said before it starts.

use crate::error::Result;
use crate::gpu::Caps;
use crate::memory;
use crate::poa::forecast::{Forecast, pieces, remedy};
use crate::recipes::Config;
use crate::tensor::Device;

/// What a run with these settings will need on the device of each of `ranks` ranks, and what would fit where that is more than there is.
///
/// Where `settles`, as for a new run, it writes into the settings in what pieces the device takes logits, if that follows
/// from the device's memory: the order of sums depends on it, and a resumed run keeps to it wherever it goes on.
pub(super) fn of_memory(
    config: &mut Config,
    device: &Device,
    settles: bool,
    ranks: usize,
) -> Result<(String, Option<String>)> {
    let (caps, has) = match device {
        // what a software adapter has is the machine's
        Device::Gpu(gpu) if gpu.caps().software => (gpu.caps().clone(), memory::available()),
        Device::Gpu(gpu) => (gpu.caps().clone(), gpu.memory()),
        // its tensors are those of an adapter that binds them whole
        Device::Cpu(_) => (Caps { max_binding_bytes: 1 << 40, ..Caps::minimal() }, memory::available()),
    };
    let has = has.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    let settled = match (device, has) {
        (Device::Gpu(_), Some(has)) if settles => pieces(config, &caps, has)?,
        _ => None,
    };
    let forecast = match settled {
        // decided without what ranks share, which must not change the order of sums
        Some((bytes, forecast)) => {
            config.step.prototype_chunk_bytes = bytes;
            match config.optim.shard && ranks > 1 {
                true => Forecast::of_ranks(config, &caps, ranks),
                false => Ok(forecast),
            }
        }
        None => Forecast::of_ranks(config, &caps, ranks),
    };
    let forecast = match (forecast, device) {
        (Ok(forecast), _) => forecast,
        // an adapter would refuse the run's steps as it does those of the rehearsal; this device need not
        (Err(e), Device::Cpu(_)) => return Ok((format!("not known: {e}"), None)),
        (Err(e), Device::Gpu(_)) => return Err(e),
    };
    let needs = forecast.describe();
    let Some(has) = has else { return Ok((needs, None)) };
    let told = format!("{needs}; {:.1} GiB are there", memory::gib(has as u64));
    if forecast.memory <= has {
        return Ok((told, None));
    }
    let would_fit = match remedy(config, &caps, has, ranks)? {
        Some(settings) => format!("{settings} would fit"),
        None => "a smaller network or smaller heads are needed".into(),
    };
    Ok((told, Some(format!("the run needs more memory than the device has; {would_fit}"))))
}

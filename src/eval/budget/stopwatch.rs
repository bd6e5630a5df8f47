//! How long the forward pass of a sub-network takes on a device.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::eval::budget::work::cut_out;
use crate::models::backbone::Backbone;
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::tensor::{DType, Device, Tensor, fill};

/// Passes before it counts: kernels are compiled, and memory is there.
const WARM_UP: usize = 2;
/// Passes that are timed, at least and at most.
const PASSES: (usize, usize) = (5, 200);
/// How long passes of one network are timed, where there are enough.
const LONG_ENOUGH: Duration = Duration::from_millis(800);

/// Times sub-networks, each cut out for itself.
pub struct Stopwatch<'a> {
    /// What they are cut out of.
    pub backbone: &'a dyn Backbone,
    /// Where they run.
    pub device: &'a Device,
    /// Of the images: `[n, channels, side, side]`.
    pub shape: [usize; 4],
}

impl Stopwatch<'_> {
    /// Median seconds from images on the device to their features, class tokens and patches, on the host.
    pub fn seconds(&self, network: Network) -> Result<f64> {
        let (alone, parameters) = cut_out(self.backbone, network, self.device)?;
        // memory that was never written to may be one page, which would be read faster than weights are
        for buffer in parameters.values().buffers() {
            fill(buffer, 0.01_f32.to_bits())?;
        }
        let images = Tensor::zeros(self.device, &self.shape, DType::F32)?;
        fill(&images.reshape(&[self.shape[0], self.shape[1..].iter().product()])?, 0.5_f32.to_bits())?;
        let encoder = Encoder { device: self.device, backbone: &*alone, parameters: &parameters };
        let network = alone.grid().intact();
        let pass = || -> Result<Duration> {
            let start = Instant::now();
            let (cls, patches) = encoder.features(network, &images, true)?;
            cls.to_vec::<f32>()?;
            patches.map(|patches| patches.to_vec::<f32>()).transpose()?;
            Ok(start.elapsed())
        };
        for _ in 0..WARM_UP {
            pass()?;
        }
        let (mut times, begin) = (Vec::new(), Instant::now());
        while times.len() < PASSES.0 || times.len() < PASSES.1 && begin.elapsed() < LONG_ENOUGH {
            times.push(pass()?);
        }
        times.sort_unstable();
        Ok(times[times.len() / 2].as_secs_f64())
    }
}

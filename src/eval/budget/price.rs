//! What a network costs, in numbers and in words.

use crate::models::grid::Network;

/// Seconds of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// How many.
    pub seconds: f64,
    /// Whether it was measured; otherwise it was predicted.
    pub measured: bool,
}

/// What a network costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// The network.
    pub network: Network,
    /// Its parameters, as timm counts them.
    pub parameters: u64,
    /// Floating-point operations of an image of the global crops' size.
    pub flops: u64,
    /// Bytes of its weights and activations, at most at a time, for the images of a pass.
    pub memory: u64,
    /// How long a pass takes, where that is known.
    pub latency: Option<Latency>,
}

impl Price {
    /// All costs, as in `4.31 ms measured, 21.60M parameters, 8.50 GFLOPs, 101.2 MiB`.
    pub fn describe(&self) -> String {
        let latency = self.latency.map_or_else(String::new, |latency| {
            let found = if latency.measured { "measured" } else { "predicted" };
            format!("{} {found}, ", milliseconds(latency.seconds))
        });
        let [parameters, flops, memory] =
            [millions(self.parameters as f64), gigaflops(self.flops as f64), mebibytes(self.memory as f64)];
        format!("{latency}{parameters}, {flops}, {memory}")
    }
}

/// Seconds as milliseconds, with three digits that count.
pub(super) fn milliseconds(seconds: f64) -> String {
    format!("{} ms", three_digits(1e3 * seconds))
}

/// A number of parameters.
pub(super) fn millions(parameters: f64) -> String {
    format!("{}M parameters", three_digits(parameters / 1e6))
}

/// A number of floating-point operations.
pub(super) fn gigaflops(flops: f64) -> String {
    format!("{} GFLOPs", three_digits(flops / 1e9))
}

/// Bytes, in MiB or GiB.
pub(super) fn mebibytes(bytes: f64) -> String {
    match bytes / 1048576.0 {
        mib if mib < 1024.0 => format!("{} MiB", three_digits(mib)),
        mib => format!("{} GiB", three_digits(mib / 1024.0)),
    }
}

fn three_digits(x: f64) -> String {
    let digits = (2.0 - x.abs().max(1e-9).log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{x:.digits$}")
}

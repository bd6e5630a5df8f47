//! What a device can do at best, to hold kernels against: a long run of multiply-adds from registers, and a large copy.

use rayon::prelude::*;

use crate::error::Result;
use crate::gpu::{Caps, Kernel, Shader, params};
use crate::ops::elementwise::copy;
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = Shader { name: "ceiling.wgsl", source: include_str!("../../shaders/ceiling.wgsl") };
const WG: u32 = 256;
/// Invocations of the arithmetic kernel.
const INVOCATIONS: usize = 1 << 16;
/// Rounds of eight multiply-adds on four lanes each.
const ROUNDS: usize = 512;

params!(CeilingParams { rounds: u32, offset: u32, seed: f32 });

fn kernel() -> Kernel {
    Kernel::new::<CeilingParams>(SHADER, "multiply_add", vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel()]
}

/// Runs the arithmetic kernel once into `out` (at least 65,536 elements) and returns how many operations that was.
pub fn multiply_add(out: &Tensor, seed: f32) -> Result<f64> {
    const LANES: usize = 16;
    const CHAINS: usize = 8;
    match out.device() {
        Device::Cpu(_) => {
            let rounds = ROUNDS * 64;
            let tasks = 4 * rayon::current_num_threads();
            out.cpu_mut::<f32>()[..tasks].par_iter_mut().enumerate().for_each(|(i, o)| {
                let mut acc = [[seed + i as f32; LANES]; CHAINS];
                for _ in 0..rounds {
                    for chain in &mut acc {
                        for v in chain {
                            *v = v.mul_add(0.999, seed);
                        }
                    }
                }
                *o = acc.iter().flatten().sum();
            });
            Ok((tasks * rounds * LANES * CHAINS * 2) as f64)
        }
        Device::Gpu(gpu) => {
            let params = CeilingParams { rounds: ROUNDS as u32, offset: out.layout().offset as u32, seed };
            gpu.dispatch(&kernel(), &[out], &params, [(INVOCATIONS as u32).div_ceil(WG), 1, 1])?;
            Ok((INVOCATIONS * ROUNDS * 4 * CHAINS * 2) as f64)
        }
    }
}

/// Copies `from` to `to` and returns the bytes read and written.
pub fn copied_bytes(to: &Tensor, from: &Tensor) -> Result<f64> {
    copy(to, from)?;
    Ok(8.0 * from.elements() as f64)
}

/// Tensors for [`multiply_add`] and [`copied_bytes`]: 64 MiB each.
pub fn scratch(device: &Device) -> Result<[Tensor; 2]> {
    let make = || Tensor::zeros(device, &[16 << 20], DType::F32);
    Ok([make()?, make()?])
}

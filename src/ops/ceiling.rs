//! What a device can do at best, to hold kernels against: much arithmetic on little memory, and a large copy.
//! On a GPU the arithmetic is a long run of multiply-adds from registers; on the CPU it is a large square
//! product.

use std::time::Instant;

use crate::error::Result;
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::profile::Ceiling;
use crate::tensor::{DType, Device, Tensor, copy, scale};

const SHADER: Shader = shader!("ceiling.wgsl", kernels);
const WG: u32 = 256;
/// Invocations of the arithmetic kernel.
const INVOCATIONS: usize = 1 << 16;
/// Rounds of eight multiply-adds on four lanes each.
const ROUNDS: usize = 512;

/// Rows and columns of the product on the CPU.
const CPU_SIDE: usize = 1536;

params!(CeilingParams { rounds: u32, offset: u32, seed: f32 });

fn kernel() -> Kernel {
    Kernel::new::<CeilingParams>(SHADER, "multiply_add", vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel()]
}

/// Does the arithmetic once, in a tensor of [`scratch`], and returns how many operations that was.
fn multiply_add(out: &Tensor, seed: f32) -> Result<f64> {
    match out.device() {
        Device::Cpu(_) => {
            let n = CPU_SIDE;
            let square = |at: usize| out.slice(0, at * n * n..(at + 1) * n * n)?.reshape(&[n, n]);
            scale(&square(0)?, &square(1)?, seed)?;
            let [a, b, c] = [0, 1, 2].map(|at| square(at).and_then(|t| Matrix::new(&t)));
            matmul(&a?, &b?, &c?, &Options::default())?;
            Ok(2.0 * (n as f64).powi(3))
        }
        Device::Gpu(gpu) => {
            let params = CeilingParams { rounds: ROUNDS, offset: out.layout().offset, seed };
            gpu.dispatch(&kernel(), &[out], &params, [INVOCATIONS.div_ceil(WG as usize), 1, 1])?;
            Ok((INVOCATIONS * ROUNDS * 4 * 8 * 2) as f64)
        }
    }
}

/// Measures both ceilings, each the median of five.
pub fn measure(device: &Device) -> Result<Ceiling> {
    let [a, b] = scratch(device)?;
    let rate = |run: &dyn Fn() -> Result<f64>| -> Result<f64> {
        run()?;
        let mut rates = Vec::new();
        for _ in 0..5 {
            device.synchronize()?;
            let start = Instant::now();
            let amount = run()?;
            device.synchronize()?;
            rates.push(amount / start.elapsed().as_secs_f64());
        }
        rates.sort_by(f64::total_cmp);
        Ok(rates[rates.len() / 2])
    };
    Ok(Ceiling { flops: rate(&|| multiply_add(&a, 0.5))?, bytes: rate(&|| copied_bytes(&b, &a))? })
}

/// Copies `from` to `to` and returns the bytes read and written.
fn copied_bytes(to: &Tensor, from: &Tensor) -> Result<f64> {
    copy(to, from)?;
    Ok(8.0 * from.elements() as f64)
}

/// Tensors for [`multiply_add`] and [`copied_bytes`]: 64 MiB each.
fn scratch(device: &Device) -> Result<[Tensor; 2]> {
    let make = || Tensor::zeros(device, &[16 << 20], DType::F32);
    Ok([make()?, make()?])
}

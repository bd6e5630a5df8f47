//! Sets every element of a tensor to one bit pattern.

use crate::cpu::for_rows;
use crate::error::Result;
use crate::gpu::{Caps, Kernel, Shader, params};
use crate::ops::elementwise::{WG, flat_rows};
use crate::profile;
use crate::tensor::{Device, Tensor};

const SHADER: Shader = Shader { name: "fill.wgsl", source: include_str!("../../shaders/fill.wgsl") };

params!(FillParams { count: u32, cols: u32, offset: u32, stride: u32, bits: u32 });

fn kernel() -> Kernel {
    Kernel::new::<FillParams>(SHADER, "fill", vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel()]
}

/// Writes `bits` to every element of `t`, a matrix of contiguous rows. `f32::to_bits` gives the pattern of a float.
pub fn fill(t: &Tensor, bits: u32) -> Result<()> {
    let _span = profile::operation("fill");
    let rows = flat_rows(t, "fill")?;
    match t.device() {
        Device::Cpu(_) => {
            let all = t.cpu_words();
            for_rows(all, rows, |_, row| row.fill(bits));
            Ok(())
        }
        Device::Gpu(gpu) => {
            let count = (rows.rows * rows.cols) as u32;
            let params = FillParams {
                count,
                cols: rows.cols as u32,
                offset: rows.offset as u32,
                stride: rows.stride as u32,
                bits,
            };
            gpu.dispatch(&kernel(), &[t], &params, gpu.caps().grid((count as usize).div_ceil(WG as usize)))
        }
    }
}

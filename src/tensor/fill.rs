//! Sets every element of a tensor to one bit pattern.

use crate::cpu::for_rows;
use crate::error::Result;
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, WG, activation_types, flat_rows, half_define};

const SHADER: Shader = shader!("fill.wgsl", kernels);

params!(FillParams { count: u32, cols: u32, offset: u32, stride: u32, bits: u32 });

fn kernel(dtype: DType) -> Kernel {
    let mut defines = vec![("WG", WG)];
    defines.extend(half_define(dtype));
    Kernel::new::<FillParams>(SHADER, "fill", defines)
}

/// All variants.
pub(super) fn kernels(caps: &Caps) -> Vec<Kernel> {
    activation_types(caps).map(kernel).collect()
}

/// Writes `bits` to every element of `t`, a matrix of contiguous rows. `f32::to_bits` gives the pattern of a
/// float, also for a tensor of halves.
pub fn fill(t: &Tensor, bits: u32) -> Result<()> {
    let _span = profile::operation("fill");
    let rows = flat_rows(t, "fill")?;
    match t.device() {
        Device::Cpu(_) => {
            match t.dtype() {
                DType::F32 => for_rows(
                    t.cpu_rows_mut::<f32>("fill")?.rows_mut(),
                    #[inline(always)]
                    |_, _, row| row.fill(f32::from_bits(bits)),
                ),
                DType::U32 => for_rows(
                    t.cpu_rows_mut::<u32>("fill")?.rows_mut(),
                    #[inline(always)]
                    |_, _, row| row.fill(bits),
                ),
                DType::F16 => for_rows(
                    t.cpu_rows_mut::<half::f16>("fill")?.rows_mut(),
                    #[inline(always)]
                    |_, _, row| row.fill(half::f16::from_f32(f32::from_bits(bits))),
                ),
            }
            Ok(())
        }
        Device::Gpu(gpu) => {
            let count = rows.rows * rows.cols;
            let params = FillParams {
                count,
                cols: rows.cols,
                offset: rows.offset,
                stride: rows.stride,
                bits: bits as usize,
            };
            let kernel = kernel(t.dtype());
            gpu.dispatch(&kernel, &[t], &params, gpu.caps().grid(count.div_ceil(WG as usize)))
        }
    }
}

impl Tensor {
    /// A contiguous tensor of zeros.
    pub fn zeros(device: &Device, shape: &[usize], dtype: DType) -> Result<Self> {
        let tensor = Self::empty(device, shape, dtype)?;
        fill(&tensor, 0)?;
        Ok(tensor)
    }
}

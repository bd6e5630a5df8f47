//! The column of the largest value of every row: the class of every pixel. Of equal values the first wins; NaN is never the
//! largest.

use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, WG};

const SHADER: Shader = shader!("argmax.wgsl", kernels);

params!(ArgmaxParams { rows: u32, cols: u32, x_offset: u32, x_stride: u32, out_offset: u32 });

fn kernel() -> Kernel {
    Kernel::new::<ArgmaxParams>(SHADER, "argmax", vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel()]
}

/// `u32 [rows, 1]` of x `[rows, columns]`.
pub fn argmax(x: &Tensor) -> Result<Tensor> {
    const NAME: &str = "argmax";
    let _span = profile::operation(NAME);
    let rx = x.rows(NAME)?;
    if rx.rows * rx.cols == 0 {
        return Err(Error::shape(NAME, format!("{x:?}")));
    }
    let out = Tensor::empty(x.device(), &[rx.rows, 1], DType::U32)?;
    match x.device() {
        Device::Cpu(_) => {
            let x = x.cpu_rows::<f32>(NAME)?;
            for_rows(
                out.cpu_rows_mut::<u32>(NAME)?.rows_mut(),
                #[inline(always)]
                |_, r, out| {
                    let (mut best, mut which) = (f32::NEG_INFINITY, 0);
                    for (c, v) in x.row(r).iter().enumerate() {
                        if *v > best {
                            (best, which) = (*v, c as u32);
                        }
                    }
                    out[0] = which;
                },
            );
        }
        Device::Gpu(gpu) => {
            let params = ArgmaxParams {
                rows: rx.rows,
                cols: rx.cols,
                x_offset: rx.offset,
                x_stride: rx.stride,
                out_offset: out.layout().offset,
            };
            gpu.dispatch(&kernel(), &[&out, x], &params, gpu.caps().grid(rx.rows.div_ceil(WG as usize)))?;
        }
    }
    Ok(out)
}

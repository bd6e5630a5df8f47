//! Copies between views of any strides: the layouts of convolutions' weights and images.

use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, WG, half_define};

const SHADER: Shader = shader!("strided_copy.wgsl", kernels);

params!(StridedCopyParams {
    count: u32,
    n1: u32,
    n2: u32,
    n3: u32,
    out_offset: u32,
    out_0: u32,
    out_1: u32,
    out_2: u32,
    out_3: u32,
    x_offset: u32,
    x_0: u32,
    x_1: u32,
    x_2: u32,
    x_3: u32,
    accumulate: bool,
});

fn kernel(to: DType, from: DType) -> Kernel {
    let mut defines = vec![("WG", WG)];
    defines.extend(half_define(to));
    defines.extend((from != to).then_some(("FROM_SINGLE", 1)));
    Kernel::new::<StridedCopyParams>(SHADER, "strided_copy", defines)
}

/// All variants.
pub(super) fn kernels(caps: &Caps) -> Vec<Kernel> {
    let mut all = vec![kernel(DType::F32, DType::F32)];
    if caps.f16 {
        all.extend([DType::F32, DType::F16].map(|from| kernel(DType::F16, from)));
    }
    all
}

/// `out (+)= x`, element by element, for views of one shape of four dimensions. `out` must not overlap
/// itself. On a GPU it may be of half precision, and x with it or not.
pub fn strided_copy(out: &Tensor, x: &Tensor, accumulate: bool) -> Result<()> {
    let _span = profile::operation("strided_copy");
    let wrong = || Error::shape("strided_copy", format!("{x:?} into {out:?}"));
    let four = |values: &[usize]| <[usize; 4]>::try_from(values).map_err(|_| wrong());
    let n = four(out.shape())?;
    let (o, s) = (four(&out.layout().strides)?, four(&x.layout().strides)?);
    let half = matches!(out.device(), Device::Gpu(_)) && out.dtype() == DType::F16;
    let types = match (x.dtype(), out.dtype()) {
        (DType::F32, DType::F32) => true,
        (DType::F32 | DType::F16, DType::F16) => half,
        _ => false,
    };
    if x.shape() != out.shape() || !types {
        return Err(wrong());
    }
    if out.elements() == 0 {
        return Ok(());
    }
    match out.device() {
        Device::Cpu(_) => {
            let from = &*x.cpu_read::<f32>("strided_copy")?;
            for_rows(
                out.cpu_elements_mut::<f32>("strided_copy")?.lines_mut(),
                #[inline(always)]
                |_, line, to| {
                    let [i, j, k] = [line / n[2] / n[1], line / n[2] % n[1], line % n[2]];
                    let from = &from[i * s[0] + j * s[1] + k * s[2]..];
                    for (l, to) in to.elements().enumerate() {
                        *to = from[l * s[3]] + if accumulate { *to } else { 0.0 };
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let [out_0, out_1, out_2, out_3] = o;
            let [x_0, x_1, x_2, x_3] = s;
            let params = StridedCopyParams {
                count: out.elements(),
                n1: n[1],
                n2: n[2],
                n3: n[3],
                out_offset: out.layout().offset,
                out_0,
                out_1,
                out_2,
                out_3,
                x_offset: x.layout().offset,
                x_0,
                x_1,
                x_2,
                x_3,
                accumulate,
            };
            let grid = gpu.caps().grid(out.elements().div_ceil(WG as usize));
            gpu.dispatch(&kernel(out.dtype(), x.dtype()), &[out, x], &params, grid)
        }
    }
}

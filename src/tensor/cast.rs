//! Conversion between single and half precision.

use half::f16;

use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, WG, common_rows};

const SHADER: Shader = shader!("cast.wgsl", kernels);

params!(CastParams {
    count: u32,
    cols: u32,
    out_offset: u32,
    out_stride: u32,
    a_offset: u32,
    a_stride: u32,
    factor_offset: u32,
});

fn kernel(to: DType, factor: bool, accumulate: bool) -> Kernel {
    let mut defines = vec![("WG", WG)];
    defines.extend((to == DType::F16).then_some(("TO_HALF", 1)));
    defines.extend(factor.then_some(("FACTOR", 1)));
    defines.extend(accumulate.then_some(("ACCUMULATE", 1)));
    Kernel::new::<CastParams>(SHADER, "convert", defines)
}

/// All variants.
pub(super) fn kernels(caps: &Caps) -> Vec<Kernel> {
    let mut all = Vec::new();
    for to in [DType::F16, DType::F32] {
        for [factor, accumulate] in [[false, false], [false, true], [true, false], [true, true]] {
            all.push(kernel(to, factor, accumulate));
        }
    }
    all.retain(|_| caps.f16);
    all
}

/// `out (+)= factor · a` where one is of single and the other of half precision. The factor is one element on
/// the device, or 1.
pub fn convert(out: &Tensor, a: &Tensor, factor: Option<&Tensor>, accumulate: bool) -> Result<()> {
    let _span = profile::operation("cast");
    let [o, r] = common_rows("cast", [out, a])?;
    let types = [out.dtype(), a.dtype()];
    if !types.contains(&DType::F16) || !types.contains(&DType::F32) {
        return Err(Error::shape("cast", format!("{a:?} into {out:?}")));
    }
    match out.device() {
        Device::Cpu(_) => {
            let factor = factor.map(|f| f.cpu_read::<f32>("cast")).transpose()?.map_or(1.0, |f| f[0]);
            match out.dtype() {
                DType::F16 => {
                    let a = a.cpu_rows::<f32>("cast")?;
                    for_rows(
                        out.cpu_rows_mut::<f16>("cast")?.rows_mut(),
                        #[inline(always)]
                        |_, i, y| {
                            for (y, a) in y.iter_mut().zip(a.row(i)) {
                                *y = f16::from_f32(factor * a + if accumulate { y.to_f32() } else { 0.0 });
                            }
                        },
                    );
                }
                _ => {
                    let a = a.cpu_rows::<f16>("cast")?;
                    for_rows(
                        out.cpu_rows_mut::<f32>("cast")?.rows_mut(),
                        #[inline(always)]
                        |_, i, y| {
                            for (y, a) in y.iter_mut().zip(a.row(i)) {
                                *y = factor * a.to_f32() + if accumulate { *y } else { 0.0 };
                            }
                        },
                    );
                }
            }
            Ok(())
        }
        Device::Gpu(gpu) => {
            let count = o.rows * o.cols;
            let params = CastParams {
                count,
                cols: o.cols,
                out_offset: o.offset,
                out_stride: o.stride,
                a_offset: r.offset,
                a_stride: r.stride,
                factor_offset: factor.map_or(0, |f| f.layout().offset),
            };
            let mut tensors = vec![out, a];
            tensors.extend(factor);
            let kernel = kernel(out.dtype(), factor.is_some(), accumulate);
            gpu.dispatch(&kernel, &tensors, &params, gpu.caps().grid(count.div_ceil(WG as usize)))
        }
    }
}

/// A tensor of the elements of `a` in another precision; `a` itself where it has it already.
pub fn to_type(a: &Tensor, dtype: DType) -> Result<Tensor> {
    if a.dtype() == dtype {
        return Ok(a.clone());
    }
    let out = Tensor::empty(a.device(), a.shape(), dtype)?;
    convert(&out, a, None, false)?;
    Ok(out)
}

//! Sums over the rows of a matrix: bias gradients and the like. On a GPU in two stages with a fixed order, so
//! that the result is the same bits in every run.

use crate::cpu::reduce_columns;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, activation_types, half_define, vec4_aligned};

const SHADER: Shader = shader!("reduce.wgsl", kernels);

/// Columns, or vectors of four columns, a workgroup sums.
const COLUMNS: u32 = 64;
/// Rows a workgroup sums in the first stage at least, and parts that the second one sums at most.
const ROWS: usize = 64;
const PARTS: usize = 256;

params!(ColumnSumParams {
    rows: u32,
    cols: u32,
    offset: u32,
    stride: u32,
    out_offset: u32,
    rows_per_part: u32,
    accumulate: bool,
    scale: f32,
});

fn kernel(dtype: DType, vec4: bool) -> Kernel {
    let mut defines = vec![("WG", COLUMNS)];
    defines.extend(vec4.then_some(("VEC4", 1)));
    defines.extend(half_define(dtype));
    Kernel::new::<ColumnSumParams>(SHADER, "column_sum", defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    activation_types(caps).flat_map(|dtype| [false, true].map(|vec4| kernel(dtype, vec4))).collect()
}

/// `out[c] (+)= scale · Σ_r x[r, c]` for a matrix `x` of contiguous rows and a contiguous `out` of its
/// width. On a GPU x may be of half precision.
pub fn column_sum(x: &Tensor, out: &Tensor, scale: f32, accumulate: bool) -> Result<()> {
    let _span = profile::operation("column_sum");
    let r = x.rows("column_sum")?;
    if out.elements() != r.cols || !out.layout().is_contiguous() {
        return Err(Error::shape("column_sum", format!("columns of {x:?} into {out:?}")));
    }
    match x.device() {
        Device::Cpu(_) => {
            let values = &*x.cpu_read::<f32>("column_sum")?;
            let sums = reduce_columns(
                r.rows,
                r.cols,
                #[inline(always)]
                |i, sums| {
                    sums.iter_mut().zip(&values[i * r.stride..][..r.cols]).for_each(|(s, v)| *s += v);
                },
            );
            for (o, s) in out.cpu_write::<f32>("column_sum")?.iter_mut().zip(sums) {
                *o = scale * s + if accumulate { *o } else { 0.0 };
            }
            Ok(())
        }
        Device::Gpu(gpu) => {
            let launch = |x: &Tensor, out: &Tensor, per_part: usize, scale: f32, accumulate: bool| {
                let r = x.rows("column_sum")?;
                let params = ColumnSumParams {
                    rows: r.rows,
                    cols: r.cols,
                    offset: r.offset,
                    stride: r.stride,
                    out_offset: out.layout().offset,
                    rows_per_part: per_part,
                    accumulate,
                    scale,
                };
                let parts = r.rows.div_ceil(per_part).max(1);
                let vec4 = vec4_aligned(&[r], &[out]);
                let units = if vec4 { r.cols / 4 } else { r.cols };
                gpu.dispatch(
                    &kernel(x.dtype(), vec4),
                    &[out, x],
                    &params,
                    [units.div_ceil(COLUMNS as usize), parts, 1],
                )
            };
            // a second stage only where the first leaves more than one part; its rows are few
            if r.rows <= PARTS {
                return launch(x, out, r.rows.max(1), scale, accumulate);
            }
            let per_part = ROWS.max(r.rows.div_ceil(PARTS));
            let parts = Tensor::empty(x.device(), &[r.rows.div_ceil(per_part), r.cols], DType::F32)?;
            launch(x, &parts, per_part, 1.0, false)?;
            launch(&parts, out, parts.dim(0), scale, accumulate)
        }
    }
}

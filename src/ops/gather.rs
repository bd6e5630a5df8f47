//! Rows picked from a matrix, and their gradient scattered back.

use crate::autograd::{Tape, Var};
use crate::cpu::{Places, for_rows};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, activation_types, half_define};

const SHADER: Shader = shader!("gather.wgsl", kernels);
const WG: u32 = 256;

params!(GatherParams {
    rows: u32,
    cols: u32,
    out_offset: u32,
    out_stride: u32,
    x_offset: u32,
    x_stride: u32,
    index_offset: u32,
});

fn kernel(entry: &'static str, dtype: DType) -> Kernel {
    let mut defines = vec![("WG", WG)];
    defines.extend(half_define(dtype));
    Kernel::new::<GatherParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    activation_types(caps)
        .flat_map(|dtype| ["gather", "scatter_add"].map(|entry| kernel(entry, dtype)))
        .collect()
}

/// `out[i] = x[index[i]]` for x `[rows, width]` and `u32` indices, each row at most once. On a GPU x may be
/// of half precision; then the output is as well.
pub fn gather_rows(tape: &Tape, x: &Var, index: &Tensor) -> Result<Var> {
    let _span = profile::operation("gather_rows");
    let rx = x.value().rows("gather_rows")?;
    if index.dtype() != DType::U32 || !index.layout().is_contiguous() {
        return Err(Error::shape("gather_rows", format!("indices {index:?}")));
    }
    let out = Tensor::empty(x.value().device(), &[index.elements(), rx.cols], x.value().dtype())?;
    gather(x.value(), index, &out)?;
    let index = index.clone();
    Ok(tape.record("gather_rows", [x], out, move |[dx], dy| dx.add_to(|dx| scatter_add(&dy, &index, dx))))
}

/// Rows `start..start + count` of x `[rows, width]`; nothing is moved forward.
pub fn narrow_rows(tape: &Tape, x: &Var, start: usize, count: usize) -> Result<Var> {
    let view = x.value().slice(0, start..start + count)?;
    Ok(tape.record("narrow_rows", [x], view, move |[dx], dy| {
        dx.add_to(|dx| crate::tensor::add_assign(&dx.slice(0, start..start + count)?, &dy))
    }))
}

fn params(out: &Tensor, x: &Tensor, index: &Tensor) -> Result<GatherParams> {
    let (ro, rx) = (out.rows("gather_rows")?, x.rows("gather_rows")?);
    Ok(GatherParams {
        rows: index.elements(),
        cols: ro.cols,
        out_offset: ro.offset,
        out_stride: ro.stride,
        x_offset: rx.offset,
        x_stride: rx.stride,
        index_offset: index.layout().offset,
    })
}

fn gather(x: &Tensor, index: &Tensor, out: &Tensor) -> Result<()> {
    let (rx, ro) = (x.rows("gather_rows")?, out.rows("gather_rows")?);
    match x.device() {
        Device::Cpu(_) => {
            let (x, index) = (&*x.cpu_read::<f32>("gather_rows")?, &*index.cpu_read::<u32>("gather_rows")?);
            for_rows(
                out.cpu_rows_mut::<f32>("gather_rows")?.rows_mut(),
                #[inline(always)]
                |_, i, out| {
                    out.copy_from_slice(&x[index[i] as usize * rx.stride..][..rx.cols]);
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let grid = gpu.caps().grid((ro.rows * ro.cols).div_ceil(WG as usize));
            gpu.dispatch(&kernel("gather", out.dtype()), &[out, x, index], &params(out, x, index)?, grid)
        }
    }
}

/// `dx[index[i]] += dy[i]`
fn scatter_add(dy: &Tensor, index: &Tensor, dx: &Tensor) -> Result<()> {
    let (rd, rx) = (dy.rows("gather_rows")?, dx.rows("gather_rows")?);
    match dy.device() {
        Device::Cpu(_) => {
            let (dy, index) = (&*dy.cpu_read::<f32>("gather_rows")?, &*index.cpu_read::<u32>("gather_rows")?);
            let places = Places::new("gather_rows", index, rx.rows)?;
            for_rows(
                dx.cpu_rows_mut::<f32>("gather_rows")?.rows_mut().scattered(&places),
                #[inline(always)]
                |_, i, row| {
                    let pairs = row.into_iter().flatten().zip(&dy[i * rd.stride..]);
                    pairs.for_each(|(o, d)| *o += d);
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let grid = gpu.caps().grid((rd.rows * rd.cols).div_ceil(WG as usize));
            gpu.dispatch(&kernel("scatter_add", dx.dtype()), &[dx, dy, index], &params(dx, dy, index)?, grid)
        }
    }
}

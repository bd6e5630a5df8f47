//! Rows divided by their Euclidean norm, `y = x / max(‖x‖, eps)`: the bottleneck of a projection head (eps
//! 1e-12) and the features that KoLeo compares (eps 1e-8). Saved: the norm of every row.

use crate::autograd::{Tape, Var};
use crate::cpu::{RowsMut, for_rows, math};
use crate::error::Result;
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::rows::{RowPlan, plan, strip};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, vec4_aligned};

const SHADER: Shader = shader!("l2_normalize.wgsl", kernels);

params!(L2NormalizeParams {
    rows: u32,
    cols: u32,
    x_offset: u32,
    x_stride: u32,
    y_offset: u32,
    y_stride: u32,
    dx_offset: u32,
    dx_stride: u32,
    norm_offset: u32,
    accumulate: bool,
    strip: u32,
    eps: f32,
});

fn kernel(backward: bool, plan: RowPlan) -> Kernel {
    let (entry, pass) = if backward { ("backward", "BACKWARD") } else { ("forward", "FORWARD") };
    let mut defines = plan.defines();
    defines.push((pass, 1));
    Kernel::new::<L2NormalizeParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    RowPlan::all(caps).into_iter().flat_map(|plan| [kernel(false, plan), kernel(true, plan)]).collect()
}

/// y = x / max(‖x‖, eps); `norms` `[rows]` gets ‖x‖.
fn forward(x: &Tensor, y: &Tensor, norms: &Tensor, eps: f32) -> Result<()> {
    let (rx, ry) = (x.rows("l2_normalize")?, y.rows("l2_normalize")?);
    match x.device() {
        Device::Cpu(_) => {
            let (x, n) = (&*x.cpu_read::<f32>("l2_normalize")?, rx.cols);
            for_rows(
                (
                    y.cpu_rows_mut::<f32>("l2_normalize")?.rows_mut(),
                    RowsMut::dense(&mut norms.cpu_write::<f32>("l2_normalize")?, 1),
                ),
                #[inline(always)]
                |_, i, (y, norm)| {
                    let row = &x[i * rx.stride..][..n];
                    norm[0] = math::sum_of([row], |[x]| x * x).sqrt();
                    let d = norm[0].max(eps);
                    y.iter_mut().zip(row).for_each(|(y, x)| *y = x / d);
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let plan = plan(rx.cols, vec4_aligned(&[rx, ry], &[]), gpu.caps());
            let strip = strip(rx.rows, rx.rows, gpu.caps());
            let params = L2NormalizeParams {
                rows: rx.rows,
                cols: rx.cols,
                strip,
                x_offset: rx.offset,
                x_stride: rx.stride,
                y_offset: ry.offset,
                y_stride: ry.stride,
                norm_offset: norms.layout().offset,
                eps,
                ..Default::default()
            };
            let grid = gpu.caps().grid(plan.team.workgroups(rx.rows.div_ceil(strip)));
            gpu.dispatch(&kernel(false, plan), &[y, norms, x], &params, grid)
        }
    }
}

/// dx (+)= (dy − y·(y·dy)) / ‖x‖, or dy / eps where ‖x‖ ≤ eps.
fn backward(x: &Tensor, norms: &Tensor, dy: &Tensor, dx: &Tensor, accumulate: bool, eps: f32) -> Result<()> {
    let (rx, rd, ro) = (x.rows("l2_normalize")?, dy.rows("l2_normalize")?, dx.rows("l2_normalize")?);
    match x.device() {
        Device::Cpu(_) => {
            let (x, norms, dy, n) = (
                &*x.cpu_read::<f32>("l2_normalize")?,
                &*norms.cpu_read::<f32>("l2_normalize")?,
                &*dy.cpu_read::<f32>("l2_normalize")?,
                rx.cols,
            );
            for_rows(
                dx.cpu_rows_mut::<f32>("l2_normalize")?.rows_mut(),
                #[inline(always)]
                |_, i, out| {
                    let (row, d) = (&x[i * rx.stride..][..n], &dy[i * rd.stride..][..n]);
                    let inverse = 1.0 / norms[i].max(eps);
                    let along = match norms[i] <= eps {
                        true => 0.0,
                        false => math::sum_of([row, d], |[x, d]| x * d) * inverse * inverse,
                    };
                    for ((o, x), d) in out.iter_mut().zip(row).zip(d) {
                        let g = (d - x * along) * inverse;
                        *o = if accumulate { *o + g } else { g };
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let plan = plan(rx.cols, vec4_aligned(&[rx, rd, ro], &[]), gpu.caps());
            let strip = strip(rx.rows, rx.rows, gpu.caps());
            let params = L2NormalizeParams {
                rows: rx.rows,
                cols: rx.cols,
                strip,
                x_offset: rx.offset,
                x_stride: rx.stride,
                y_offset: rd.offset,
                y_stride: rd.stride,
                dx_offset: ro.offset,
                dx_stride: ro.stride,
                norm_offset: norms.layout().offset,
                accumulate,
                eps,
            };
            let grid = gpu.caps().grid(plan.team.workgroups(rx.rows.div_ceil(strip)));
            gpu.dispatch(&kernel(true, plan), &[dx, norms, x, dy], &params, grid)
        }
    }
}

/// The rows of `x` `[.., width]` divided by max(their Euclidean norm, `eps`).
pub fn l2_normalize(tape: &Tape, x: &Var, eps: f32) -> Result<Var> {
    let _span = profile::operation("l2_normalize");
    let device = x.value().device();
    let y = Tensor::empty(device, x.value().shape(), DType::F32)?;
    let norms = Tensor::empty(device, &[x.value().rows("l2_normalize")?.rows], DType::F32)?;
    forward(x.value(), &y, &norms, eps)?;
    let input = x.value().clone();
    Ok(tape.record("l2_normalize", [x], y, move |[dx], dy| {
        dx.write(|dx, accumulate| backward(&input, &norms, &dy, dx, accumulate, eps))
    }))
}

//! Means over equal, consecutive runs of rows: the mean patch token of every image.

use crate::autograd::{Tape, Var};
use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor, WG};

const SHADER: Shader = shader!("segment_mean.wgsl", kernels);

params!(SegmentMeanParams {
    rows: u32,
    cols: u32,
    length: u32,
    out_offset: u32,
    out_stride: u32,
    x_offset: u32,
    x_stride: u32,
    accumulate: bool,
    scale: f32,
});

fn kernel(entry: &'static str) -> Kernel {
    Kernel::new::<SegmentMeanParams>(SHADER, entry, vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel("forward"), kernel("backward")]
}

fn launch(entry: &'static str, out: &Tensor, x: &Tensor, length: usize, accumulate: bool) -> Result<()> {
    let (ro, rx) = (out.rows("segment_mean")?, x.rows("segment_mean")?);
    let Device::Gpu(gpu) = out.device() else { unreachable!("launched on a GPU alone") };
    let params = SegmentMeanParams {
        rows: ro.rows,
        cols: ro.cols,
        length,
        out_offset: ro.offset,
        out_stride: ro.stride,
        x_offset: rx.offset,
        x_stride: rx.stride,
        accumulate,
        scale: 1.0 / length as f32,
    };
    let grid = gpu.caps().grid((ro.rows * ro.cols).div_ceil(WG as usize));
    gpu.dispatch(&kernel(entry), &[out, x], &params, grid)
}

fn forward(out: &Tensor, x: &Tensor, rx: Rows, length: usize) -> Result<()> {
    let Device::Cpu(_) = x.device() else { return launch("forward", out, x, length, false) };
    let (x, scale) = (&*x.cpu_read::<f32>("segment_mean")?, 1.0 / length as f32);
    for_rows(
        out.cpu_rows_mut::<f32>("segment_mean")?.rows_mut(),
        #[inline(always)]
        |_, s, out| {
            out.fill(0.0);
            for r in s * length..(s + 1) * length {
                out.iter_mut().zip(&x[r * rx.stride..]).for_each(|(o, x)| *o += x);
            }
            out.iter_mut().for_each(|o| *o *= scale);
        },
    );
    Ok(())
}

/// dx[s·length + i] (= or +=) dy[s] / length
fn backward(dx: &Tensor, dy: &Tensor, length: usize, accumulate: bool) -> Result<()> {
    let Device::Cpu(_) = dx.device() else { return launch("backward", dx, dy, length, accumulate) };
    let (rd, scale) = (dy.rows("segment_mean")?, 1.0 / length as f32);
    let dy = &*dy.cpu_read::<f32>("segment_mean")?;
    for_rows(
        dx.cpu_rows_mut::<f32>("segment_mean")?.rows_mut(),
        #[inline(always)]
        |_, r, dx| {
            for (o, d) in dx.iter_mut().zip(&dy[r / length * rd.stride..]) {
                *o = scale * d + if accumulate { *o } else { 0.0 };
            }
        },
    );
    Ok(())
}

/// Means `[segments, width]` of x `[segments·n, width]` over every n consecutive rows.
pub fn segment_mean(tape: &Tape, x: &Var, segments: usize) -> Result<Var> {
    let _span = profile::operation("segment_mean");
    let rx = x.value().rows("segment_mean")?;
    if segments == 0 || rx.rows == 0 || rx.rows % segments != 0 {
        return Err(Error::shape("segment_mean", format!("{:?} in {segments} runs of rows", x.value())));
    }
    let length = rx.rows / segments;
    if let Device::Gpu(gpu) = x.value().device() {
        gpu.caps().check_rounds("segment_mean", length, "a segment")?;
    }
    let out = Tensor::empty(x.value().device(), &[segments, rx.cols], DType::F32)?;
    forward(&out, x.value(), rx, length)?;
    Ok(tape.record("segment_mean", [x], out, move |[dx], dy| {
        dx.write(|dx, accumulate| backward(dx, &dy, length, accumulate))
    }))
}

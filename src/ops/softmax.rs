//! Softmax over the last dimension: y = softmax(scale·x), dx = scale·y∘(dy − Σ dy·y). Saved: y.

use crate::autograd::{Tape, Var};
use crate::cpu::{SyncPtr, for_rows, math, pieces};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params};
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = Shader { name: "softmax.wgsl", source: include_str!("../../shaders/softmax.wgsl") };

params!(SoftmaxParams {
    rows: u32,
    cols: u32,
    out_offset: u32,
    out_stride: u32,
    a_offset: u32,
    a_stride: u32,
    b_offset: u32,
    b_stride: u32,
    accumulate: u32,
    scale: f32,
});

/// Columns up to which an invocation handles a row alone.
const SHORT: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    Backward,
}

/// The kernel for rows of `cols` elements, and how many rows a workgroup handles.
fn kernel(pass: Pass, cols: usize) -> (Kernel, usize) {
    let (wg, rows) = match cols {
        cols if cols <= SHORT => (64, 64),
        0..=512 => (64, 1),
        _ => (256, 1),
    };
    let mut defines = vec![("WG", wg)];
    defines.extend((pass == Pass::Backward).then_some(("BACKWARD", 1)));
    defines.extend((rows > 1).then_some(("SHORT", 1)));
    (Kernel::new::<SoftmaxParams>(SHADER, "softmax", defines), rows)
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    let all = [Pass::Forward, Pass::Backward].map(|pass| [SHORT, 64, 1024].map(|cols| kernel(pass, cols).0));
    all.concat()
}

fn launch(
    pass: Pass,
    out: &Tensor,
    a: &Tensor,
    b: Option<&Tensor>,
    scale: f32,
    accumulate: bool,
) -> Result<()> {
    let Device::Gpu(gpu) = out.device() else {
        return Err(Error::shape("softmax", "a GPU tensor expected"));
    };
    let (ro, ra) = (out.rows("softmax")?, a.rows("softmax")?);
    let rb = b.map_or(Ok(ra), |b| b.rows("softmax"))?;
    let params = SoftmaxParams {
        rows: ro.rows as u32,
        cols: ro.cols as u32,
        out_offset: ro.offset as u32,
        out_stride: ro.stride as u32,
        a_offset: ra.offset as u32,
        a_stride: ra.stride as u32,
        b_offset: rb.offset as u32,
        b_stride: rb.stride as u32,
        accumulate: accumulate as u32,
        scale,
    };
    let (kernel, rows) = kernel(pass, ro.cols);
    let mut tensors = vec![out, a];
    tensors.extend(b);
    gpu.dispatch(&kernel, &tensors, &params, gpu.caps().grid(ro.rows.div_ceil(rows)))
}

fn forward(x: &Tensor, y: &Tensor, scale: f32) -> Result<()> {
    if let Device::Gpu(_) = x.device() {
        return launch(Pass::Forward, y, x, None, scale, false);
    }
    let (rx, ry) = (x.rows("softmax")?, y.rows("softmax")?);
    let (x, n) = (x.cpu::<f32>(), rx.cols);
    for_rows(y.cpu_mut(), ry, |r, y: &mut [f32]| {
        let x = &x[r * rx.stride..][..n];
        let peak = math::max(n, |c| scale * x[c]);
        y.iter_mut().zip(x).for_each(|(y, x)| *y = math::exp(scale * x - peak));
        let share = 1.0 / math::sum(n, |c| y[c]);
        y.iter_mut().for_each(|y| *y *= share);
    });
    Ok(())
}

fn backward(y: &Tensor, dy: &Tensor, dx: &Tensor, scale: f32, accumulate: bool) -> Result<()> {
    if let Device::Gpu(_) = y.device() {
        return launch(Pass::Backward, dx, y, Some(dy), scale, accumulate);
    }
    let (ry, rd, ro) = (y.rows("softmax")?, dy.rows("softmax")?, dx.rows("softmax")?);
    let (y, dy, n) = (y.cpu::<f32>(), dy.cpu::<f32>(), ry.cols);
    let out = SyncPtr(dx.cpu_mut::<f32>().as_mut_ptr());
    pieces(ry.rows, n, |range| {
        for r in range {
            let (y, dy) = (&y[r * ry.stride..][..n], &dy[r * rd.stride..][..n]);
            // SAFETY: rows are disjoint.
            let out = unsafe { out.slice(r * ro.stride, n) };
            let dot = math::sum(n, |c| y[c] * dy[c]);
            for ((o, y), dy) in out.iter_mut().zip(y).zip(dy) {
                let d = scale * y * (dy - dot);
                *o = if accumulate { *o + d } else { d };
            }
        }
    });
    Ok(())
}

/// softmax(scale·x) over the last dimension of `x` `[.., cols]`, whose rows may lie apart. The output is dense.
pub fn softmax(tape: &Tape, x: &Var, scale: f32) -> Result<Var> {
    x.value().rows("softmax")?;
    let y = Tensor::empty(x.value().device(), x.value().shape(), DType::F32)?;
    forward(x.value(), &y, scale)?;
    let (input, saved) = (x.clone(), y.clone());
    Ok(tape.record("softmax", &[x], y, move |g, dy| match g.target(&input)? {
        Some(t) => backward(&saved, &dy, &t.tensor, scale, t.accumulate),
        None => Ok(()),
    }))
}

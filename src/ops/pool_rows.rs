//! Means of runs of rows that may overlap: the mean of a map, and the cells of a map of which several patches stand on one.
//! The gradient of a row adds up what all runs with it get, from a list made on the host.

use crate::autograd::{Tape, Var};
use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params};
use crate::ops::elementwise::WG;
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader =
    Shader { name: "pool_rows.wgsl", source: include_str!("../../shaders/pool_rows.wgsl") };

params!(PoolParams {
    rows: u32,
    cols: u32,
    out_offset: u32,
    out_stride: u32,
    x_offset: u32,
    x_stride: u32,
    spans_offset: u32,
    offsets_offset: u32,
    users_offset: u32,
    accumulate: u32,
});

fn kernel(entry: &'static str) -> Kernel {
    let flag = if entry == "forward" { "FORWARD" } else { "BACKWARD" };
    Kernel::new::<PoolParams>(SHADER, entry, vec![("WG", WG), (flag, 1)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel("forward"), kernel("backward")]
}

/// Runs of rows of a matrix.
#[derive(Clone)]
pub struct RowSpans {
    /// `u32 [runs, 2]`: first row and length.
    spans: Tensor,
    /// `u32 [rows + 1]`: where each row's list of runs starts.
    offsets: Tensor,
    /// `u32`: the lists, one after the other; never empty.
    users: Tensor,
    rows: usize,
}

impl RowSpans {
    /// Runs (first row, length) within `rows` rows; no run is empty.
    pub fn new(device: &Device, rows: usize, spans: &[(usize, usize)]) -> Result<Self> {
        if let Some(span) = spans.iter().find(|(first, length)| *length == 0 || first + length > rows) {
            return Err(Error::shape("pool_rows", format!("run {span:?} (first, length) of {rows} rows")));
        }
        let mut offsets = vec![0u32; rows + 1];
        for &(first, length) in spans {
            offsets[first + 1..=first + length].iter_mut().for_each(|n| *n += 1);
        }
        for r in 0..rows {
            offsets[r + 1] += offsets[r];
        }
        let mut users = vec![0u32; (offsets[rows] as usize).max(1)];
        let mut next = offsets.clone();
        for (i, &(first, length)) in spans.iter().enumerate() {
            for place in &mut next[first..first + length] {
                users[*place as usize] = i as u32;
                *place += 1;
            }
        }
        let flat: Vec<u32> = spans.iter().flat_map(|&(a, b)| [a as u32, b as u32]).collect();
        Ok(Self {
            spans: Tensor::from_slice(device, &[spans.len(), 2], &flat)?,
            offsets: Tensor::from_slice(device, &[offsets.len()], &offsets)?,
            users: Tensor::from_slice(device, &[users.len()], &users)?,
            rows,
        })
    }
}

/// The mean of every run of rows of x `[rows, width]`: `[runs, width]`.
pub fn pool_rows(tape: &Tape, x: &Var, spans: &RowSpans) -> Result<Var> {
    let rx = x.value().rows("pool_rows")?;
    if rx.rows != spans.rows {
        return Err(Error::shape("pool_rows", format!("{:?} in runs of {} rows", x.value(), spans.rows)));
    }
    let y = Tensor::empty(x.value().device(), &[spans.spans.dim(0), rx.cols], DType::F32)?;
    forward(x.value(), spans, &y)?;
    let (vx, spans) = (x.clone(), spans.clone());
    Ok(tape.record("pool_rows", &[x], y, move |g, dy| match g.target(&vx)? {
        Some(t) => backward(&dy, &spans, &t.tensor, t.accumulate),
        None => Ok(()),
    }))
}

fn params(out: &Tensor, x: &Tensor, spans: &RowSpans) -> Result<PoolParams> {
    let (ro, rx) = (out.rows("pool_rows")?, x.rows("pool_rows")?);
    Ok(PoolParams {
        rows: ro.rows as u32,
        cols: ro.cols as u32,
        out_offset: ro.offset as u32,
        out_stride: ro.stride as u32,
        x_offset: rx.offset as u32,
        x_stride: rx.stride as u32,
        spans_offset: spans.spans.layout().offset as u32,
        offsets_offset: spans.offsets.layout().offset as u32,
        users_offset: spans.users.layout().offset as u32,
        accumulate: 0,
    })
}

fn forward(x: &Tensor, spans: &RowSpans, y: &Tensor) -> Result<()> {
    let (rx, ry) = (x.rows("pool_rows")?, y.rows("pool_rows")?);
    match x.device() {
        Device::Cpu(_) => {
            let (x, spans) = (x.cpu::<f32>(), spans.spans.cpu::<u32>());
            for_rows(y.cpu_mut::<f32>(), ry, |i, y| {
                let (first, length) = (spans[2 * i] as usize, spans[2 * i + 1] as usize);
                y.fill(0.0);
                for r in first..first + length {
                    y.iter_mut().zip(&x[r * rx.stride..]).for_each(|(o, x)| *o += x);
                }
                y.iter_mut().for_each(|o| *o /= length as f32);
            });
            Ok(())
        }
        Device::Gpu(gpu) => {
            let grid = gpu.caps().grid((ry.rows * ry.cols).div_ceil(WG as usize));
            gpu.dispatch(&kernel("forward"), &[y, x, &spans.spans], &params(y, x, spans)?, grid)
        }
    }
}

fn backward(dy: &Tensor, spans: &RowSpans, dx: &Tensor, accumulate: bool) -> Result<()> {
    let (rd, rx) = (dy.rows("pool_rows")?, dx.rows("pool_rows")?);
    match dy.device() {
        Device::Cpu(_) => {
            let (dy, lengths) = (dy.cpu::<f32>(), spans.spans.cpu::<u32>());
            let (offsets, users) = (spans.offsets.cpu::<u32>(), spans.users.cpu::<u32>());
            for_rows(dx.cpu_mut::<f32>(), rx, |r, dx| {
                if !accumulate {
                    dx.fill(0.0);
                }
                for &i in &users[offsets[r] as usize..offsets[r + 1] as usize] {
                    let (i, share) = (i as usize, 1.0 / lengths[2 * i as usize + 1] as f32);
                    dx.iter_mut().zip(&dy[i * rd.stride..]).for_each(|(o, d)| *o += share * d);
                }
            });
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = PoolParams { accumulate: accumulate as u32, ..params(dx, dy, spans)? };
            let tensors = [dx, dy, &spans.spans, &spans.offsets, &spans.users];
            let grid = gpu.caps().grid((rx.rows * rx.cols).div_ceil(WG as usize));
            gpu.dispatch(&kernel("backward"), &tensors, &params, grid)
        }
    }
}

//! BatchNorm of maps, `y = (x − mean)·rstd·γ + β`, then ReLU where asked for. Over a batch it is a GroupNorm whose groups are
//! single channels and whose one image are all maps; of single maps it takes running statistics. Single precision.
//!
//! Running statistics are `[channels, 2]`: mean and variance of every channel.

use crate::autograd::{Tape, Var};
use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::group_norm::{GroupNorm, group_norm_with_statistics};
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor, WG};

const SHADER: Shader = shader!("batch_norm.wgsl", kernels);

/// Added to variances: PyTorch's.
pub const EPS: f32 = 1e-5;

params!(BatchNormParams {
    count: u32,
    cols: u32,
    x_offset: u32,
    x_stride: u32,
    y_offset: u32,
    y_stride: u32,
    gamma_offset: u32,
    beta_offset: u32,
    running_offset: u32,
    statistics_offset: u32,
    relu: bool,
    momentum: f32,
    unbiased: f32,
    eps: f32,
});

fn kernel(entry: &'static str) -> Kernel {
    let flag = if entry == "apply" { "APPLY" } else { "FOLLOW" };
    Kernel::new::<BatchNormParams>(SHADER, entry, vec![("WG", WG), (flag, 1)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel("apply"), kernel("follow")]
}

/// BatchNorm of maps `x` `[rows, channels]` by their own statistics, with `gamma` and `beta` `[channels]`; `running` comes
/// nearer to them by `momentum`, with the unbiased variance, as in PyTorch.
pub fn batch_norm(
    tape: &Tape,
    x: &Var,
    [gamma, beta]: [&Var; 2],
    running: &Tensor,
    momentum: f32,
    relu: bool,
) -> Result<Var> {
    let cols = x.value().dim(1);
    let how = GroupNorm { images: 1, groups: cols, eps: EPS, relu };
    let (y, statistics) = group_norm_with_statistics(tape, x, gamma, beta, None, how)?;
    follow(running, &statistics.reshape(&[cols, 2])?, x.value().dim(0), momentum)?;
    Ok(y)
}

fn fits(running: &Tensor, cols: usize) -> bool {
    running.shape() == [cols, 2] && running.layout().is_contiguous() && running.dtype() == DType::F32
}

/// `running += momentum·(what a batch of so many rows has − running)`, of `statistics` `[channels, 2]`: mean and reciprocal
/// standard deviation.
fn follow(running: &Tensor, statistics: &Tensor, rows: usize, momentum: f32) -> Result<()> {
    const NAME: &str = "batch_norm_follow";
    let _span = profile::operation(NAME);
    let cols = statistics.dim(0);
    if !fits(running, cols) {
        return Err(Error::shape(NAME, format!("running statistics {running:?} of {cols} channels")));
    }
    let unbiased = rows as f32 / rows.saturating_sub(1).max(1) as f32;
    match running.device() {
        Device::Cpu(_) => {
            let statistics = statistics.cpu_rows::<f32>(NAME)?;
            for_rows(
                running.cpu_rows_mut::<f32>(NAME)?.rows_mut(),
                #[inline(always)]
                |_, c, running| {
                    let [mean, rstd] = [statistics.row(c)[0], statistics.row(c)[1]];
                    let variance = (1.0 / (rstd * rstd) - EPS).max(0.0) * unbiased;
                    running[0] += momentum * (mean - running[0]);
                    running[1] += momentum * (variance - running[1]);
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = BatchNormParams {
                count: cols,
                running_offset: running.layout().offset,
                statistics_offset: statistics.layout().offset,
                momentum,
                unbiased,
                eps: EPS,
                ..Default::default()
            };
            let grid = gpu.caps().grid(cols.div_ceil(WG as usize));
            gpu.dispatch(&kernel("follow"), &[running, statistics], &params, grid)
        }
    }
}

/// BatchNorm of maps `x` `[rows, channels]` by running statistics, without a gradient.
pub fn batch_norm_by(
    x: &Tensor,
    [gamma, beta]: [&Tensor; 2],
    running: &Tensor,
    relu: bool,
) -> Result<Tensor> {
    const NAME: &str = "batch_norm";
    let _span = profile::operation(NAME);
    let rx = x.rows(NAME)?;
    let vector = |v: &Tensor| v.elements() == rx.cols && v.layout().is_contiguous();
    if rx.rows == 0 || !vector(gamma) || !vector(beta) || !fits(running, rx.cols) {
        return Err(Error::shape(
            NAME,
            format!("x {x:?}, gamma {gamma:?}, beta {beta:?}, running {running:?}"),
        ));
    }
    let y = Tensor::empty(x.device(), x.shape(), DType::F32)?;
    match x.device() {
        Device::Cpu(_) => apply_on_cpu(&y, x, [gamma, beta], running, relu)?,
        Device::Gpu(gpu) => {
            let ry: Rows = y.rows(NAME)?;
            let params = BatchNormParams {
                count: rx.rows * rx.cols,
                cols: rx.cols,
                x_offset: rx.offset,
                x_stride: rx.stride,
                y_offset: ry.offset,
                y_stride: ry.stride,
                gamma_offset: gamma.layout().offset,
                beta_offset: beta.layout().offset,
                running_offset: running.layout().offset,
                relu,
                eps: EPS,
                ..Default::default()
            };
            let grid = gpu.caps().grid((rx.rows * rx.cols).div_ceil(WG as usize));
            gpu.dispatch(&kernel("apply"), &[&y, running, x, gamma, beta], &params, grid)?;
        }
    }
    Ok(y)
}

fn apply_on_cpu(
    y: &Tensor,
    x: &Tensor,
    [gamma, beta]: [&Tensor; 2],
    running: &Tensor,
    relu: bool,
) -> Result<()> {
    const NAME: &str = "batch_norm";
    let (gamma, beta) = (&*gamma.cpu_read::<f32>(NAME)?, &*beta.cpu_read::<f32>(NAME)?);
    let x = x.cpu_rows::<f32>(NAME)?;
    let running = &*running.cpu_read::<f32>(NAME)?;
    // factor and shift of every channel
    let channel: Vec<[f32; 2]> = running
        .chunks_exact(2)
        .zip(gamma.iter().zip(beta))
        .map(|(s, (gamma, beta))| {
            let factor = gamma / (s[1] + EPS).sqrt();
            [factor, beta - s[0] * factor]
        })
        .collect();
    for_rows(
        y.cpu_rows_mut::<f32>(NAME)?.rows_mut(),
        #[inline(always)]
        |_, r, y| {
            for ((y, x), [factor, shift]) in y.iter_mut().zip(x.row(r)).zip(&channel) {
                let value = x * factor + shift;
                // NaN stays, so that the check for it finds it
                *y = if relu && value < 0.0 { 0.0 } else { value };
            }
        },
    );
    Ok(())
}

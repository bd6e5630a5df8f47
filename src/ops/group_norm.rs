//! GroupNorm of maps with sliced parameters, `y = (x − mean)·rstd·γ + β [+ residual]`, then ReLU where asked
//! for. The number of groups is fixed, so that groups narrow with the channels. Saved: mean and rstd of every
//! image and group, and with ReLU the output. On a GPU maps may be of half precision, with sums in single.

use rayon::prelude::*;

use crate::autograd::{Tape, Target, Var};
use crate::cpu::{Arch, RowsMut, even_cuts, for_rows, par_parts};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::reduce::column_sum;
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor, activation_types, copy, half_define};

const SHADER: Shader = shader!("group_norm.wgsl", kernels);

params!(GroupNormParams {
    images: u32,
    rows: u32,
    cols: u32,
    groups: u32,
    slices: u32,
    x_offset: u32,
    x_stride: u32,
    y_offset: u32,
    y_stride: u32,
    residual_offset: u32,
    residual_stride: u32,
    gamma_offset: u32,
    beta_offset: u32,
    stats_offset: u32,
    parts_offset: u32,
    out_offset: u32,
    out_stride: u32,
    accumulate: bool,
    eps: f32,
});

/// Rows of an image that an invocation sums for the gradients.
const SLICE: usize = 256;
/// Rows that are summed by themselves, so that long sums are made of short ones.
const SHORT: usize = 64;
const WG: u32 = 256;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward { relu: bool, residual: bool },
    Sums,
    Backward,
    Relu,
}

fn kernel(pass: Pass, dtype: DType) -> Kernel {
    let (entry, define, wg) = match pass {
        Pass::Forward { .. } => ("forward", "FORWARD", WG),
        Pass::Sums => ("sums", "SUMS", 64),
        Pass::Backward => ("backward", "BACKWARD", WG),
        Pass::Relu => ("relu_gradient", "RELU_GRADIENT", WG),
    };
    let mut defines = vec![("WG", wg), (define, 1)];
    defines.extend(half_define(dtype));
    if let Pass::Forward { relu, residual } = pass {
        defines.extend(relu.then_some(("RELU", 1)));
        defines.extend(residual.then_some(("RESIDUAL", 1)));
    }
    Kernel::new::<GroupNormParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let forward = [(false, false), (false, true), (true, false), (true, true)]
        .map(|(relu, residual)| Pass::Forward { relu, residual });
    let passes = || forward.into_iter().chain([Pass::Sums, Pass::Backward, Pass::Relu]);
    activation_types(caps).flat_map(|dtype| passes().map(move |pass| kernel(pass, dtype))).collect()
}

/// What is normalised and how.
#[derive(Clone, Copy, Debug)]
pub struct GroupNorm {
    /// Images; each has as many consecutive rows.
    pub images: usize,
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether ReLU follows.
    pub relu: bool,
}

/// Everything the passes share.
struct Call {
    norm: GroupNorm,
    x: Tensor,
    gamma: Tensor,
    /// `[images, groups, 2]`: mean and reciprocal standard deviation.
    stats: Tensor,
}

/// Σ f(row, channel) over the rows of an image, by channel.
#[inline(always)]
fn channel_sums(rows: usize, sums: &mut [f64], mut add: impl FnMut(usize, &mut [f32])) {
    let mut short = vec![0.0f32; sums.len()];
    for start in (0..rows).step_by(SHORT) {
        short.fill(0.0);
        for r in start..(start + SHORT).min(rows) {
            add(r, &mut short);
        }
        sums.iter_mut().zip(&short).for_each(|(s, v)| *s += f64::from(*v));
    }
}

impl Call {
    /// Rows of an image, channels of a group.
    fn sizes(&self, x: Rows) -> (usize, usize) {
        (x.rows / self.norm.images, x.cols / self.norm.groups)
    }

    fn params(&self, x: Rows) -> GroupNormParams {
        let (rows, _) = self.sizes(x);
        GroupNormParams {
            images: self.norm.images,
            rows,
            cols: x.cols,
            groups: self.norm.groups,
            slices: rows.div_ceil(SLICE),
            x_offset: x.offset,
            x_stride: x.stride,
            gamma_offset: self.gamma.layout().offset,
            stats_offset: self.stats.layout().offset,
            eps: self.norm.eps,
            ..Default::default()
        }
    }

    fn forward(&self, beta: &Tensor, residual: Option<&Tensor>, y: &Tensor) -> Result<()> {
        let (rx, ry) = (self.x.rows("group_norm")?, y.rows("group_norm")?);
        let rr = residual.map(|r| r.rows("group_norm")).transpose()?.unwrap_or(rx);
        let GroupNorm { images, groups, eps, relu } = self.norm;
        let (rows, width) = self.sizes(rx);
        match y.device() {
            Device::Cpu(_) => {
                let (x, gamma, beta) = (
                    &*self.x.cpu_read::<f32>("group_norm")?,
                    &*self.gamma.cpu_read::<f32>("group_norm")?,
                    &*beta.cpu_read::<f32>("group_norm")?,
                );
                let residual = residual.map(|r| r.cpu_read::<f32>("group_norm")).transpose()?;
                let residual = residual.as_deref();
                let stats = &mut *self.stats.cpu_write::<f32>("group_norm")?;
                let stats = RowsMut::dense(stats, groups * 2);
                let mut out = y.cpu_rows_mut::<f32>("group_norm")?;
                let out = out.rows_mut().tiles(even_cuts(images * rows, rows), rx.cols);
                let (n, count, arch) = (rx.cols, (rows * width) as f64, Arch::get());
                par_parts((stats, out)).for_each(|(image, (stats, mut out))| {
                    arch.run(
                        #[inline(always)]
                        |_| {
                            let row = |r: usize| &x[(image * rows + r) * rx.stride..][..n];
                            let mut sums = vec![0.0f64; n];
                            channel_sums(rows, &mut sums, |r, s| {
                                s.iter_mut().zip(row(r)).for_each(|(s, v)| *s += v)
                            });
                            let by_group = |sums: &[f64]| -> Vec<f64> {
                                sums.chunks_exact(width).map(|c| c.iter().sum::<f64>() / count).collect()
                            };
                            let means = by_group(&sums);
                            let mean: Vec<f32> = (0..n).map(|c| means[c / width] as f32).collect();
                            sums.fill(0.0);
                            channel_sums(rows, &mut sums, |r, s| {
                                s.iter_mut()
                                    .zip(row(r))
                                    .zip(&mean)
                                    .for_each(|((s, v), m)| *s += (v - m) * (v - m));
                            });
                            let rstds: Vec<f32> = by_group(&sums)
                                .iter()
                                .map(|v| (1.0 / (v + f64::from(eps)).sqrt()) as f32)
                                .collect();
                            for (s, (m, r)) in stats.chunks_exact_mut(2).zip(means.iter().zip(&rstds)) {
                                s.copy_from_slice(&[*m as f32, *r]);
                            }
                            let factor: Vec<f32> = (0..n).map(|c| rstds[c / width] * gamma[c]).collect();
                            for r in 0..rows {
                                let at = image * rows + r;
                                let (x, y) = (row(r), out.row(r));
                                for c in 0..n {
                                    y[c] = (x[c] - mean[c]) * factor[c] + beta[c];
                                }
                                if let Some(residual) = residual {
                                    y.iter_mut().zip(&residual[at * rr.stride..]).for_each(|(y, r)| *y += r);
                                }
                                if relu {
                                    // NaN stays, so that the check for it finds it
                                    y.iter_mut().for_each(|y| *y = if *y < 0.0 { 0.0 } else { *y });
                                }
                            }
                        },
                    );
                });
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = GroupNormParams {
                    y_offset: ry.offset,
                    y_stride: ry.stride,
                    residual_offset: rr.offset,
                    residual_stride: rr.stride,
                    beta_offset: beta.layout().offset,
                    ..self.params(rx)
                };
                let kernel = kernel(Pass::Forward { relu, residual: residual.is_some() }, y.dtype());
                let mut tensors = vec![y, &self.stats, &self.x, &self.gamma, beta];
                tensors.extend(residual);
                gpu.dispatch(&kernel, &tensors, &params, gpu.caps().grid(images * groups))
            }
        }
    }

    /// For every image (and slice of its rows, on a GPU) Σ dy·x̂ by channel, then Σ dy: `[parts,
    /// 2·channels]`.
    fn sums(&self, dy: &Tensor) -> Result<Tensor> {
        let (rx, rd) = (self.x.rows("group_norm")?, dy.rows("group_norm")?);
        let GroupNorm { images, groups, .. } = self.norm;
        let (rows, width) = self.sizes(rx);
        let n = rx.cols;
        match dy.device() {
            Device::Cpu(_) => {
                let parts = Tensor::empty(dy.device(), &[images, 2 * n], DType::F32)?;
                let (x, dy, stats) = (
                    &*self.x.cpu_read::<f32>("group_norm")?,
                    &*dy.cpu_read::<f32>("group_norm")?,
                    &*self.stats.cpu_read::<f32>("group_norm")?,
                );
                let arch = Arch::get();
                parts.cpu_write::<f32>("group_norm")?.par_chunks_mut(2 * n).enumerate().for_each(
                    |(image, out)| {
                        arch.run(
                            #[inline(always)]
                            |_| {
                                let stats = &stats[image * groups * 2..][..groups * 2];
                                let mean: Vec<f32> = (0..n).map(|c| stats[2 * (c / width)]).collect();
                                let mut sums = vec![0.0f64; 2 * n];
                                channel_sums(rows, &mut sums, |r, s| {
                                    let x = &x[(image * rows + r) * rx.stride..][..n];
                                    let d = &dy[(image * rows + r) * rd.stride..][..n];
                                    let (g, b) = s.split_at_mut(n);
                                    for c in 0..n {
                                        g[c] += d[c] * (x[c] - mean[c]);
                                        b[c] += d[c];
                                    }
                                });
                                for (c, (o, s)) in out.iter_mut().zip(&sums).enumerate() {
                                    let rstd =
                                        if c < n { f64::from(stats[2 * (c / width) + 1]) } else { 1.0 };
                                    *o = (s * rstd) as f32;
                                }
                            },
                        );
                    },
                );
                Ok(parts)
            }
            Device::Gpu(gpu) => {
                let slices = rows.div_ceil(SLICE);
                let parts = Tensor::empty(dy.device(), &[images * slices, 2 * n], DType::F32)?;
                let params = GroupNormParams {
                    y_offset: rd.offset,
                    y_stride: rd.stride,
                    parts_offset: parts.layout().offset,
                    ..self.params(rx)
                };
                let grid = gpu.caps().grid(n.div_ceil(64) * images * slices);
                let kernel = kernel(Pass::Sums, dy.dtype());
                gpu.dispatch(&kernel, &[&parts, &self.stats, &self.x, dy], &params, grid)?;
                Ok(parts)
            }
        }
    }

    /// dx (+)= rstd·(γdy − mean(γdy) − x̂·mean(γdy·x̂)), means over image and group.
    fn backward_input(&self, dy: &Tensor, parts: &Tensor, dx: &Target) -> Result<()> {
        let (rx, rd) = (self.x.rows("group_norm")?, dy.rows("group_norm")?);
        let (ro, accumulate) = (dx.tensor.rows("group_norm")?, dx.accumulate);
        let GroupNorm { images, groups, .. } = self.norm;
        let (rows, width) = self.sizes(rx);
        let n = rx.cols;
        match dy.device() {
            Device::Cpu(_) => {
                let (x, dy, parts) = (
                    &*self.x.cpu_read::<f32>("group_norm")?,
                    &*dy.cpu_read::<f32>("group_norm")?,
                    &*parts.cpu_read::<f32>("group_norm")?,
                );
                let (gamma, stats) = (
                    &*self.gamma.cpu_read::<f32>("group_norm")?,
                    &*self.stats.cpu_read::<f32>("group_norm")?,
                );
                let mut out = dx.tensor.cpu_rows_mut::<f32>("group_norm")?;
                let out = out.rows_mut().tiles(even_cuts(images * rows, rows), n);
                let (count, arch) = ((rows * width) as f32, Arch::get());
                par_parts(out).for_each(|(image, mut out)| {
                    arch.run(
                        #[inline(always)]
                        |_| {
                            let stats = &stats[image * groups * 2..][..groups * 2];
                            let (by_x, plain) = parts[image * 2 * n..][..2 * n].split_at(n);
                            // by channel: factors of dy and of x − mean, and what is taken off
                            let mut factors = vec![[0.0f32; 4]; n];
                            for g in 0..groups {
                                let channels = g * width..(g + 1) * width;
                                let mean = |sums: &[f32]| {
                                    channels.clone().map(|c| gamma[c] * sums[c]).sum::<f32>() / count
                                };
                                let (a, b) = (mean(plain), mean(by_x));
                                let (m, rstd) = (stats[2 * g], stats[2 * g + 1]);
                                for c in channels.clone() {
                                    factors[c] = [rstd * gamma[c], rstd * rstd * b, rstd * a, m];
                                }
                            }
                            for at in 0..rows {
                                let r = image * rows + at;
                                let (x, d) = (&x[r * rx.stride..][..n], &dy[r * rd.stride..][..n]);
                                for ((o, (x, d)), [by_d, by_x, off, m]) in
                                    out.row(at).iter_mut().zip(x.iter().zip(d)).zip(&factors)
                                {
                                    let v = d * by_d - (x - m) * by_x - off;
                                    *o = if accumulate { *o + v } else { v };
                                }
                            }
                        },
                    );
                });
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = GroupNormParams {
                    y_offset: rd.offset,
                    y_stride: rd.stride,
                    parts_offset: parts.layout().offset,
                    out_offset: ro.offset,
                    out_stride: ro.stride,
                    accumulate,
                    ..self.params(rx)
                };
                let tensors = [&dx.tensor, parts, &self.stats, &self.x, &self.gamma, dy];
                let kernel = kernel(Pass::Backward, dy.dtype());
                gpu.dispatch(&kernel, &tensors, &params, gpu.caps().grid(images * groups))
            }
        }
    }
}

/// `dy = 0` where ReLU gave 0.
fn relu_gradient(dy: &Tensor, y: &Tensor) -> Result<()> {
    let (rd, ry) = (dy.rows("group_norm")?, y.rows("group_norm")?);
    match dy.device() {
        Device::Cpu(_) => {
            let y = &*y.cpu_read::<f32>("group_norm")?;
            for_rows(
                dy.cpu_rows_mut::<f32>("group_norm")?.rows_mut(),
                #[inline(always)]
                |_, r, dy| {
                    for (d, y) in dy.iter_mut().zip(&y[r * ry.stride..]) {
                        *d = if *y > 0.0 { *d } else { 0.0 };
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = GroupNormParams {
                rows: rd.rows,
                cols: rd.cols,
                y_offset: ry.offset,
                y_stride: ry.stride,
                out_offset: rd.offset,
                out_stride: rd.stride,
                ..Default::default()
            };
            let grid = gpu.caps().grid(dy.elements().div_ceil(WG as usize));
            gpu.dispatch(&kernel(Pass::Relu, dy.dtype()), &[dy, y], &params, grid)
        }
    }
}

/// GroupNorm of maps `x` `[images·rows, channels]` with `gamma` and `beta` `[channels]`; `residual`, shaped
/// like x, is added after it and before ReLU.
pub fn group_norm(
    tape: &Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    residual: Option<&Var>,
    norm: GroupNorm,
) -> Result<Var> {
    Ok(group_norm_with_statistics(tape, x, gamma, beta, residual, norm)?.0)
}

/// As [`group_norm`], with the mean and the reciprocal standard deviation of every image and group, `[images, groups, 2]`.
pub(super) fn group_norm_with_statistics(
    tape: &Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    residual: Option<&Var>,
    norm: GroupNorm,
) -> Result<(Var, Tensor)> {
    let _span = profile::operation("group_norm");
    let rx = x.value().rows("group_norm")?;
    let vector = |v: &Var| v.value().elements() == rx.cols && v.value().layout().is_contiguous();
    let whole = norm.images > 0 && norm.groups > 0 && rx.rows > 0;
    let cut = whole && rx.rows % norm.images == 0 && rx.cols % norm.groups == 0;
    if !cut
        || !vector(gamma)
        || !vector(beta)
        || residual.is_some_and(|r| r.value().shape() != x.value().shape())
    {
        return Err(Error::shape(
            "group_norm",
            format!(
                "x {:?}, gamma {:?}, beta {:?}, residual {:?}, {norm:?}",
                x.value(),
                gamma.value(),
                beta.value(),
                residual.map(Var::value)
            ),
        ));
    }
    let device = x.value().device();
    let y = Tensor::empty(device, x.value().shape(), x.value().dtype())?;
    let stats = Tensor::empty(device, &[norm.images, norm.groups, 2], DType::F32)?;
    let call = Call { norm, x: x.value().clone(), gamma: gamma.value().clone(), stats };
    call.forward(beta.value(), residual.map(Var::value), &y)?;
    let (saved, statistics) = (norm.relu.then(|| y.clone()), call.stats.clone());
    let inputs = [Some(x), Some(gamma), Some(beta), residual];
    let y = tape.record("group_norm", inputs, y, move |[dx, dgamma, dbeta, dresidual], cotangent| {
        let mut dy = cotangent;
        if !dy.layout().is_contiguous() {
            let dense = Tensor::empty(dy.device(), dy.shape(), dy.dtype())?;
            copy(&dense, &dy)?;
            dy = dense;
        }
        if let Some(y) = &saved {
            // the cotangent is this operation's alone by now
            relu_gradient(&dy, y)?;
        }
        let parts = call.sums(&dy)?;
        let n = parts.dim(1) / 2;
        for (gradient, half) in [(dgamma, 0..n), (dbeta, n..2 * n)] {
            let parts = parts.slice(1, half)?;
            gradient.write(|sum, accumulate| column_sum(&parts, sum, 1.0, accumulate))?;
        }
        if let Some(t) = dx.target()? {
            call.backward_input(&dy, &parts, &t)?;
        }
        dresidual.add(dy)
    });
    Ok((y, statistics))
}

//! LayerNorm over the last dimension with sliced parameters, optionally on a subset of the rows: the rows that a
//! residual branch with stochastic depth works on are gathered on the way in.
//!
//! `y[i] = (x[r] − mean)·rstd·γ + β` with `r = rows[i]` (or i). Saved: mean and rstd of every output row.

use crate::autograd::{Tape, Target, Var};
use crate::cpu::{SyncPtr, for_rows2, math, reduce_columns};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params};
use crate::ops::reduce::column_sum;
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor};

const SHADER: Shader =
    Shader { name: "layer_norm.wgsl", source: include_str!("../../shaders/layer_norm.wgsl") };

params!(LayerNormParams {
    rows: u32,
    cols: u32,
    x_offset: u32,
    x_stride: u32,
    y_offset: u32,
    y_stride: u32,
    gamma_offset: u32,
    beta_offset: u32,
    stats_offset: u32,
    index_offset: u32,
    dx_offset: u32,
    dx_stride: u32,
    accumulate: u32,
    parts: u32,
    eps: f32,
});

/// Row blocks of the first stage of the parameter gradients.
const PARTS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    BackwardInput,
    BackwardParameters,
}

fn kernel(pass: Pass, cols: usize, gather: bool) -> Kernel {
    let (entry, wg) = match pass {
        // a row is short: few invocations leave little idle
        Pass::Forward => ("forward", if cols <= 256 { 64 } else { 256 }),
        Pass::BackwardInput => ("backward_input", if cols <= 256 { 64 } else { 256 }),
        Pass::BackwardParameters => ("backward_parameters", 64),
    };
    let mut defines = vec![("WG", wg)];
    defines.extend(match pass {
        Pass::Forward => Some(("FORWARD", 1)),
        Pass::BackwardInput => Some(("BACKWARD_INPUT", 1)),
        Pass::BackwardParameters => Some(("BACKWARD_PARAMETERS", 1)),
    });
    defines.extend(gather.then_some(("GATHER", 1)));
    Kernel::new::<LayerNormParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    let mut all = Vec::new();
    for pass in [Pass::Forward, Pass::BackwardInput, Pass::BackwardParameters] {
        for gather in [false, true] {
            for cols in [64, 1024] {
                all.push(kernel(pass, cols, gather));
            }
        }
    }
    all.dedup();
    all
}

/// Everything the passes share.
struct Call {
    x: Tensor,
    gamma: Tensor,
    index: Option<Tensor>,
    /// [output rows, 2]: mean and reciprocal standard deviation.
    stats: Tensor,
    eps: f32,
}

impl Call {
    fn params(&self, x: Rows, rows: usize) -> LayerNormParams {
        LayerNormParams {
            rows: rows as u32,
            cols: x.cols as u32,
            x_offset: x.offset as u32,
            x_stride: x.stride as u32,
            gamma_offset: self.gamma.layout().offset as u32,
            stats_offset: self.stats.layout().offset as u32,
            index_offset: self.index.as_ref().map_or(0, |t| t.layout().offset as u32),
            eps: self.eps,
            ..Default::default()
        }
    }

    fn forward(&self, beta: &Tensor, y: &Tensor) -> Result<()> {
        let (rx, ry) = (self.x.rows("layer_norm")?, y.rows("layer_norm")?);
        match self.x.device() {
            Device::Cpu(_) => {
                let (x, gamma, beta) = (self.x.cpu::<f32>(), self.gamma.cpu::<f32>(), beta.cpu::<f32>());
                let index = self.index.as_ref().map(|t| t.cpu::<u32>());
                let stats = Rows { offset: 0, rows: ry.rows, cols: 2, stride: 2 };
                let (n, eps) = (rx.cols, self.eps);
                for_rows2(
                    (y.cpu_mut(), ry),
                    (self.stats.cpu_mut(), stats),
                    |i, y: &mut [f32], s: &mut [f32]| {
                        let row = &x[index.map_or(i, |t| t[i] as usize) * rx.stride..][..n];
                        let mean = math::sum(n, |c| row[c]) / n as f32;
                        let variance = math::sum(n, |c| (row[c] - mean) * (row[c] - mean)) / n as f32;
                        let rstd = 1.0 / (variance + eps).sqrt();
                        (s[0], s[1]) = (mean, rstd);
                        for ((y, x), (g, b)) in y.iter_mut().zip(row).zip(gamma.iter().zip(beta)) {
                            *y = (x - mean) * rstd * g + b;
                        }
                    },
                );
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = LayerNormParams {
                    y_offset: ry.offset as u32,
                    y_stride: ry.stride as u32,
                    beta_offset: beta.layout().offset as u32,
                    ..self.params(rx, ry.rows)
                };
                let kernel = kernel(Pass::Forward, rx.cols, self.index.is_some());
                let mut tensors = vec![y, &self.stats, &self.x, &self.gamma, beta];
                tensors.extend(&self.index);
                gpu.dispatch(&kernel, &tensors, &params, gpu.caps().grid(ry.rows))
            }
        }
    }

    /// dx[r] (+)= rstd·(γdy − mean(γdy) − x̂·mean(γdy·x̂))
    fn backward_input(&self, dy: &Tensor, dx: &Tensor, accumulate: bool) -> Result<()> {
        let (rx, rd, ro) = (self.x.rows("layer_norm")?, dy.rows("layer_norm")?, dx.rows("layer_norm")?);
        match self.x.device() {
            Device::Cpu(_) => {
                let (x, gamma, dy) = (self.x.cpu::<f32>(), self.gamma.cpu::<f32>(), dy.cpu::<f32>());
                let (stats, index) = (self.stats.cpu::<f32>(), self.index.as_ref().map(|t| t.cpu::<u32>()));
                let (n, out) = (rx.cols, SyncPtr(dx.cpu_mut::<f32>().as_mut_ptr()));
                crate::cpu::pieces(rd.rows, n, |range| {
                    for i in range {
                        let r = index.map_or(i, |t| t[i] as usize);
                        let (row, d) = (&x[r * rx.stride..][..n], &dy[i * rd.stride..][..n]);
                        let (mean, rstd) = (stats[2 * i], stats[2 * i + 1]);
                        let a = math::sum(n, |c| gamma[c] * d[c]) / n as f32;
                        let b = math::sum(n, |c| gamma[c] * d[c] * ((row[c] - mean) * rstd)) / n as f32;
                        // SAFETY: rows are named at most once, so they are disjoint.
                        let o = unsafe { out.slice(r * ro.stride, n) };

                        for c in 0..n {
                            let g = rstd * (gamma[c] * d[c] - a - (row[c] - mean) * rstd * b);
                            o[c] = if accumulate { o[c] + g } else { g };
                        }
                    }
                });
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = LayerNormParams {
                    y_offset: rd.offset as u32,
                    y_stride: rd.stride as u32,
                    dx_offset: ro.offset as u32,
                    dx_stride: ro.stride as u32,
                    accumulate: accumulate as u32,
                    ..self.params(rx, rd.rows)
                };
                let kernel = kernel(Pass::BackwardInput, rx.cols, self.index.is_some());
                let mut tensors = vec![dx, &self.stats, &self.x, &self.gamma, dy];
                tensors.extend(&self.index);
                gpu.dispatch(&kernel, &tensors, &params, gpu.caps().grid(rd.rows))
            }
        }
    }

    /// dγ (+)= Σ dy·x̂, dβ (+)= Σ dy
    fn backward_parameters(&self, dy: &Tensor, dgamma: Target, dbeta: Target) -> Result<()> {
        let (rx, rd) = (self.x.rows("layer_norm")?, dy.rows("layer_norm")?);
        let n = rx.cols;
        match self.x.device() {
            Device::Cpu(_) => {
                let (x, dy, stats) = (self.x.cpu::<f32>(), dy.cpu::<f32>(), self.stats.cpu::<f32>());
                let index = self.index.as_ref().map(|t| t.cpu::<u32>());
                let sums = reduce_columns(rd.rows, 2 * n, |i, sums| {
                    let row = &x[index.map_or(i, |t| t[i] as usize) * rx.stride..][..n];
                    let d = &dy[i * rd.stride..][..n];
                    let (mean, rstd) = (stats[2 * i], stats[2 * i + 1]);
                    let (g, b) = sums.split_at_mut(n);
                    for c in 0..n {
                        g[c] += d[c] * ((row[c] - mean) * rstd);
                        b[c] += d[c];
                    }
                });
                for (target, sums) in [(dgamma, &sums[..n]), (dbeta, &sums[n..])] {
                    for (o, s) in target.tensor.cpu_mut::<f32>().iter_mut().zip(sums) {
                        *o = if target.accumulate { *o + s } else { *s };
                    }
                }
                Ok(())
            }
            Device::Gpu(gpu) => {
                let count = PARTS.min(rd.rows.max(1));
                let parts = Tensor::empty(dy.device(), &[count, 2 * n], DType::F32)?;
                let params = LayerNormParams {
                    y_offset: rd.offset as u32,
                    y_stride: rd.stride as u32,
                    dx_offset: parts.layout().offset as u32,
                    dx_stride: 2 * n as u32,
                    parts: count as u32,
                    ..self.params(rx, rd.rows)
                };
                let kernel = kernel(Pass::BackwardParameters, n, self.index.is_some());
                let mut tensors = vec![&parts, &self.stats, &self.x, dy];
                tensors.extend(&self.index);
                gpu.dispatch(&kernel, &tensors, &params, [(n as u32).div_ceil(64), count as u32, 1])?;
                column_sum(&parts.slice(1, 0..n)?, &dgamma.tensor, 1.0, dgamma.accumulate)?;
                column_sum(&parts.slice(1, n..2 * n)?, &dbeta.tensor, 1.0, dbeta.accumulate)
            }
        }
    }
}

/// LayerNorm of the rows of `x` `[.., width]` with `gamma` and `beta` `[width]`. With `index` (`u32`, each row at most
/// once) only those rows, in that order: the output is `[index, width]`.
pub fn layer_norm(
    tape: &Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    eps: f32,
    index: Option<&Tensor>,
) -> Result<Var> {
    normalise(tape, x, (gamma, beta, eps), index, 0)
}

/// LayerNorm of the rows of `x` `[rows, width]`, followed by `zeros` rows of zeros: the padding of maps.
pub fn layer_norm_padded(
    tape: &Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    eps: f32,
    zeros: usize,
) -> Result<Var> {
    normalise(tape, x, (gamma, beta, eps), None, zeros)
}

fn normalise(
    tape: &Tape,
    x: &Var,
    (gamma, beta, eps): (&Var, &Var, f32),
    index: Option<&Tensor>,
    zeros: usize,
) -> Result<Var> {
    let _span = profile::operation("layer_norm");
    let rx = x.value().rows("layer_norm")?;
    let width = |v: &Var| v.value().elements() == rx.cols && v.value().layout().is_contiguous();
    if !width(gamma) || !width(beta) || index.is_some_and(|t| t.dtype() != DType::U32) {
        return Err(Error::shape(
            "layer_norm",
            format!("x {:?}, gamma {:?}, beta {:?}, index {index:?}", x.value(), gamma.value(), beta.value()),
        ));
    }
    let rows = index.map_or(rx.rows, Tensor::elements);
    let shape = match index.is_some() || zeros > 0 {
        true => vec![rows + zeros, rx.cols],
        false => x.value().shape().to_vec(),
    };
    let device = x.value().device();
    let y = Tensor::empty(device, &shape, DType::F32)?;
    let filled = move |y: &Tensor| if zeros > 0 { y.slice(0, 0..rows) } else { Ok(y.clone()) };
    if zeros > 0 {
        crate::ops::fill::fill(&y.slice(0, rows..rows + zeros)?, 0)?;
    }
    let stats = Tensor::empty(device, &[rows, 2], DType::F32)?;
    let call = Call { x: x.value().clone(), gamma: gamma.value().clone(), index: index.cloned(), stats, eps };
    call.forward(beta.value(), &filled(&y)?)?;
    let (vx, vg, vb) = (x.clone(), gamma.clone(), beta.clone());
    Ok(tape.record("layer_norm", &[x, gamma, beta], y, move |g, dy| {
        let dy = filled(&dy)?;
        if let (Some(dgamma), Some(dbeta)) = (g.target(&vg)?, g.target(&vb)?) {
            call.backward_parameters(&dy, dgamma, dbeta)?;
        }
        if call.index.is_some() {
            let Some(dx) = g.target_zeroed(&vx)? else { return Ok(()) };
            return call.backward_input(&dy, &dx, true);
        }
        match g.target(&vx)? {
            Some(t) => call.backward_input(&dy, &t.tensor, t.accumulate),
            None => Ok(()),
        }
    }))
}

//! LayerNorm over the last dimension with sliced parameters, optionally on a subset of the rows: the rows
//! that a residual branch with stochastic depth works on are gathered on the way in.
//!
//! On a GPU x may be of half precision; then y is as well.
//!
//! `y[i] = (x[r] − mean)·rstd·γ + β` with `r = rows[i]` (or i). Saved: mean and rstd of every output row.

use std::convert::identity;

use crate::autograd::{Tape, Target, Var};
use crate::cpu::{Places, for_rows, for_some_rows, math, reduce_columns_with};
use crate::error::{Error, Result};
use crate::gpu::{Caps, GpuDevice, Kernel, Shader, params, shader};
use crate::ops::reduce::column_sum;
use crate::ops::rows::{RowPlan, Team, plan, strip, summing_teams};
use crate::profile;
use crate::tensor::{CpuRowsMut, DType, Device, Rows, Tensor, activation_types, half_define, vec4_aligned};

const SHADER: Shader = shader!("layer_norm.wgsl", kernels);

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
    strip: u32,
    parts_offset: u32,
    eps: f32,
});

/// Row blocks of the first stage of the parameter gradients, where rows are too long to be kept.
const PARTS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    /// The input's gradient, and with `parameters` theirs in the same pass.
    Backward {
        parameters: bool,
        /// Whether it is added to what is there.
        accumulate: bool,
    },
}

fn kernel(pass: Pass, plan: RowPlan, gather: bool, dtype: DType) -> Kernel {
    let mut defines = plan.defines();
    defines.extend(half_define(dtype));
    let entry = match pass {
        Pass::Forward => {
            defines.push(("FORWARD", 1));
            "forward"
        }
        Pass::Backward { parameters, accumulate } => {
            defines.push(("BACKWARD", 1));
            defines.extend(parameters.then_some(("PARAMETERS", 1)));
            defines.extend(accumulate.then_some(("ACCUMULATE", 1)));
            "backward"
        }
    };
    defines.extend(gather.then_some(("GATHER", 1)));
    Kernel::new::<LayerNormParams>(SHADER, entry, defines)
}

fn column_kernel(vec4: bool, gather: bool, dtype: DType) -> Kernel {
    let mut defines = RowPlan { team: COLUMNS, vec4, keep: 0, exact: false }.defines();
    defines.push(("BACKWARD_PARAMETERS", 1));
    defines.extend(half_define(dtype));
    defines.extend(gather.then_some(("GATHER", 1)));
    Kernel::new::<LayerNormParams>(SHADER, "backward_parameters", defines)
}

/// Invocations of the kernel that sums by column.
const COLUMNS: Team = Team::Alone(64);

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let mut all = Vec::new();
    for dtype in activation_types(caps) {
        for gather in [false, true] {
            all.extend([false, true].map(|vec4| column_kernel(vec4, gather, dtype)));
            for plan in RowPlan::all(caps) {
                all.push(kernel(Pass::Forward, plan, gather, dtype));
                for accumulate in [false, true] {
                    let backward = |parameters| Pass::Backward { parameters, accumulate };
                    all.push(kernel(backward(false), plan, gather, dtype));
                    if plan.keep > 0 {
                        all.push(kernel(backward(true), plan, gather, dtype));
                    }
                }
            }
        }
    }
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
    /// Overrides the team that would be chosen.
    team: Option<Team>,
}

impl Call {
    fn plan(&self, rows: &[Rows], vectors: &[&Tensor], caps: &Caps) -> RowPlan {
        let (cols, vec4) = (rows[0].cols, vec4_aligned(rows, vectors));
        match self.team {
            Some(team) => RowPlan::new(cols, vec4, team, caps),
            None => plan(cols, vec4, caps),
        }
    }

    fn params(&self, x: Rows, rows: usize) -> LayerNormParams {
        LayerNormParams {
            rows,
            cols: x.cols,
            x_offset: x.offset,
            x_stride: x.stride,
            gamma_offset: self.gamma.layout().offset,
            stats_offset: self.stats.layout().offset,
            index_offset: self.index.as_ref().map_or(0, |t| t.layout().offset),
            eps: self.eps,
            ..Default::default()
        }
    }

    fn forward(&self, beta: &Tensor, y: &Tensor) -> Result<()> {
        let (rx, ry) = (self.x.rows("layer_norm")?, y.rows("layer_norm")?);
        match self.x.device() {
            Device::Cpu(_) => {
                let (x, gamma, beta) = (
                    &*self.x.cpu_read::<f32>("layer_norm")?,
                    &*self.gamma.cpu_read::<f32>("layer_norm")?,
                    &*beta.cpu_read::<f32>("layer_norm")?,
                );
                let index = self.index.as_ref().map(|t| t.cpu_read::<u32>("layer_norm")).transpose()?;
                let index = index.as_deref();
                let (n, eps) = (rx.cols, self.eps);
                for_rows(
                    (
                        y.cpu_rows_mut::<f32>("layer_norm")?.rows_mut(),
                        self.stats.cpu_rows_mut::<f32>("layer_norm")?.rows_mut(),
                    ),
                    #[inline(always)]
                    |_, i, (y, s)| {
                        let row = &x[index.map_or(i, |t| t[i] as usize) * rx.stride..][..n];
                        let mean = math::sum_of([row], |[x]| x) / n as f32;
                        let variance = math::sum_of([row], |[x]| (x - mean) * (x - mean)) / n as f32;
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
                let caps = gpu.caps();
                let plan = self.plan(&[rx, ry], &[&self.gamma, beta], caps);
                let strip = strip(ry.rows, ry.rows, caps);
                let params = LayerNormParams {
                    y_offset: ry.offset,
                    y_stride: ry.stride,
                    beta_offset: beta.layout().offset,
                    strip,
                    ..self.params(rx, ry.rows)
                };
                let kernel = kernel(Pass::Forward, plan, self.index.is_some(), y.dtype());
                let mut tensors = vec![y, &self.stats, &self.x, &self.gamma, beta];
                tensors.extend(&self.index);
                let grid = caps.grid(plan.team.workgroups(ry.rows.div_ceil(strip)));
                gpu.dispatch(&kernel, &tensors, &params, grid)
            }
        }
    }

    /// dx[r] (=, or += where it says so) rstd·(γdy − mean(γdy) − x̂·mean(γdy·x̂)); dγ (+)= Σ dy·x̂, dβ (+)= Σ
    /// dy.
    fn backward(&self, dy: &Tensor, dx: Option<Target>, parameters: Option<[Target; 2]>) -> Result<()> {
        match self.x.device() {
            Device::Cpu(_) => self.backward_cpu(dy, dx, parameters),
            Device::Gpu(gpu) => {
                let (rx, rd) = (self.x.rows("layer_norm")?, dy.rows("layer_norm")?);
                let out = dx.as_ref().map_or(Ok(rx), |t| t.tensor.rows("layer_norm"))?;
                let plan = self.plan(&[rx, rd, out], &[&self.gamma], gpu.caps());
                match (dx, parameters) {
                    (Some(dx), parameters) if parameters.is_none() || plan.keep > 0 && rd.rows > 0 => {
                        self.backward_rows(gpu, plan, dy, dx, parameters)
                    }
                    (dx, parameters) => {
                        if let Some(parameters) = parameters {
                            self.backward_columns(gpu, plan, dy, parameters)?;
                        }
                        dx.map_or(Ok(()), |dx| self.backward_rows(gpu, plan, dy, dx, None))
                    }
                }
            }
        }
    }

    fn backward_cpu(&self, dy: &Tensor, dx: Option<Target>, parameters: Option<[Target; 2]>) -> Result<()> {
        let (rx, rd) = (self.x.rows("layer_norm")?, dy.rows("layer_norm")?);
        let (x, gamma, dy) = (
            &*self.x.cpu_read::<f32>("layer_norm")?,
            &*self.gamma.cpu_read::<f32>("layer_norm")?,
            &*dy.cpu_read::<f32>("layer_norm")?,
        );
        let stats = &*self.stats.cpu_read::<f32>("layer_norm")?;
        let index = self.index.as_ref().map(|t| t.cpu_read::<u32>("layer_norm")).transpose()?;
        let index = index.as_deref();
        let (n, accumulate) = (rx.cols, dx.as_ref().is_some_and(|t| t.accumulate));
        // row i of what is written is row i of dx, or the one that the index names
        let places = index.map(|index| Places::new("layer_norm", index, rx.rows)).transpose()?;
        let mut lent = dx.as_ref().map(|t| t.tensor.cpu_rows_mut::<f32>("layer_norm")).transpose()?;
        let out = match (lent.as_mut().map(CpuRowsMut::rows_mut), &places) {
            (Some(rows), Some(places)) => (None, Some(rows.scattered(places))),
            (rows, _) => (rows, None),
        };
        let input = identity(
            #[inline(always)]
            |r: usize, i: usize, (row, scattered): (Option<&mut [f32]>, Option<Option<&mut [f32]>>)| {
                let Some(o) = row.or(scattered.flatten()) else { return };
                let (row, d) = (&x[r * rx.stride..][..n], &dy[i * rd.stride..][..n]);
                let (gamma, mean, rstd) = (&gamma[..n], stats[2 * i], stats[2 * i + 1]);
                let a = math::sum_of([gamma, d], |[g, d]| g * d) / n as f32;
                let b = math::sum_of([gamma, d, row], |[g, d, x]| g * d * ((x - mean) * rstd)) / n as f32;
                let gradient = |g: &f32, d: &f32, x: &f32| rstd * (g * d - a - (x - mean) * rstd * b);
                let operands = gamma.iter().zip(d).zip(row);
                match accumulate {
                    true => o.iter_mut().zip(operands).for_each(|(o, ((g, d), x))| *o += gradient(g, d, x)),
                    false => o.iter_mut().zip(operands).for_each(|(o, ((g, d), x))| *o = gradient(g, d, x)),
                }
            },
        );
        let source = |i: usize| index.map_or(i, |t| t[i] as usize);
        let Some(parameters) = parameters else {
            for_some_rows(
                rd.rows,
                n,
                out,
                #[inline(always)]
                |_, i, out| input(source(i), i, out),
            );
            return Ok(());
        };
        // in one pass: what one gradient has read is in cache for the other
        let sums = reduce_columns_with(
            rd.rows,
            2 * n,
            out,
            #[inline(always)]
            |i, out, sums| {
                let r = source(i);
                let (row, d) = (&x[r * rx.stride..][..n], &dy[i * rd.stride..][..n]);
                let (mean, rstd) = (stats[2 * i], stats[2 * i + 1]);
                let (g, b) = sums.split_at_mut(n);
                for (((g, b), x), d) in g.iter_mut().zip(b).zip(row).zip(d) {
                    *g += d * ((x - mean) * rstd);
                    *b += d;
                }
                input(r, i, out);
            },
        );
        for (target, sums) in parameters.iter().zip([&sums[..n], &sums[n..]]) {
            for (o, s) in target.tensor.cpu_write::<f32>("layer_norm")?.iter_mut().zip(sums) {
                *o = if target.accumulate { *o + s } else { *s };
            }
        }
        Ok(())
    }

    /// The input's gradient, and the parameters' where asked for, in one pass over x and dy.
    fn backward_rows(
        &self,
        gpu: &GpuDevice,
        plan: RowPlan,
        dy: &Tensor,
        dx: Target,
        parameters: Option<[Target; 2]>,
    ) -> Result<()> {
        let (rx, rd) = (self.x.rows("layer_norm")?, dy.rows("layer_norm")?);
        let out = dx.tensor.rows("layer_norm")?;
        let caps = gpu.caps();
        let most = if parameters.is_some() { summing_teams(caps) } else { rd.rows };
        let strip = strip(rd.rows, most, caps);
        let teams = rd.rows.div_ceil(strip);
        let parts = match parameters {
            Some(_) => Some(Tensor::empty(dy.device(), &[teams, 2 * rx.cols], DType::F32)?),
            None => None,
        };
        let params = LayerNormParams {
            y_offset: rd.offset,
            y_stride: rd.stride,
            dx_offset: out.offset,
            dx_stride: out.stride,
            strip,
            parts_offset: parts.as_ref().map_or(0, |t| t.layout().offset),
            ..self.params(rx, rd.rows)
        };
        let mut tensors = vec![&dx.tensor, &self.stats, &self.x, &self.gamma, dy];
        tensors.extend(&parts);
        tensors.extend(&self.index);
        let pass = Pass::Backward { parameters: parts.is_some(), accumulate: dx.accumulate };
        let grid = caps.grid(plan.team.workgroups(teams));
        gpu.dispatch(&kernel(pass, plan, self.index.is_some(), dy.dtype()), &tensors, &params, grid)?;
        match (parts, parameters) {
            (Some(parts), Some(targets)) => sum_parts(&parts, targets),
            _ => Ok(()),
        }
    }

    /// The gradients of the parameters, column by column.
    fn backward_columns(
        &self,
        gpu: &GpuDevice,
        plan: RowPlan,
        dy: &Tensor,
        parameters: [Target; 2],
    ) -> Result<()> {
        let (rx, rd) = (self.x.rows("layer_norm")?, dy.rows("layer_norm")?);
        let strip = rd.rows.div_ceil(PARTS).max(1);
        let count = rd.rows.div_ceil(strip).max(1);
        let parts = Tensor::empty(dy.device(), &[count, 2 * rx.cols], DType::F32)?;
        let params = LayerNormParams {
            y_offset: rd.offset,
            y_stride: rd.stride,
            parts_offset: parts.layout().offset,
            strip,
            ..self.params(rx, rd.rows)
        };
        let mut tensors = vec![&parts, &self.stats, &self.x, dy];
        tensors.extend(&self.index);
        let units = if plan.vec4 { rx.cols / 4 } else { rx.cols };
        let grid = [COLUMNS.workgroups(units), count, 1];
        gpu.dispatch(&column_kernel(plan.vec4, self.index.is_some(), dy.dtype()), &tensors, &params, grid)?;
        sum_parts(&parts, parameters)
    }
}

/// dγ and dβ from parts `[n, 2·width]` of both.
fn sum_parts(parts: &Tensor, [gamma, beta]: [Target; 2]) -> Result<()> {
    let n = parts.dim(1) / 2;
    column_sum(&parts.slice(1, 0..n)?, &gamma.tensor, 1.0, gamma.accumulate)?;
    column_sum(&parts.slice(1, n..2 * n)?, &beta.tensor, 1.0, beta.accumulate)
}

/// LayerNorm of the rows of `x` `[.., width]` with `gamma` and `beta` `[width]`. With `index` (`u32`, each
/// row at most once) only those rows, in that order: the output is `[index, width]`.
pub fn layer_norm(
    tape: &Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    eps: f32,
    index: Option<&Tensor>,
) -> Result<Var> {
    normalise(tape, x, (gamma, beta, eps), index, 0, None)
}

/// As [`layer_norm`], with this team on a GPU; for tests.
pub fn layer_norm_planned(
    tape: &Tape,
    x: &Var,
    gamma: &Var,
    beta: &Var,
    eps: f32,
    team: Team,
) -> Result<Var> {
    normalise(tape, x, (gamma, beta, eps), None, 0, Some(team))
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
    normalise(tape, x, (gamma, beta, eps), None, zeros, None)
}

fn normalise(
    tape: &Tape,
    x: &Var,
    (gamma, beta, eps): (&Var, &Var, f32),
    index: Option<&Tensor>,
    zeros: usize,
    team: Option<Team>,
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
    let y = Tensor::empty(device, &shape, x.value().dtype())?;
    let filled = move |y: &Tensor| if zeros > 0 { y.slice(0, 0..rows) } else { Ok(y.clone()) };
    if zeros > 0 {
        crate::tensor::fill(&y.slice(0, rows..rows + zeros)?, 0)?;
    }
    let stats = Tensor::empty(device, &[rows, 2], DType::F32)?;
    let call =
        Call { x: x.value().clone(), gamma: gamma.value().clone(), index: index.cloned(), stats, eps, team };
    call.forward(beta.value(), &filled(&y)?)?;
    Ok(tape.record("layer_norm", [x, gamma, beta], y, move |[dx, dgamma, dbeta], dy| {
        let dy = filled(&dy)?;
        let parameters = match (dgamma.target()?, dbeta.target()?) {
            (None, None) => None,
            // both are made at once
            (dgamma, dbeta) => {
                Some([Target::or_scratch(dgamma, &call.gamma)?, Target::or_scratch(dbeta, &call.gamma)?])
            }
        };
        // rows that were not picked have no gradient
        let dx = if call.index.is_some() { dx.target_zeroed()? } else { dx.target()? };
        call.backward(&dy, dx, parameters)
    }))
}

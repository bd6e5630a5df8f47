//! The end of a residual branch: LayerScale, stochastic depth and the addition, in one pass.
//!
//! `z[r] = x[r] + s[i]·γ⊙b[i]` where row i of the branch belongs to row r of the trunk; rows that the branch
//! left out pass through. With stochastic depth above 0.1 the branch works on a random subset of the samples
//! (poa-facts).

use std::convert::identity;

use crate::autograd::{Tape, Target, Var};
use crate::cpu::{for_rows, for_some_rows, reduce_columns_with};
use crate::error::{Error, Result};
use crate::gpu::{Caps, GpuDevice, Kernel, Shader, params, shader};
use crate::ops::reduce::column_sum;
use crate::ops::row_subset::{ABSENT, RowSubset};
use crate::ops::rows::{RowPlan, Team, plan, strip, summing_teams};
use crate::profile;
use crate::tensor::{CpuRowsMut, DType, Device, Tensor, activation_types, half_define, vec4_aligned};

const SHADER: Shader = shader!("residual.wgsl", kernels);
/// Row blocks of the first stage of γ's gradient, where rows are too long to be kept.
const PARTS: usize = 64;

params!(ResidualParams {
    rows: u32,
    cols: u32,
    z_offset: u32,
    x_offset: u32,
    x_stride: u32,
    b_offset: u32,
    b_stride: u32,
    db_offset: u32,
    db_stride: u32,
    gamma_offset: u32,
    map_offset: u32,
    scale_offset: u32,
    parts_offset: u32,
    strip: u32,
    accumulate: bool,
});

#[derive(Clone, Copy)]
enum Pass {
    Forward,
    /// The branch's gradient, and with `gamma` that of γ in the same pass.
    Backward {
        gamma: bool,
    },
}

fn kernel(pass: Pass, plan: RowPlan, subset: bool, dtype: DType) -> Kernel {
    let mut defines = plan.defines();
    defines.extend(half_define(dtype));
    let entry = match pass {
        Pass::Forward => {
            defines.push(("FORWARD", 1));
            "forward"
        }
        Pass::Backward { gamma } => {
            defines.push(("BACKWARD", 1));
            defines.extend(gamma.then_some(("GAMMA", 1)));
            "backward"
        }
    };
    defines.extend(subset.then_some(("SUBSET", 1)));
    Kernel::new::<ResidualParams>(SHADER, entry, defines)
}

fn column_kernel(vec4: bool, subset: bool, dtype: DType) -> Kernel {
    let mut defines = RowPlan { team: COLUMNS, vec4, keep: 0, exact: false }.defines();
    defines.push(("BACKWARD_GAMMA", 1));
    defines.extend(half_define(dtype));
    defines.extend(subset.then_some(("SUBSET", 1)));
    Kernel::new::<ResidualParams>(SHADER, "backward_gamma", defines)
}

/// Invocations of the kernel that sums by column.
const COLUMNS: Team = Team::Alone(64);

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let mut all = Vec::new();
    for dtype in activation_types(caps) {
        for subset in [false, true] {
            all.extend([false, true].map(|vec4| column_kernel(vec4, subset, dtype)));
            for plan in RowPlan::all(caps) {
                all.push(kernel(Pass::Forward, plan, subset, dtype));
                all.push(kernel(Pass::Backward { gamma: false }, plan, subset, dtype));
                if plan.keep > 0 {
                    all.push(kernel(Pass::Backward { gamma: true }, plan, subset, dtype));
                }
            }
        }
    }
    all
}

/// `x + s·γ⊙branch` for x `[rows, width]`, γ `[width]` and a branch of all rows or of a subset. On a GPU x
/// and branch may be of half precision, both; then the sum is as well.
pub fn residual(tape: &Tape, x: &Var, branch: &Var, gamma: &Var, subset: Option<&RowSubset>) -> Result<Var> {
    let _span = profile::operation("residual");
    let (rx, rb) = (x.value().rows("residual")?, branch.value().rows("residual")?);
    let branch_rows = subset.map_or(rx.rows, |s| s.rows.elements());
    let trunk_rows = subset.map_or(rx.rows, |s| s.inverse.elements());
    let gamma_fits = gamma.value().elements() == rx.cols && gamma.value().layout().is_contiguous();
    if rb.rows != branch_rows || rb.cols != rx.cols || trunk_rows != rx.rows || !gamma_fits {
        let problem = format!("x {:?}, branch {:?}, gamma {:?}", x.value(), branch.value(), gamma.value());
        return Err(Error::shape("residual", problem));
    }
    let z = Tensor::empty(x.value().device(), x.value().shape(), x.value().dtype())?;
    forward(x.value(), branch.value(), gamma.value(), subset, &z)?;
    let saved =
        Saved { branch: branch.value().clone(), gamma: gamma.value().clone(), subset: subset.cloned() };
    Ok(tape.record("residual", [x, branch, gamma], z, move |[dx, db, dgamma], dz| {
        saved.backward(&dz, db.target()?, dgamma.target()?)?;
        dx.add(dz)
    }))
}

fn forward(x: &Tensor, b: &Tensor, gamma: &Tensor, subset: Option<&RowSubset>, z: &Tensor) -> Result<()> {
    let (rx, rb, rz) = (x.rows("residual")?, b.rows("residual")?, z.rows("residual")?);
    match x.device() {
        Device::Cpu(_) => {
            let (x, b, gamma) = (
                &*x.cpu_read::<f32>("residual")?,
                &*b.cpu_read::<f32>("residual")?,
                &*gamma.cpu_read::<f32>("residual")?,
            );
            let map = subset
                .map(|s| Ok((s.inverse.cpu_read::<u32>("residual")?, s.scale.cpu_read::<f32>("residual")?)));
            let map = map.transpose()?;
            let map = map.as_ref().map(|(inverse, scale)| (&**inverse, &**scale));
            for_rows(
                z.cpu_rows_mut::<f32>("residual")?.rows_mut(),
                #[inline(always)]
                |_, r, z| {
                    let trunk = &x[r * rx.stride..][..rx.cols];
                    let (i, s) = match map {
                        None => (r, 1.0),
                        Some((inverse, _)) if inverse[r] == ABSENT => return z.copy_from_slice(trunk),
                        Some((inverse, scale)) => (inverse[r] as usize, scale[inverse[r] as usize]),
                    };
                    let branch = &b[i * rb.stride..][..rx.cols];
                    for ((z, x), (b, g)) in z.iter_mut().zip(trunk).zip(branch.iter().zip(gamma)) {
                        *z = x + s * g * b;
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let caps = gpu.caps();
            let plan = plan(rx.cols, vec4_aligned(&[rx, rb, rz], &[gamma]), caps);
            let strip = strip(rx.rows, rx.rows, caps);
            let offset = |t: Option<&Tensor>| t.map_or(0, |t| t.layout().offset);
            let params = ResidualParams {
                rows: rx.rows,
                cols: rx.cols,
                z_offset: rz.offset,
                x_offset: rx.offset,
                x_stride: rx.stride,
                b_offset: rb.offset,
                b_stride: rb.stride,
                gamma_offset: gamma.layout().offset,
                map_offset: offset(subset.map(|s| &s.inverse)),
                scale_offset: offset(subset.map(|s| &s.scale)),
                strip,
                ..Default::default()
            };
            let mut tensors = vec![z, x, b, gamma];
            if let Some(s) = subset {
                tensors.extend([&s.inverse, &s.scale]);
            }
            let grid = caps.grid(plan.team.workgroups(rx.rows.div_ceil(strip)));
            gpu.dispatch(&kernel(Pass::Forward, plan, subset.is_some(), z.dtype()), &tensors, &params, grid)
        }
    }
}

/// What the gradients need.
struct Saved {
    branch: Tensor,
    gamma: Tensor,
    subset: Option<RowSubset>,
}

impl Saved {
    /// db[i] (+)= s[i]·γ⊙dz[rows[i]], dγ (+)= Σ_i s[i]·b[i]⊙dz[rows[i]]
    fn backward(&self, dz: &Tensor, db: Option<Target>, dgamma: Option<Target>) -> Result<()> {
        match dz.device() {
            Device::Cpu(_) => self.backward_cpu(dz, db, dgamma),
            Device::Gpu(gpu) => {
                let (rz, rb) = (dz.rows("residual")?, self.branch.rows("residual")?);
                let out = db.as_ref().map_or(Ok(rb), |t| t.tensor.rows("residual"))?;
                let plan = plan(rb.cols, vec4_aligned(&[rz, rb, out], &[&self.gamma]), gpu.caps());
                match (db, dgamma) {
                    (Some(db), dgamma) if dgamma.is_none() || plan.keep > 0 && rb.rows > 0 => {
                        self.backward_rows(gpu, plan, dz, db, dgamma)
                    }
                    (db, dgamma) => {
                        if let Some(dgamma) = dgamma {
                            self.backward_columns(gpu, plan, dz, dgamma)?;
                        }
                        db.map_or(Ok(()), |db| self.backward_rows(gpu, plan, dz, db, None))
                    }
                }
            }
        }
    }

    fn backward_cpu(&self, dz: &Tensor, db: Option<Target>, dgamma: Option<Target>) -> Result<()> {
        let (rz, rb) = (dz.rows("residual")?, self.branch.rows("residual")?);
        let (dz, b, gamma) = (
            &*dz.cpu_read::<f32>("residual")?,
            &*self.branch.cpu_read::<f32>("residual")?,
            &*self.gamma.cpu_read::<f32>("residual")?,
        );
        let map = self
            .subset
            .as_ref()
            .map(|s| Ok((s.rows.cpu_read::<u32>("residual")?, s.scale.cpu_read::<f32>("residual")?)));
        let map = map.transpose()?;
        let map = map.as_ref().map(|(rows, scale)| (&**rows, &**scale));
        let accumulate = db.as_ref().is_some_and(|t| t.accumulate);
        let mut lent = db.as_ref().map(|t| t.tensor.cpu_rows_mut::<f32>("residual")).transpose()?;
        let out = lent.as_mut().map(CpuRowsMut::rows_mut);
        let pair = |i: usize| map.map_or((i, 1.0), |(rows, scale)| (rows[i] as usize, scale[i]));
        let branch = identity(
            #[inline(always)]
            |i: usize, db: Option<&mut [f32]>| {
                let Some(db) = db else { return };
                let (r, s) = pair(i);
                let from = dz[r * rz.stride..][..rz.cols].iter().zip(gamma);
                match accumulate {
                    true => db.iter_mut().zip(from).for_each(|(o, (d, g))| *o += s * g * d),
                    false => db.iter_mut().zip(from).for_each(|(o, (d, g))| *o = s * g * d),
                }
            },
        );
        let Some(dgamma) = dgamma else {
            for_some_rows(
                rb.rows,
                rb.cols,
                out,
                #[inline(always)]
                |_, i, db| branch(i, db),
            );
            return Ok(());
        };
        // in one pass: what one gradient has read is in cache for the other
        let sums = reduce_columns_with(
            rb.rows,
            rb.cols,
            out,
            #[inline(always)]
            |i, db, sums| {
                let (r, s) = pair(i);
                let (b, dz) = (&b[i * rb.stride..][..rb.cols], &dz[r * rz.stride..][..rb.cols]);
                sums.iter_mut().zip(b.iter().zip(dz)).for_each(|(t, (b, d))| *t += s * b * d);
                branch(i, db);
            },
        );
        for (o, s) in dgamma.tensor.cpu_write::<f32>("residual")?.iter_mut().zip(sums) {
            *o = if dgamma.accumulate { *o } else { 0.0 } + s;
        }
        Ok(())
    }

    fn params(&self, dz: &Tensor) -> Result<ResidualParams> {
        let (rz, rb) = (dz.rows("residual")?, self.branch.rows("residual")?);
        let offset = |t: Option<&Tensor>| t.map_or(0, |t| t.layout().offset);
        Ok(ResidualParams {
            rows: rb.rows,
            cols: rb.cols,
            x_offset: rz.offset,
            x_stride: rz.stride,
            b_offset: rb.offset,
            b_stride: rb.stride,
            gamma_offset: self.gamma.layout().offset,
            map_offset: offset(self.subset.as_ref().map(|s| &s.rows)),
            scale_offset: offset(self.subset.as_ref().map(|s| &s.scale)),
            ..Default::default()
        })
    }

    fn maps(&self) -> impl Iterator<Item = &Tensor> {
        self.subset.iter().flat_map(|s| [&s.rows, &s.scale])
    }

    /// The branch's gradient, and that of γ where asked for, in one pass over dz.
    fn backward_rows(
        &self,
        gpu: &GpuDevice,
        plan: RowPlan,
        dz: &Tensor,
        db: Target,
        dgamma: Option<Target>,
    ) -> Result<()> {
        let out = db.tensor.rows("residual")?;
        let caps = gpu.caps();
        let most = if dgamma.is_some() { summing_teams(caps) } else { out.rows };
        let strip = strip(out.rows, most, caps);
        let teams = out.rows.div_ceil(strip);
        let parts = match dgamma {
            Some(_) => Some(Tensor::empty(dz.device(), &[teams, out.cols], DType::F32)?),
            None => None,
        };
        let params = ResidualParams {
            db_offset: out.offset,
            db_stride: out.stride,
            parts_offset: parts.as_ref().map_or(0, |t| t.layout().offset),
            strip,
            accumulate: db.accumulate,
            ..self.params(dz)?
        };
        let mut tensors = vec![&db.tensor, dz, &self.gamma];
        if let Some(parts) = &parts {
            tensors.extend([parts, &self.branch]);
        }
        tensors.extend(self.maps());
        let pass = Pass::Backward { gamma: parts.is_some() };
        let grid = caps.grid(plan.team.workgroups(teams));
        gpu.dispatch(&kernel(pass, plan, self.subset.is_some(), dz.dtype()), &tensors, &params, grid)?;
        match (parts, dgamma) {
            (Some(parts), Some(t)) => column_sum(&parts, &t.tensor, 1.0, t.accumulate),
            _ => Ok(()),
        }
    }

    /// The gradient of γ, column by column.
    fn backward_columns(&self, gpu: &GpuDevice, plan: RowPlan, dz: &Tensor, dgamma: Target) -> Result<()> {
        let rb = self.branch.rows("residual")?;
        let strip = rb.rows.div_ceil(PARTS).max(1);
        let count = rb.rows.div_ceil(strip).max(1);
        let parts = Tensor::empty(dz.device(), &[count, rb.cols], DType::F32)?;
        let params = ResidualParams { parts_offset: parts.layout().offset, strip, ..self.params(dz)? };
        let mut tensors = vec![&parts, dz, &self.branch];
        tensors.extend(self.maps());
        let units = if plan.vec4 { rb.cols / 4 } else { rb.cols };
        let grid = [COLUMNS.workgroups(units), count, 1];
        gpu.dispatch(&column_kernel(plan.vec4, self.subset.is_some(), dz.dtype()), &tensors, &params, grid)?;
        column_sum(&parts, &dgamma.tensor, 1.0, dgamma.accumulate)
    }
}

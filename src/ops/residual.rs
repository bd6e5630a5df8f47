//! The end of a residual branch: LayerScale, stochastic depth and the addition, in one pass.
//!
//! `z[r] = x[r] + s[i]·γ⊙b[i]` where row i of the branch belongs to row r of the trunk; rows that the branch left out
//! pass through. With stochastic depth above 0.1 the branch works on a random subset of the samples (poa-facts).

use crate::autograd::{Tape, Var};
use crate::cpu::{for_rows, reduce_columns};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params};
use crate::ops::reduce::column_sum;
use crate::profile;
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = Shader { name: "residual.wgsl", source: include_str!("../../shaders/residual.wgsl") };
const WG: u32 = 256;
/// Row blocks of the first stage of γ's gradient.
const PARTS: usize = 64;
/// Marks a row of the trunk that the branch left out.
const ABSENT: u32 = u32::MAX;

params!(ResidualParams {
    rows: u32,
    cols: u32,
    z_offset: u32,
    x_offset: u32,
    x_stride: u32,
    b_offset: u32,
    b_stride: u32,
    gamma_offset: u32,
    map_offset: u32,
    scale_offset: u32,
    parts: u32,
    accumulate: u32,
});

/// The rows a residual branch works on.
#[derive(Clone)]
pub struct RowSubset {
    /// `u32 [branch rows]`: the row of the trunk.
    pub rows: Tensor,
    /// `u32 [trunk rows]`: the row of the branch, or `u32::MAX`.
    inverse: Tensor,
    /// `f32 [branch rows]`: the factor s.
    scale: Tensor,
}

impl RowSubset {
    /// `rows[i]` is the trunk's row of the branch's row i, each at most once, with the factor `scale[i]`.
    pub fn new(device: &Device, trunk_rows: usize, rows: &[u32], scale: &[f32]) -> Result<Self> {
        let mut inverse = vec![ABSENT; trunk_rows];
        for (i, &r) in rows.iter().enumerate() {
            match inverse.get_mut(r as usize) {
                Some(slot) if *slot == ABSENT => *slot = i as u32,
                _ => {
                    return Err(Error::shape(
                        "residual",
                        format!("row {r} of {trunk_rows} is named twice or absent"),
                    ));
                }
            }
        }
        Ok(Self {
            rows: Tensor::from_slice(device, &[rows.len()], rows)?,
            inverse: Tensor::from_slice(device, &[trunk_rows], &inverse)?,
            scale: Tensor::from_slice(device, &[scale.len()], scale)?,
        })
    }

    /// The same rows with other factors.
    pub fn with_scale(&self, scale: &[f32]) -> Result<Self> {
        if scale.len() != self.rows.elements() {
            let problem = format!("{} factors of {} rows", scale.len(), self.rows.elements());
            return Err(Error::shape("residual", problem));
        }
        let scale = Tensor::from_slice(self.rows.device(), &[scale.len()], scale)?;
        Ok(Self { rows: self.rows.clone(), inverse: self.inverse.clone(), scale })
    }
}

#[derive(Clone, Copy)]
enum Pass {
    Forward,
    BackwardBranch,
    BackwardGamma,
}

fn kernel(pass: Pass, subset: bool) -> Kernel {
    let (entry, flag, wg) = match pass {
        Pass::Forward => ("forward", "FORWARD", WG),
        Pass::BackwardBranch => ("backward_branch", "BACKWARD_BRANCH", WG),
        Pass::BackwardGamma => ("backward_gamma", "BACKWARD_GAMMA", 64),
    };
    let mut defines = vec![("WG", wg), (flag, 1)];
    defines.extend(subset.then_some(("SUBSET", 1)));
    Kernel::new::<ResidualParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    [Pass::Forward, Pass::BackwardBranch, Pass::BackwardGamma]
        .into_iter()
        .flat_map(|pass| [kernel(pass, false), kernel(pass, true)])
        .collect()
}

/// `x + s·γ⊙branch` for x `[rows, width]`, γ `[width]` and a branch of all rows or of a subset.
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
    let z = Tensor::empty(x.value().device(), x.value().shape(), DType::F32)?;
    forward(x.value(), branch.value(), gamma.value(), subset, &z)?;
    let (vx, vb, vg, subset) = (x.clone(), branch.clone(), gamma.clone(), subset.cloned());
    Ok(tape.record("residual", &[x, branch, gamma], z, move |g, dz| {
        if let Some(t) = g.target(&vg)? {
            backward_gamma(vb.value(), &dz, subset.as_ref(), &t.tensor, t.accumulate)?;
        }
        if let Some(t) = g.target(&vb)? {
            backward_branch(&dz, vg.value(), subset.as_ref(), &t.tensor, t.accumulate)?;
        }
        g.add(&vx, dz)
    }))
}

fn gpu_params(
    trunk: &Tensor,
    branch: &Tensor,
    gamma_offset: usize,
    subset: Option<&RowSubset>,
) -> Result<ResidualParams> {
    let (rx, rb) = (trunk.rows("residual")?, branch.rows("residual")?);
    let offset = |t: Option<&Tensor>| t.map_or(0, |t| t.layout().offset as u32);
    Ok(ResidualParams {
        rows: rx.rows as u32,
        cols: rx.cols as u32,
        x_offset: rx.offset as u32,
        x_stride: rx.stride as u32,
        b_offset: rb.offset as u32,
        b_stride: rb.stride as u32,
        gamma_offset: gamma_offset as u32,
        map_offset: offset(subset.map(|s| &s.rows)),
        scale_offset: offset(subset.map(|s| &s.scale)),
        ..Default::default()
    })
}

fn forward(x: &Tensor, b: &Tensor, gamma: &Tensor, subset: Option<&RowSubset>, z: &Tensor) -> Result<()> {
    let (rx, rb, rz) = (x.rows("residual")?, b.rows("residual")?, z.rows("residual")?);
    match x.device() {
        Device::Cpu(_) => {
            let (x, b, gamma) = (x.cpu::<f32>(), b.cpu::<f32>(), gamma.cpu::<f32>());
            let map = subset.map(|s| (s.inverse.cpu::<u32>(), s.scale.cpu::<f32>()));
            for_rows(z.cpu_mut::<f32>(), rz, |r, z| {
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
            });
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = ResidualParams {
                z_offset: rz.offset as u32,
                map_offset: subset.map_or(0, |s| s.inverse.layout().offset as u32),
                ..gpu_params(x, b, gamma.layout().offset, subset)?
            };
            let mut tensors = vec![z, x, b, gamma];
            if let Some(s) = subset {
                tensors.extend([&s.inverse, &s.scale]);
            }
            let grid = gpu.caps().grid((rx.rows * rx.cols).div_ceil(WG as usize));
            gpu.dispatch(&kernel(Pass::Forward, subset.is_some()), &tensors, &params, grid)
        }
    }
}

/// db[i] (+)= s[i]·γ⊙dz[rows[i]]
fn backward_branch(
    dz: &Tensor,
    gamma: &Tensor,
    subset: Option<&RowSubset>,
    db: &Tensor,
    accumulate: bool,
) -> Result<()> {
    let (rz, rb) = (dz.rows("residual")?, db.rows("residual")?);
    match dz.device() {
        Device::Cpu(_) => {
            let (dz, gamma) = (dz.cpu::<f32>(), gamma.cpu::<f32>());
            let map = subset.map(|s| (s.rows.cpu::<u32>(), s.scale.cpu::<f32>()));
            for_rows(db.cpu_mut::<f32>(), rb, |i, db| {
                let (r, s) = map.map_or((i, 1.0), |(rows, scale)| (rows[i] as usize, scale[i]));
                let dz = &dz[r * rz.stride..][..rz.cols];
                for ((o, d), g) in db.iter_mut().zip(dz).zip(gamma) {
                    *o = if accumulate { *o } else { 0.0 } + s * g * d;
                }
            });
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = ResidualParams {
                rows: rb.rows as u32,
                accumulate: accumulate as u32,
                ..gpu_params(dz, db, gamma.layout().offset, subset)?
            };
            let mut tensors = vec![db, dz, gamma];
            if let Some(s) = subset {
                tensors.extend([&s.rows, &s.scale]);
            }
            let grid = gpu.caps().grid((rb.rows * rb.cols).div_ceil(WG as usize));
            gpu.dispatch(&kernel(Pass::BackwardBranch, subset.is_some()), &tensors, &params, grid)
        }
    }
}

/// dγ (+)= Σ_i s[i]·b[i]⊙dz[rows[i]]
fn backward_gamma(
    b: &Tensor,
    dz: &Tensor,
    subset: Option<&RowSubset>,
    dgamma: &Tensor,
    accumulate: bool,
) -> Result<()> {
    let (rz, rb) = (dz.rows("residual")?, b.rows("residual")?);
    match dz.device() {
        Device::Cpu(_) => {
            let (dz, b) = (dz.cpu::<f32>(), b.cpu::<f32>());
            let map = subset.map(|s| (s.rows.cpu::<u32>(), s.scale.cpu::<f32>()));
            let sums = reduce_columns(rb.rows, rb.cols, |i, sums| {
                let (r, s) = map.map_or((i, 1.0), |(rows, scale)| (rows[i] as usize, scale[i]));
                let (b, dz) = (&b[i * rb.stride..][..rb.cols], &dz[r * rz.stride..][..rb.cols]);
                sums.iter_mut().zip(b.iter().zip(dz)).for_each(|(t, (b, d))| *t += s * b * d);
            });
            for (o, s) in dgamma.cpu_mut::<f32>().iter_mut().zip(sums) {
                *o = if accumulate { *o } else { 0.0 } + s;
            }
            Ok(())
        }
        Device::Gpu(gpu) => {
            let count = PARTS.min(rb.rows.max(1));
            let parts = Tensor::empty(dz.device(), &[count, rb.cols], DType::F32)?;
            let params = ResidualParams {
                rows: rb.rows as u32,
                z_offset: parts.layout().offset as u32,
                parts: count as u32,
                ..gpu_params(dz, b, 0, subset)?
            };
            let mut tensors = vec![&parts, dz, b];
            if let Some(s) = subset {
                tensors.extend([&s.rows, &s.scale]);
            }
            let grid = [(rb.cols as u32).div_ceil(64), count as u32, 1];
            gpu.dispatch(&kernel(Pass::BackwardGamma, subset.is_some()), &tensors, &params, grid)?;
            column_sum(&parts, dgamma, 1.0, accumulate)
        }
    }
}

/// For drop path without subsets: every row, with its own factor.
pub fn per_sample_scale(
    device: &Device,
    rows_of_sample: &[usize],
    keep: &[bool],
    scale: f32,
) -> Result<RowSubset> {
    let total: usize = rows_of_sample.iter().sum();
    let rows: Vec<u32> = (0..total as u32).collect();
    let mut factors = Vec::with_capacity(total);
    for (&n, &keep) in rows_of_sample.iter().zip(keep) {
        factors.extend(std::iter::repeat_n(if keep { scale } else { 0.0 }, n));
    }
    RowSubset::new(device, total, &rows, &factors)
}

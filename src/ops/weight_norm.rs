//! Weight normalisation of the prototypes: every row of the effective weight is W = g·v/‖v‖ (poa-facts:
//! projection heads; g is trained). The gradient comes from a dense dW, times a scalar that lives on the
//! device.

use crate::autograd::{InputGradient, Target};
use crate::cpu::{RowsMut, for_rows, math};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::rows::{RowPlan, plan, strip};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, vec4_aligned};

const SHADER: Shader = shader!("weight_norm.wgsl", kernels);

params!(WeightNormParams {
    rows: u32,
    cols: u32,
    v_offset: u32,
    v_stride: u32,
    w_offset: u32,
    w_stride: u32,
    dv_offset: u32,
    dv_stride: u32,
    g_offset: u32,
    dg_offset: u32,
    norm_offset: u32,
    factor_offset: u32,
    accumulate: bool,
    strip: u32,
});

fn kernel(backward: bool, plan: RowPlan) -> Kernel {
    let (entry, pass) = if backward { ("backward", "BACKWARD") } else { ("forward", "FORWARD") };
    let mut defines = plan.defines();
    defines.push((pass, 1));
    Kernel::new::<WeightNormParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    RowPlan::all(caps).into_iter().flat_map(|plan| [kernel(false, plan), kernel(true, plan)]).collect()
}

/// The effective weight of a weight-normed linear layer and what its gradient needs.
pub struct WeightNorm {
    v: Tensor,
    g: Tensor,
    /// `[K]`: ‖v‖ of every row.
    norms: Tensor,
    /// `[K, D]`: g·v/‖v‖.
    weight: Tensor,
}

/// W = g·v/‖v‖ for v `[K, D]` and g `[K, 1]` (or `[K]`).
pub fn effective(v: &Tensor, g: &Tensor) -> Result<WeightNorm> {
    let _span = profile::operation("weight_norm");
    let rv = v.rows("weight_norm")?;
    if v.shape().len() != 2 || g.elements() != rv.rows || !g.layout().is_contiguous() {
        return Err(Error::shape("weight_norm", format!("v {v:?} with g {g:?}")));
    }
    let weight = Tensor::empty(v.device(), v.shape(), DType::F32)?;
    let norms = Tensor::empty(v.device(), &[rv.rows], DType::F32)?;
    match v.device() {
        Device::Cpu(_) => {
            let (v, g, n) =
                (&*v.cpu_read::<f32>("weight_norm")?, &*g.cpu_read::<f32>("weight_norm")?, rv.cols);
            for_rows(
                (
                    weight.cpu_rows_mut::<f32>("weight_norm")?.rows_mut(),
                    RowsMut::dense(&mut norms.cpu_write::<f32>("weight_norm")?, 1),
                ),
                #[inline(always)]
                |_, i, (w, norm)| {
                    let row = &v[i * rv.stride..][..n];
                    norm[0] = math::sum_of([row], |[x]| x * x).sqrt();
                    let factor = g[i] / norm[0];
                    w.iter_mut().zip(row).for_each(|(w, v)| *w = v * factor);
                },
            );
        }
        Device::Gpu(gpu) => {
            let plan = plan(rv.cols, vec4_aligned(&[rv, weight.rows("weight_norm")?], &[]), gpu.caps());
            let strip = strip(rv.rows, rv.rows, gpu.caps());
            let params = WeightNormParams {
                rows: rv.rows,
                cols: rv.cols,
                strip,
                v_offset: rv.offset,
                v_stride: rv.stride,
                w_offset: weight.layout().offset,
                w_stride: rv.cols,
                g_offset: g.layout().offset,
                norm_offset: norms.layout().offset,
                ..Default::default()
            };
            let grid = gpu.caps().grid(plan.team.workgroups(rv.rows.div_ceil(strip)));
            gpu.dispatch(&kernel(false, plan), &[&weight, &norms, v, g], &params, grid)?;
        }
    }
    Ok(WeightNorm { v: v.clone(), g: g.clone(), norms, weight })
}

impl WeightNorm {
    /// The effective weight `[K, D]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Lets go of the effective weight, keeping what [`Self::backward`] needs.
    pub fn without_weight(self) -> Self {
        Self { weight: self.v.clone(), ..self }
    }

    /// Gradients of `v` and `g` from that of the effective weight, dW `[K, D]`, times `factor` (one element,
    /// read on the device): dg = (dW·v)/‖v‖, dv = g/‖v‖·(dW − v·(dW·v)/‖v‖²).
    pub fn backward(&self, v: InputGradient, g: InputGradient, dw: &Tensor, factor: &Tensor) -> Result<()> {
        let _span = profile::operation("weight_norm");
        if !v.is_wanted() && !g.is_wanted() {
            return Ok(());
        }
        let dv = Target::or_scratch(v.target()?, &self.v)?;
        // dg takes its own memory first: both gradients may lie in one buffer, and a kernel writes one view
        // of it
        let dg = Tensor::empty(dw.device(), self.g.shape(), DType::F32)?;
        self.launch(&dv, &dg, dw, factor)?;
        g.add(dg)
    }

    fn launch(&self, dv: &Target, dg: &Tensor, dw: &Tensor, factor: &Tensor) -> Result<()> {
        let (rv, rw, ro) =
            (self.v.rows("weight_norm")?, dw.rows("weight_norm")?, dv.tensor.rows("weight_norm")?);
        if (rw.rows, rw.cols) != (rv.rows, rv.cols) {
            return Err(Error::shape("weight_norm", format!("gradient {dw:?} of {:?}", self.v)));
        }
        match self.v.device() {
            Device::Cpu(_) => {
                let (v, g, norms, n) = (
                    &*self.v.cpu_read::<f32>("weight_norm")?,
                    &*self.g.cpu_read::<f32>("weight_norm")?,
                    &*self.norms.cpu_read::<f32>("weight_norm")?,
                    rv.cols,
                );
                let (dw, factor) =
                    (&*dw.cpu_read::<f32>("weight_norm")?, factor.cpu_read::<f32>("weight_norm")?[0]);
                let accumulate = dv.accumulate;
                for_rows(
                    (
                        dv.tensor.cpu_rows_mut::<f32>("weight_norm")?.rows_mut(),
                        RowsMut::dense(&mut dg.cpu_write::<f32>("weight_norm")?, 1),
                    ),
                    #[inline(always)]
                    |_, i, (dv, dg)| {
                        let (row, d) = (&v[i * rv.stride..][..n], &dw[i * rw.stride..][..n]);
                        let inverse = 1.0 / norms[i];
                        let along = math::sum_of([row, d], |[x, d]| x * d) * inverse;
                        let (scale, back) = (factor * g[i] * inverse, along * inverse);
                        for ((o, v), d) in dv.iter_mut().zip(row).zip(d) {
                            let gradient = scale * (d - v * back);
                            *o = if accumulate { *o + gradient } else { gradient };
                        }
                        dg[0] = factor * along;
                    },
                );
                Ok(())
            }
            Device::Gpu(gpu) => {
                let plan = plan(rv.cols, vec4_aligned(&[rv, rw, ro], &[]), gpu.caps());
                let strip = strip(rv.rows, rv.rows, gpu.caps());
                let params = WeightNormParams {
                    rows: rv.rows,
                    cols: rv.cols,
                    strip,
                    v_offset: rv.offset,
                    v_stride: rv.stride,
                    w_offset: rw.offset,
                    w_stride: rw.stride,
                    dv_offset: ro.offset,
                    dv_stride: ro.stride,
                    g_offset: self.g.layout().offset,
                    dg_offset: dg.layout().offset,
                    norm_offset: self.norms.layout().offset,
                    factor_offset: factor.layout().offset,
                    accumulate: dv.accumulate,
                };
                let tensors = [&dv.tensor, dg, dw, &self.v, &self.g, &self.norms, factor];
                let grid = gpu.caps().grid(plan.team.workgroups(rv.rows.div_ceil(strip)));
                gpu.dispatch(&kernel(true, plan), &tensors, &params, grid)
            }
        }
    }
}

//! KoLeo: spreads features by pushing each from its nearest neighbour (poa-facts "Targets and losses").
//!
//! Rows are L2-normalised (eps 1e-8) and come in groups, the views; x_nn is the other row of the group with
//! the largest dot product (the first of equals). loss = Σ over groups of −mean_i log(‖x_i − x_nn + 1e-8‖ +
//! 1e-8), 1e-8 added to every component of the difference as PyTorch's PairwiseDistance does. The gradient
//! flows through x_nn.

use std::convert::identity;

use crate::autograd::{Tape, Var};
use crate::cpu::{Arch, for_rows, math};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::l2_normalize::l2_normalize;
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::ops::reduce::column_sum;
use crate::profile;
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = shader!("koleo.wgsl", kernels);

const EPS: f32 = 1e-8;

params!(KoleoParams {
    rows: u32,
    cols: u32,
    group: u32,
    x_offset: u32,
    dots_offset: u32,
    nearest_offset: u32,
    slope_offset: u32,
    loss_offset: u32,
    factor_offset: u32,
    dx_offset: u32,
    dx_stride: u32,
    accumulate: bool,
    eps: f32,
});

fn kernel(backward: bool) -> Kernel {
    let (entry, pass) = if backward { ("backward", "BACKWARD") } else { ("forward", "FORWARD") };
    Kernel::new::<KoleoParams>(SHADER, entry, vec![("WG", 256), (pass, 1)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel(false), kernel(true)]
}

/// What the gradient needs.
struct Saved {
    /// Normalised, dense: `[n, D]`.
    x: Tensor,
    /// Rows in a group.
    group: usize,
    /// `[n]`: the nearest other row.
    nearest: Tensor,
    /// `[n]`: the derivative of the loss to ‖x_i − x_nn + eps‖, over that distance.
    slope: Tensor,
}

impl Saved {
    fn params(&self) -> KoleoParams {
        KoleoParams {
            rows: self.x.dim(0),
            cols: self.x.dim(1),
            group: self.group,
            x_offset: self.x.layout().offset,
            nearest_offset: self.nearest.layout().offset,
            slope_offset: self.slope.layout().offset,
            eps: EPS,
            ..Default::default()
        }
    }

    /// Nearest rows, slopes, and the loss of every row, from all dot products `[groups, group, group]`.
    fn forward(&self, dots: &Tensor, losses: &Tensor) -> Result<()> {
        let (n, d) = (self.x.dim(0), self.x.dim(1));
        match self.x.device() {
            Device::Cpu(_) => {
                let (x, dots) = (&*self.x.cpu_read::<f32>("koleo")?, &*dots.cpu_read::<f32>("koleo")?);
                let nearest = &mut *self.nearest.cpu_write::<u32>("koleo")?;
                let slope = &mut *self.slope.cpu_write::<f32>("koleo")?;
                let (losses, arch) = (&mut *losses.cpu_write::<f32>("koleo")?, Arch::get());
                for i in 0..n {
                    let (first, own) = (i / self.group * self.group, i % self.group);
                    let mut best = (own, f32::NEG_INFINITY);
                    for (j, &v) in dots[i * self.group..][..self.group].iter().enumerate() {
                        if j != own && v > best.1 {
                            best = (j, v);
                        }
                    }
                    let (a, b) = (&x[i * d..][..d], &x[(first + best.0) * d..][..d]);
                    let distance = arch
                        .run(
                            #[inline(always)]
                            |_| math::sum_of([a, b], |[a, b]| (a - b + EPS) * (a - b + EPS)),
                        )
                        .sqrt();
                    nearest[i] = (first + best.0) as u32;
                    slope[i] = -1.0 / (self.group as f32 * (distance + EPS) * distance);
                    losses[i] = -(distance + EPS).ln();
                }
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = KoleoParams {
                    dots_offset: dots.layout().offset,
                    loss_offset: losses.layout().offset,
                    ..self.params()
                };
                let tensors = [&self.nearest, &self.slope, losses, &self.x, dots];
                gpu.dispatch(&kernel(false), &tensors, &params, gpu.caps().grid(n))
            }
        }
    }

    /// dx_i (+)= factor·(slope_i·(x_i − x_nn + eps) − Σ over rows k nearest to i of slope_k·(x_k − x_i +
    /// eps))
    fn backward(&self, dx: &Tensor, factor: &Tensor, accumulate: bool) -> Result<()> {
        let (d, out) = (self.x.dim(1), dx.rows("koleo")?);
        match self.x.device() {
            Device::Cpu(_) => {
                let (x, nearest, slope) = (
                    &*self.x.cpu_read::<f32>("koleo")?,
                    &*self.nearest.cpu_read::<u32>("koleo")?,
                    &*self.slope.cpu_read::<f32>("koleo")?,
                );
                let (factor, group) = (factor.cpu_read::<f32>("koleo")?[0], self.group);
                for_rows(
                    dx.cpu_rows_mut::<f32>("koleo")?.rows_mut(),
                    #[inline(always)]
                    |_, i, out| {
                        if !accumulate {
                            out.fill(0.0);
                        }
                        // factor·slope of the pair (x_k, x_to), which pulls the row with this sign
                        let mut add = identity(
                            #[inline(always)]
                            |k: usize, to: usize, sign: f32| {
                                let f = sign * factor * slope[k];
                                for ((o, a), b) in out.iter_mut().zip(&x[k * d..][..d]).zip(&x[to * d..][..d])
                                {
                                    *o += f * (a - b + EPS);
                                }
                            },
                        );
                        add(i, nearest[i] as usize, 1.0);
                        let first = i / group * group;
                        for k in (first..first + group).filter(|&k| nearest[k] as usize == i) {
                            add(k, i, -1.0);
                        }
                    },
                );
                Ok(())
            }
            Device::Gpu(gpu) => {
                let params = KoleoParams {
                    factor_offset: factor.layout().offset,
                    dx_offset: out.offset,
                    dx_stride: out.stride,
                    accumulate,
                    ..self.params()
                };
                let tensors = [dx, &self.x, &self.nearest, &self.slope, factor];
                gpu.dispatch(&kernel(true), &tensors, &params, gpu.caps().grid(out.rows))
            }
        }
    }
}

/// The loss `[1]` of rows `x` `[n, D]` in `groups` equal, consecutive groups, without weight.
pub fn koleo(tape: &Tape, x: &Var, groups: usize) -> Result<Var> {
    let _span = profile::operation("koleo");
    let bad = || Error::shape("koleo", format!("{:?} in {groups} groups", x.value()));
    let [n, d] = x.value().shape()[..] else { return Err(bad()) };
    if groups == 0 || n == 0 || n % groups != 0 {
        return Err(bad());
    }
    let normed = l2_normalize(tape, x, EPS)?;
    let (device, group) = (x.value().device(), n / groups);
    let dots = Tensor::empty(device, &[groups, group, group], DType::F32)?;
    let batch = Matrix::new(&normed.value().reshape(&[groups, group, d])?)?;
    matmul(&batch, &batch.clone().t(), &Matrix::new(&dots)?, &Options { exact: true, ..Default::default() })?;
    let saved = Saved {
        x: normed.value().clone(),
        group,
        nearest: Tensor::empty(device, &[n], DType::U32)?,
        slope: Tensor::empty(device, &[n], DType::F32)?,
    };
    let (losses, loss) =
        (Tensor::empty(device, &[n, 1], DType::F32)?, Tensor::empty(device, &[1], DType::F32)?);
    saved.forward(&dots, &losses)?;
    column_sum(&losses, &loss, 1.0 / group as f32, false)?;
    Ok(tape.record("koleo", [&normed], loss, move |[dx], cotangent| {
        dx.write(|dx, accumulate| saved.backward(dx, &cotangent, accumulate))
    }))
}

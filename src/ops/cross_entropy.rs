//! Cross-entropy of rows of student logits against targets that are computed on the fly, with the gradient
//! written over the logits (poa-facts "Targets and losses": CE(s, p) = −Σ p·log_softmax(s/τs)).
//!
//! With z = s/τs, and Σp = 1, a row's loss against one target is LSE(z) − Σ p·z. A row has up to two targets
//! among the teacher's rows, both with weight w, and optionally the logits d of a partner (the intact
//! student) as a third one, q = softmax(d/τs), with weight v:
//!   view = Σ over targets of CE(s, p), distillation = CE(s, q),
//!   ds = ((n·w + v)·softmax(z) − w·Σp − v·q)/τs with n the number of targets.

use rayon::prelude::*;

use crate::cpu::math::Math;
use crate::cpu::{Arch, math, par_parts};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::rows::{RowPlan, long_plan, long_plans};
use crate::ops::sinkhorn::{TERM, Targets, inverse_temperature, over_temperature};
use crate::profile;
use crate::tensor::{DType, Device, Tensor, vec4_aligned};

const SHADER: Shader = shader!("cross_entropy.wgsl", kernels);

/// In place of a target row: none.
pub const NO_TARGET: u32 = u32::MAX;

params!(CrossEntropyParams {
    rows: u32,
    cols: u32,
    s_offset: u32,
    s_stride: u32,
    d_offset: u32,
    d_stride: u32,
    t0_offset: u32,
    t0_stride: u32,
    t0_first: u32,
    t1_offset: u32,
    t1_stride: u32,
    t1_first: u32,
    a_offset: u32,
    b_offset: u32,
    table_offset: u32,
    loss_offset: u32,
    inverse: f32,
    target_inverse: f32,
    target_inverse_low: f32,
});

fn kernel(distill: bool, gradient: bool, plan: RowPlan) -> Kernel {
    let mut defines = plan.defines();
    defines.extend(distill.then_some(("DISTILL", 1)));
    defines.extend(gradient.then_some(("GRADIENT", 1)));
    Kernel::new::<CrossEntropyParams>(SHADER, "cross_entropy", defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    let all = |plan| kinds.map(|(distill, gradient)| kernel(distill, gradient, plan));
    long_plans(caps).into_iter().flat_map(all).collect()
}

/// What one row is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowTargets {
    /// Up to two rows of the targets, or [`NO_TARGET`].
    pub rows: [u32; 2],
    /// Weight of either.
    pub weight: f32,
    /// Weight of the distillation from the partner's logits.
    pub distill: f32,
}

/// Row tables as the kernels read them: `[rows, 4]` of (target, target, bits of weight, bits of distill).
pub fn row_table(device: &Device, rows: &[RowTargets]) -> Result<Tensor> {
    let words: Vec<u32> =
        rows.iter().flat_map(|r| [r.rows[0], r.rows[1], r.weight.to_bits(), r.distill.to_bits()]).collect();
    Tensor::from_slice(device, &[rows.len(), 4], &words)
}

/// A chunk of student logits and what it is compared with.
pub struct CrossEntropy<'a> {
    /// `[n, K]`; overwritten with its gradient where `gradient`.
    pub logits: &'a Tensor,
    /// The partner's logits `[n, K]`, for distillation.
    pub partner: Option<&'a Tensor>,
    /// The teacher's targets.
    pub targets: &'a Targets,
    /// The chunks of the targets in which all first, and all second, target rows of this call lie.
    pub chunks: [usize; 2],
    /// `[n, 4]` from [`row_table`].
    pub table: &'a Tensor,
    /// `[n, 2]`, written: the view loss and the distillation loss of every row, without weights.
    pub losses: &'a Tensor,
    /// τs.
    pub temperature: f64,
    /// Whether the logits are to be overwritten with their gradient.
    pub gradient: bool,
}

impl CrossEntropy<'_> {
    /// Computes the losses, and the gradient where it is wanted.
    pub fn run(&self) -> Result<()> {
        let _span = profile::operation("cross_entropy");
        let r = self.logits.rows("cross_entropy")?;
        let (k, n) = (self.targets.prototypes(), r.rows);
        let dense = |t: &Tensor, cols: usize| t.shape() == [n, cols] && t.layout().is_contiguous();
        let fits = r.cols == k && dense(self.table, 4) && dense(self.losses, 2);
        if !fits
            || self.table.dtype() != DType::U32
            || self.partner.is_some_and(|d| d.shape() != self.logits.shape())
        {
            return Err(Error::shape(
                "cross_entropy",
                format!(
                    "logits {:?}, partner {:?}, {k} prototypes, table {:?}, losses {:?}",
                    self.logits, self.partner, self.table, self.losses
                ),
            ));
        }
        // softmax, the partner's and at least one target, once for the losses and once more for the gradient
        let terms = if self.partner.is_some() { 3 } else { 2 } * if self.gradient { 2 } else { 1 };
        profile::flops(TERM * (terms * n * k) as f64);
        match self.logits.device() {
            Device::Cpu(_) => self.run_cpu(),
            Device::Gpu(gpu) => {
                let (starts, logits) = (self.targets.chunk_starts(), self.targets.logits());
                let [c0, c1] = self.chunks;
                let (x0, x1) = (logits[c0].rows("cross_entropy")?, logits[c1].rows("cross_entropy")?);
                let d = self.partner.unwrap_or(self.logits).rows("cross_entropy")?;
                let (target_inverse, target_inverse_low) = inverse_temperature(self.targets.temperature());
                let params = CrossEntropyParams {
                    rows: n,
                    cols: k,
                    s_offset: r.offset,
                    s_stride: r.stride,
                    d_offset: d.offset,
                    d_stride: d.stride,
                    t0_offset: x0.offset,
                    t0_stride: x0.stride,
                    t0_first: starts[c0],
                    t1_offset: x1.offset,
                    t1_stride: x1.stride,
                    t1_first: starts[c1],
                    a_offset: self.targets.row_scale().layout().offset,
                    b_offset: self.targets.column_scale().layout().offset,
                    table_offset: self.table.layout().offset,
                    loss_offset: self.losses.layout().offset,
                    inverse: (1.0 / self.temperature) as f32,
                    target_inverse,
                    target_inverse_low,
                };
                let mut tensors = vec![
                    self.losses,
                    self.logits,
                    &logits[c0],
                    &logits[c1],
                    self.targets.row_scale(),
                    self.targets.column_scale(),
                    self.table,
                ];
                tensors.extend(self.partner);
                let vec4 = vec4_aligned(&[r, d, x0, x1], &[self.targets.column_scale()]);
                let plan = long_plan(k, vec4, gpu.caps());
                let kernel = kernel(self.partner.is_some(), self.gradient, plan);
                gpu.dispatch(&kernel, &tensors, &params, gpu.caps().grid(n))
            }
        }
    }

    fn run_cpu(&self) -> Result<()> {
        let r = self.logits.rows("cross_entropy")?;
        let k = r.cols;
        let partner = self.partner.map(|d| d.cpu_rows::<f32>("cross_entropy")).transpose()?;
        let mut teacher = Vec::new();
        for c in self.chunks {
            let t = &self.targets.logits()[c];
            teacher.push((t.cpu_rows::<f32>("cross_entropy")?, self.targets.chunk_starts()[c]));
        }
        let (a, b) = (
            &*self.targets.row_scale().cpu_read::<f32>("cross_entropy")?,
            &*self.targets.column_scale().cpu_read::<f32>("cross_entropy")?,
        );
        let table = &*self.table.cpu_read::<u32>("cross_entropy")?;
        let (inverse, scales) =
            ((1.0 / self.temperature) as f32, inverse_temperature(self.targets.temperature()));
        let (gradient, arch) = (self.gradient, Arch::get());
        let row = |i: usize, s: &mut [f32], p: &mut [f32], q: &mut [f32]| -> [f32; 2] {
            arch.run(
                #[inline(always)]
                |math| {
                    let [t0, t1, weight, distill] = table[4 * i..][..4] else { unreachable!("rows of four") };
                    let mut count = 0.0;
                    for (t, (l, first)) in [t0, t1].into_iter().zip(&teacher).filter(|(t, _)| *t != NO_TARGET)
                    {
                        let t = t as usize;
                        let l = l.row(t - first);
                        add_target(math, p, l, b, [a[2 * t], a[2 * t + 1]], scales, count > 0.0);
                        count += 1.0;
                    }
                    if count == 0.0 {
                        p.fill(0.0);
                    }
                    let d = partner.as_ref().map(|d| d.row(i));
                    let weights = [f32::from_bits(weight), f32::from_bits(distill)];
                    row_losses(math, s, (p, count), d.map(|d| (d, q)), weights, inverse, gradient)
                },
            )
        };
        // the logits are written only for the gradient; rows are long, so one is a piece of work for a core
        let mut logits = self.logits.cpu_rows_mut::<f32>("cross_entropy")?;
        let mut losses = self.losses.cpu_rows_mut::<f32>("cross_entropy")?;
        let q_len = if self.partner.is_some() { k } else { 0 };
        let scratch = || (vec![0.0f32; k], vec![0.0f32; q_len]);
        par_parts((logits.rows_mut(), losses.rows_mut()))
            .with_min_len(4096usize.div_ceil(k))
            .for_each_init(scratch, |(p, q), (i, (s, loss))| loss.copy_from_slice(&row(i, s, p, q)));
        Ok(())
    }
}

/// p (+)= exp(l/τ + a + b)
#[inline(always)]
fn add_target(math: Math, p: &mut [f32], l: &[f32], b: &[f32], a: [f32; 2], inverse: (f32, f32), add: bool) {
    for ((p, l), b) in p.iter_mut().zip(l).zip(b) {
        let e = {
            let (x, y) = over_temperature(math, *l, inverse, a[0], a[1]);
            math.exp((x + b) + y)
        };
        *p = if add { *p + e } else { e };
    }
}

/// The losses of one row against the sum of so many targets, `(p, count)`, and a partner (its logits, and
/// memory for q).
#[inline(always)]
fn row_losses(
    math: Math,
    s: &mut [f32],
    (p, count): (&[f32], f32),
    partner: Option<(&[f32], &mut [f32])>,
    [weight, distill]: [f32; 2],
    inverse: f32,
    gradient: bool,
) -> [f32; 2] {
    let max = math::max_of([s], |[s]| s);
    // both terms of the loss are taken relative to the maximum, which then cancels
    let z = |s: f32| (s - max) * inverse;
    let dot = long_sum([p, s], |[p, s]| p * z(s));
    let mut q_loss = None;
    if let Some((d, q)) = partner {
        let max = math::max_of([d], |[d]| d);
        for (q, d) in q.iter_mut().zip(d) {
            *q = math.exp((d - max) * inverse);
        }
        let sum = long_sum([q], |[q]| q);
        q_loss = Some((&*q, sum, long_sum([q, s], |[q, s]| q * z(s)) / sum));
    }
    let sum = if gradient {
        for s in &mut *s {
            *s = math.exp((*s - max) * inverse);
        }
        long_sum([s], |[s]| s)
    } else {
        long_sum([s], |[s]| math.exp(z(s)))
    };
    let lse = sum.ln();
    let losses = [(count as f64 * lse - dot) as f32, q_loss.map_or(0.0, |(_, _, dot)| (lse - dot) as f32)];
    if gradient {
        let distill = if q_loss.is_some() { distill } else { 0.0 };
        let own = ((count * weight + distill) * inverse) as f64 / sum;
        let (own, weight) = (own as f32, weight * inverse);
        match q_loss {
            None => s.iter_mut().zip(p).for_each(|(s, p)| *s = own * *s - weight * p),
            Some((q, q_sum, _)) => {
                let other = ((distill * inverse) as f64 / q_sum) as f32;
                for ((s, p), q) in s.iter_mut().zip(p).zip(q) {
                    *s = own * *s - (weight * p + other * q);
                }
            }
        }
    }
    losses
}

/// [`math::sum_of`] long rows: blocks are added in f64.
#[inline(always)]
fn long_sum<const N: usize>(x: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f64 {
    const BLOCK: usize = 2048;
    let n = x[0].len();
    let mut sum = 0.0;
    for at in (0..n).step_by(BLOCK) {
        sum += math::sum_of(x.map(|x| &x[at..(at + BLOCK).min(n)]), &f) as f64;
    }
    sum
}

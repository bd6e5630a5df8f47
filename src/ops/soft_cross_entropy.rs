//! Softmax cross-entropy of rows of logits against two classes each, mixed and smoothed, with the gradient written over
//! the logits: what a classifier is trained with whose images are mixed in pairs (Mixup, CutMix).
//!
//! The target of a row of C logits with classes a and b is `λ·smooth(a) + (1 − λ)·smooth(b)`, where `smooth(a)` is s/C
//! everywhere and 1 − s more at a; it is never laid out. λ = 1 without smoothing is
//! [`label_cross_entropy`](super::label_cross_entropy).

use crate::cpu::{for_rows, math};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = shader!("soft_cross_entropy.wgsl", kernels);

params!(SoftCrossEntropyParams {
    rows: u32,
    cols: u32,
    x_offset: u32,
    x_stride: u32,
    a_offset: u32,
    b_offset: u32,
    loss_offset: u32,
    of_a: f32,
    of_b: f32,
    of_all: f32,
    scale: f32,
});

fn kernel(cols: usize) -> Kernel {
    let wg = if cols <= 256 { 64 } else { 256 };
    Kernel::new::<SoftCrossEntropyParams>(SHADER, "soft_cross_entropy", vec![("WG", wg)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel(64), kernel(1024)]
}

/// What rows of logits should say.
#[derive(Clone, Copy, Debug)]
pub struct MixedLabels<'a> {
    /// `u32 [n]`: the class of each row's own image.
    pub a: &'a Tensor,
    /// `u32 [n]`: the class of the image that was mixed in; may be `a` again.
    pub b: &'a Tensor,
    /// The share of the own image, λ.
    pub lambda: f32,
    /// The share of the target that all classes have alike, s.
    pub smoothing: f32,
}

/// The losses `[n, 1]` of `logits` `[n, classes]`, which are overwritten with `scale` times their gradient,
/// softmax − target.
pub fn soft_cross_entropy(logits: &Tensor, labels: &MixedLabels<'_>, scale: f32) -> Result<Tensor> {
    const NAME: &str = "soft_cross_entropy";
    let _span = profile::operation(NAME);
    let x = logits.rows(NAME)?;
    let MixedLabels { a, b, lambda, smoothing } = *labels;
    let fits = |of: &Tensor| {
        of.dtype() == DType::U32 && of.layout().is_contiguous() && of.elements() == x.rows && x.rows > 0
    };
    let shares = (0.0..=1.0).contains(&lambda) && (0.0..=1.0).contains(&smoothing);
    if !fits(a) || !fits(b) || x.cols == 0 || !shares {
        let problem = format!("logits {logits:?}, labels {a:?} and {b:?}, λ {lambda}, smoothing {smoothing}");
        return Err(Error::shape(NAME, problem));
    }
    let (of_a, of_b) = ((1.0 - smoothing) * lambda, (1.0 - smoothing) * (1.0 - lambda));
    let of_all = smoothing / x.cols as f32;
    let losses = Tensor::empty(logits.device(), &[x.rows, 1], DType::F32)?;
    match logits.device() {
        Device::Cpu(_) => {
            let (a, b) = (&*a.cpu_read::<u32>(NAME)?, &*b.cpu_read::<u32>(NAME)?);
            for_rows(
                (logits.cpu_rows_mut::<f32>(NAME)?.rows_mut(), losses.cpu_rows_mut::<f32>(NAME)?.rows_mut()),
                #[inline(always)]
                |math, r, (row, loss)| {
                    let (a, b) = (a[r] as usize, b[r] as usize);
                    let most = math::max_of([row], |[s]| s);
                    let own = of_a * (row[a] - most) + of_b * (row[b] - most);
                    let all = match smoothing > 0.0 {
                        true => of_all * math::sum_of([row], |[s]| s - most),
                        false => 0.0,
                    };
                    for v in &mut *row {
                        *v = math.exp(*v - most);
                    }
                    let total = math::sum_of([row], |[s]| s);
                    loss[0] = total.ln() - (own + all);
                    let (share, less) = (scale / total, scale * of_all);
                    row.iter_mut().for_each(|v| *v = *v * share - less);
                    row[a] -= scale * of_a;
                    row[b] -= scale * of_b;
                },
            );
        }
        Device::Gpu(gpu) => {
            let params = SoftCrossEntropyParams {
                rows: x.rows,
                cols: x.cols,
                x_offset: x.offset,
                x_stride: x.stride,
                a_offset: a.layout().offset,
                b_offset: b.layout().offset,
                loss_offset: losses.layout().offset,
                of_a,
                of_b,
                of_all,
                scale,
            };
            gpu.dispatch(&kernel(x.cols), &[logits, &losses, a, b], &params, gpu.caps().grid(x.rows))?;
        }
    }
    Ok(losses)
}

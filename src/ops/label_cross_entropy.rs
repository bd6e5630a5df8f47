//! Softmax cross-entropy of rows of logits against one class each, with the gradient written over the logits:
//! what a linear classifier on frozen features is trained with.

use crate::cpu::{for_rows, math};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = shader!("label_cross_entropy.wgsl", kernels);

params!(LabelCrossEntropyParams {
    rows: u32,
    cols: u32,
    x_offset: u32,
    x_stride: u32,
    label_offset: u32,
    per_label: u32,
    loss_offset: u32,
    scale: f32,
});

fn kernel(cols: usize) -> Kernel {
    let wg = if cols <= 256 { 64 } else { 256 };
    Kernel::new::<LabelCrossEntropyParams>(SHADER, "label_cross_entropy", vec![("WG", wg)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel(64), kernel(1024)]
}

/// The label of rows that are not looked at: their loss and its gradient are zero.
pub const IGNORED: u32 = u32::MAX;

/// The losses `[rows, 1]` of `logits` `[rows, classes]`, which are overwritten with `scale` times their
/// gradient, softmax − onehot. `labels` `u32 [n]` holds classes or [`IGNORED`], each for rows / n consecutive rows.
pub fn label_cross_entropy(logits: &Tensor, labels: &Tensor, scale: f32) -> Result<Tensor> {
    let x = logits.rows("label_cross_entropy")?;
    let n = labels.elements();
    let fits = labels.dtype() == DType::U32 && labels.layout().is_contiguous() && n > 0;
    if !fits || x.rows % n != 0 || x.cols == 0 {
        return Err(Error::shape("label_cross_entropy", format!("logits {logits:?}, labels {labels:?}")));
    }
    let per_label = x.rows / n;
    let losses = Tensor::empty(logits.device(), &[x.rows, 1], DType::F32)?;
    match logits.device() {
        Device::Cpu(_) => {
            let labels = &*labels.cpu_read::<u32>("label_cross_entropy")?;
            for_rows(
                (
                    logits.cpu_rows_mut::<f32>("label_cross_entropy")?.rows_mut(),
                    losses.cpu_rows_mut::<f32>("label_cross_entropy")?.rows_mut(),
                ),
                #[inline(always)]
                |math, r, (row, loss)| {
                    let label = match labels[r / per_label] {
                        IGNORED => {
                            row.fill(0.0);
                            loss[0] = 0.0;
                            return;
                        }
                        label => label as usize,
                    };
                    let (most, own) = (math::max_of([row], |[s]| s), row[label]);
                    for v in &mut *row {
                        *v = math.exp(*v - most);
                    }
                    let total = math::sum_of([row], |[s]| s);
                    loss[0] = total.ln() + (most - own);
                    let share = scale / total;
                    row.iter_mut().for_each(|v| *v *= share);
                    row[label] -= scale;
                },
            );
        }
        Device::Gpu(gpu) => {
            let params = LabelCrossEntropyParams {
                rows: x.rows,
                cols: x.cols,
                x_offset: x.offset,
                x_stride: x.stride,
                label_offset: labels.layout().offset,
                per_label,
                loss_offset: losses.layout().offset,
                scale,
            };
            gpu.dispatch(&kernel(x.cols), &[logits, &losses, labels], &params, gpu.caps().grid(x.rows))?;
        }
    }
    Ok(losses)
}

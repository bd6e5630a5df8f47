//! Cross-entropy of every pixel with its class, of logits on a coarser grid that are enlarged bilinearly. The enlarged logits
//! of one image at a time are all that is in memory: of 150 classes and 512×512 pixels they are 157 MB.

use crate::error::{Error, Result};
use crate::ops::conv::MapShape;
use crate::ops::label_cross_entropy::label_cross_entropy;
use crate::ops::reduce::column_sum;
use crate::ops::resample::Resampling;
use crate::tensor::{DType, Tensor};

/// The mean loss (one element) of logits `[n·height·width, classes]` against `labels` `u32 [n·size²]`, and `scale` times its
/// gradient. Pixels to be ignored count in the mean, as zeros: mmsegmentation's default.
pub fn pixel_loss(
    logits: &Tensor,
    shape: MapShape,
    labels: &Tensor,
    size: usize,
    scale: f32,
) -> Result<(Tensor, Tensor)> {
    let (device, pixels) = (logits.device(), size * size);
    let (one, classes) = (shape.height * shape.width, logits.dim(1));
    if logits.dim(0) != shape.rows() || labels.elements() != shape.images * pixels {
        return Err(Error::shape("pixel_loss", format!("{logits:?} as {shape:?}, labels {labels:?}")));
    }
    let by = Resampling::bilinear(device, [shape.height, shape.width], [size, size])?;
    let gradient = Tensor::empty(device, logits.shape(), DType::F32)?;
    let loss = Tensor::zeros(device, &[1], DType::F32)?;
    let mean = 1.0 / (shape.images * pixels) as f32;
    for image in 0..shape.images {
        let large = Tensor::empty(device, &[pixels, classes], DType::F32)?;
        by.apply(&large, &logits.slice(0, image * one..(image + 1) * one)?, 1)?;
        let labels = labels.slice(0, image * pixels..(image + 1) * pixels)?;
        // the gradient takes the enlarged logits' place
        let losses = label_cross_entropy(&large, &labels, scale * mean)?;
        column_sum(&losses, &loss, mean, true)?;
        by.apply_back(&gradient.slice(0, image * one..(image + 1) * one)?, &large, 1)?;
    }
    Ok((loss, gradient))
}

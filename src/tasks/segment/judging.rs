//! A class for every pixel of whole images: windows that overlap go through the network, their logits are averaged, and the
//! mean is brought to the size of the mask (mmsegmentation's `slide` mode).

use crate::autograd::Tape;
use crate::data::Normalization;
use crate::data::pixels::Image;
use crate::data::scratch::Scratch;
use crate::data::segmentation::crops::{Sides, seen_whole};
use crate::error::Result;
use crate::ops::argmax::argmax;
use crate::ops::resample::{Axis, Resampling};
use crate::tasks::segment::SegmentModel;
use crate::tasks::segment::heads::Mode;
use crate::tensor::{DType, Tensor, strided_copy};

/// Bytes of logits at the size of the mask that are on the device together, at most (but one line).
const STRIP_BYTES: usize = 64 << 20;

/// How images are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Pixels a side of a window.
    pub size: usize,
    /// Pixels between two.
    pub stride: usize,
    /// The size of the whole image.
    pub sides: Sides,
    /// Windows that go through the network together.
    pub at_once: usize,
}

/// Where windows begin along an axis of so many pixels: every `stride`, the last at the end.
pub fn starts(pixels: usize, size: usize, stride: usize) -> Vec<usize> {
    let last = pixels.saturating_sub(size);
    (0..=last.div_ceil(stride.max(1))).map(|i| (i * stride).min(last)).collect()
}

/// How many windows see each pixel of an axis.
fn seen(pixels: usize, size: usize, starts: &[usize]) -> Vec<usize> {
    let mut counts = vec![0; pixels];
    for start in starts {
        counts[*start..(start + size).min(pixels)].iter_mut().for_each(|count| *count += 1);
    }
    counts
}

/// An image ready to be looked at; made by threads that have no device.
pub struct Prepared {
    /// Planes of 8-bit values, as the network sees the whole.
    planes: Vec<u8>,
    /// Pixels across and down of these.
    resized: (u32, u32),
    /// Pixels across and down of the mask.
    size: (u32, u32),
    /// The classes of its pixels.
    pub classes: Vec<u8>,
    /// The image as it is, for pictures.
    pub image: Image,
}

impl Prepared {
    /// Of an image with its mask.
    pub fn new(image: Image, sides: Sides) -> Self {
        let (planes, resized) = seen_whole(&image, sides, &mut Scratch::default());
        let classes = image.classes().unwrap_or_default().to_vec();
        Self { planes, resized, size: image.dimensions(), classes, image }
    }

    /// A window `[channels, size, size]`, normalised; zeros beyond the image.
    fn window(&self, [top, left]: [usize; 2], size: usize, by: &Normalization, out: &mut Vec<f32>) {
        let (width, height) = (self.resized.0 as usize, self.resized.1 as usize);
        let table = by.table();
        for (channel, plane) in self.planes.chunks_exact(width * height).enumerate() {
            let table = &table[256 * channel..][..256];
            for y in top..top + size {
                let across = left..(left + size).min(width);
                let before = out.len();
                if y < height {
                    out.extend(plane[y * width..][across].iter().map(|v| table[usize::from(*v)]));
                }
                out.resize(before + size, 0.0);
            }
        }
    }
}

/// The class of every pixel of an image, `[height, width]` of its mask.
pub fn predict(
    model: &SegmentModel,
    image: &Prepared,
    how: &Windows,
    by: &Normalization,
) -> Result<Vec<u32>> {
    let device = &model.device;
    let (width, height) = (image.resized.0 as usize, image.resized.1 as usize);
    let [rows, columns] = [height, width].map(|pixels| starts(pixels, how.size, how.stride));
    let places: Vec<[usize; 2]> = rows.iter().flat_map(|y| columns.iter().map(move |x| [*y, *x])).collect();
    let sum = Tensor::zeros(device, &[height * width, model.classes], DType::F32)?;
    let whole = sum.reshape(&[1, height, width, model.classes])?;
    let channels = by.channels();
    for places in places.chunks(how.at_once.max(1)) {
        let mut values = Vec::with_capacity(places.len() * channels * how.size * how.size);
        places.iter().for_each(|place| image.window(*place, how.size, by, &mut values));
        let images = Tensor::from_slice(device, &[places.len(), channels, how.size, how.size], &values)?;
        let (logits, shape) = model.logits(&Tape::no_grad(), &images, None, &Mode::Judging)?.main;
        let one = shape.height * shape.width;
        let enlarged = Resampling::bilinear(device, [shape.height, shape.width], [how.size; 2])?;
        for (i, [top, left]) in places.iter().enumerate() {
            let large = Tensor::empty(device, &[how.size * how.size, model.classes], DType::F32)?;
            enlarged.apply(&large, &logits.value().slice(0, i * one..(i + 1) * one)?, 1)?;
            let (high, wide) = (how.size.min(height - top), how.size.min(width - left));
            let large = large.reshape(&[1, how.size, how.size, model.classes])?;
            let from = large.slice(1, 0..high)?.slice(2, 0..wide)?;
            let to = whole.slice(1, *top..top + high)?.slice(2, *left..left + wide)?;
            strided_copy(&to, &from, true)?;
        }
    }
    classes(model, &sum, image, [&rows, &columns], how)
}

/// The classes of logits that were added up over windows, strip by strip.
fn classes(
    model: &SegmentModel,
    sum: &Tensor,
    image: &Prepared,
    starts: [&[usize]; 2],
    how: &Windows,
) -> Result<Vec<u32>> {
    let size = [image.size.1 as usize, image.size.0 as usize];
    let resized = [image.resized.1 as usize, image.resized.0 as usize];
    // the mean over the windows that see a pixel: their number is a product of two
    let axis = |i: usize| {
        let counts = seen(resized[i], how.size, starts[i]);
        let factors: Vec<f32> = counts.iter().map(|count| 1.0 / *count as f32).collect();
        Axis::linear(resized[i], size[i]).weighted(&factors)
    };
    let (down, across) = (axis(0), axis(1));
    let line = size[1] * model.classes * crate::tensor::ELEMENT_BYTES;
    let strip = (STRIP_BYTES / line.max(1)).max(1);
    let mut all = Vec::with_capacity(size[0] * size[1]);
    for first in (0..size[0]).step_by(strip) {
        let last = (first + strip).min(size[0]);
        let by = Resampling::new(&model.device, &down.part(first..last), &across)?;
        let logits = Tensor::empty(&model.device, &[(last - first) * size[1], model.classes], DType::F32)?;
        by.apply(&logits, sum, 1)?;
        all.extend(argmax(&logits)?.to_vec::<u32>()?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_mmsegmentation() {
        assert_eq!(starts(683, 512, 341), [0, 171]);
        assert_eq!(starts(512, 512, 341), [0]);
        assert_eq!(starts(300, 512, 341), [0]);
        assert_eq!(starts(1365, 512, 341), [0, 341, 682, 853]);
        assert_eq!(seen(5, 3, &starts(5, 3, 2)), [1, 1, 2, 1, 1]);
    }
}

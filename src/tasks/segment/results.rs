//! The best model so far as files, what is kept of the looks at the images to be judged by, and pictures of what is predicted.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use serde::{Deserialize, Serialize};

use crate::data::pixels::{IGNORED, Image};
use crate::error::{Error, Result};
use crate::eval::segmentation::Confusion;
use crate::files::durable::replace_file;
use crate::files::tensor_writer::{TensorSpec, write_tensors_with};
use crate::models::plain::Format;
use crate::tasks::best::write_network;
use crate::tasks::segment::{SegmentModel, Settings};

/// The folder of the best model so far, in a run's.
pub(super) const BEST: &str = "best";
/// The head of the best model.
const HEAD: &str = "head.safetensors";
/// Statistics of a BatchNorm as PyTorch calls them, by column of ours.
const STATISTICS: [&str; 2] = ["running_mean", "running_var"];

/// How good a model is, each 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Mean intersection over union of the classes.
    pub miou: f64,
    /// Mean accuracy of the classes.
    pub macc: f64,
    /// Share of the pixels that are right.
    pub aacc: f64,
}

impl Quality {
    /// Of what was counted; zeros without any pixel.
    pub fn of(found: &Confusion) -> Self {
        let or_zero = |value: Option<f64>| value.unwrap_or(0.0);
        Self {
            miou: or_zero(found.mean_iou()),
            macc: or_zero(found.mean_accuracy()),
            aacc: or_zero(found.pixel_accuracy()),
        }
    }
}

/// What is kept of the looks at the images to be judged by, beside the best model: `best.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    /// The names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// A checksum of the images to be judged by.
    pub images: u32,
    /// After how many steps.
    pub step: usize,
    /// Mean intersection over union.
    pub miou: f64,
}

impl Best {
    fn path(run: &Path) -> PathBuf {
        run.join("best.json")
    }

    /// What a run's folder has; `None` where there is none that can be read.
    pub fn read(run: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(run)).ok()?).ok()
    }

    /// To a run's folder.
    pub fn write(&self, run: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|e| Error::file(run, e.to_string()))?;
        replace_file(&Self::path(run), &text)
    }
}

/// Writes network and head to `best` in a run's folder, the head under mmsegmentation's names. Says in which format the
/// network is.
pub(super) fn write_best(model: &SegmentModel, settings: &Settings, run: &Path) -> Result<Format> {
    let dir = run.join(BEST);
    let format =
        write_network(model.parameters.values(), &*model.backbone, &dir, settings.normalization()?, None)?;
    let mut specs: Vec<TensorSpec> = Vec::new();
    for place in model.parameters.values().layout().places() {
        if !place.spec.name.starts_with("backbone.") {
            specs.push(TensorSpec::f32(&place.spec.name, &plain_shape(&place.spec.name, &place.spec.shape)));
        }
    }
    for (name, statistics) in model.running.all() {
        specs.extend(STATISTICS.map(|part| TensorSpec::f32(format!("{name}.{part}"), &[statistics.dim(0)])));
    }
    write_tensors_with(&dir.join(HEAD), &specs, &[("format", "pt")], |name| {
        for (norm, statistics) in model.running.all() {
            for (column, part) in STATISTICS.iter().enumerate() {
                if name.strip_prefix(&**norm).and_then(|rest| rest.strip_prefix('.')) == Some(*part) {
                    return Ok(statistics.to_vec::<f32>()?.into_iter().skip(column).step_by(2).collect());
                }
            }
        }
        let values = model.parameters.values().read(name)?;
        Ok(if is_transposed(name) { transposed(&values) } else { values })
    })?;
    Ok(format)
}

/// Whether a parameter is that of a transposed convolution, which PyTorch has as `[in, out, 2, 2]`.
fn is_transposed(name: &str) -> bool {
    name.starts_with("neck.") && name.ends_with(".weight") && !name.ends_with("fpn1.1.weight")
}

/// The shape that PyTorch has: convolutions of one pixel have two dimensions more.
fn plain_shape(name: &str, shape: &[usize]) -> Vec<usize> {
    match shape {
        [4, out, input] if is_transposed(name) => vec![*input, *out, 2, 2],
        [out, input] => vec![*out, *input, 1, 1],
        other => other.to_vec(),
    }
}

/// `[4, width, width]` as `[in, out, 2, 2]`.
fn transposed(values: &[f32]) -> Vec<f32> {
    let width = (values.len() / 4).isqrt();
    let mut all = Vec::with_capacity(values.len());
    for (input, out) in (0..width).flat_map(|input| (0..width).map(move |out| (input, out))) {
        all.extend((0..4).map(|tap| values[(tap * width + out) * width + input]));
    }
    all
}

/// Pixels, intersection over union and accuracy of every class, as CSV.
pub(super) fn write_table(found: &Confusion, classes: &[String], run: &Path) -> Result<()> {
    let mut table = String::from("class,pixels,iou,accuracy\n");
    let number = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.4}"));
    for ((i, name), (iou, accuracy)) in
        classes.iter().enumerate().zip(found.iou().into_iter().zip(found.accuracy()))
    {
        // writing to a string cannot fail
        let _ = writeln!(
            table,
            "\"{}\",{},{},{}",
            name.replace('"', "\"\""),
            found.of(i),
            number(iou),
            number(accuracy)
        );
    }
    replace_file(&run.join("classes.csv"), table.as_bytes())
}

/// The colour of a class in pictures: those of PASCAL VOC, which count in bits.
pub fn colour(class: u8) -> [u8; 3] {
    if class == IGNORED {
        return [224; 3];
    }
    let (mut c, mut colour) = (class, [0u8; 3]);
    for shift in (0..8).rev() {
        for (i, value) in colour.iter_mut().enumerate() {
            *value |= ((c >> i) & 1) << shift;
        }
        c >>= 3;
    }
    colour
}

/// An image beside its mask and what is predicted.
pub(super) fn picture(image: &Image, truth: &[u8], predicted: &[u32]) -> RgbImage {
    let (width, height) = image.dimensions();
    let pixel = |x: u32, y: u32| {
        let at = (y * width + x) as usize;
        let values = &image.values()[at * image.channels()..][..image.channels()];
        let first = |i: usize| values.get(i).or(values.first()).copied().unwrap_or(0);
        [first(0), first(1), first(2)]
    };
    // classes over the image, so that both can be seen
    let over = |colour: [u8; 3], below: [u8; 3]| -> [u8; 3] {
        std::array::from_fn(|i| ((u16::from(colour[i]) * 7 + u16::from(below[i]) * 3) / 10) as u8)
    };
    const GAP: u32 = 2;
    RgbImage::from_fn(3 * width + 2 * GAP, height, |x, y| {
        let (part, x) = (x / (width + GAP), x % (width + GAP));
        if x >= width {
            return Rgb([255; 3]);
        }
        let at = (y * width + x) as usize;
        Rgb(match part {
            0 => pixel(x, y),
            1 => over(colour(truth[at]), pixel(x, y)),
            _ => over(colour(predicted[at] as u8), pixel(x, y)),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_pascal_voc() {
        assert_eq!(
            [0, 1, 2, 15, 20].map(colour),
            [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [0, 64, 128]]
        );
    }

    #[test]
    fn taps_are_put_last() {
        // width 2: tap, out, in
        let values: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let found = transposed(&values);
        // input 1, output 0: elements 1 of every tap's first row
        assert_eq!(found[8..12], [1.0, 5.0, 9.0, 13.0]);
    }
}

//! The augmentation that timm trains classifiers with: random resized crop, flip, RandAugment, normalisation, random
//! erasing. [`draw`] makes every random choice, [`apply_into`] and [`Erased::fill`] are pure functions of them.
//!
//! Images run through the stages as 8-bit values, rounded after each as PIL does; what is erased becomes noise after
//! the normalisation, which 8-bit values have no room for.
//! Source: timm `data/{transforms,transforms_factory}.py`.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::data::augment::deinterleave;
use crate::data::classify::erasing::Erased;
use crate::data::classify::operations::Canvas;
use crate::data::classify::rand_augment::Operation;
use crate::data::classify::settings::ClassifyAugment;
use crate::data::draws::{chance, random_area};
use crate::data::pixels::Image;
use crate::data::resize::{Area, resize_area};
use crate::data::scratch::Scratch;

/// Pixels a side up to which an image is small: it is padded rather than enlarged.
const SMALL: usize = 32;

/// What of an image is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A box, resized.
    Resized(Area),
    /// A box of the result's size whose first pixel is so many rows below and columns right of the image's: beyond the
    /// image all is black.
    Shifted {
        /// Rows.
        down: i32,
        /// Columns.
        right: i32,
    },
}

/// Everything that is random about the crop of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// The pixels that are used.
    pub cut: Cut,
    /// Mirrored left to right.
    pub flip: bool,
    /// What is done to colours and geometry, one after the other.
    pub operations: Vec<Operation>,
    /// The rectangle that becomes noise.
    pub erased: Option<Erased>,
}

/// Draws the crop of `size` pixels a side of a width × height image (at least 1×1).
pub fn draw(
    rng: &mut ChaCha8Rng,
    augment: &ClassifyAugment,
    size: usize,
    (width, height): (u32, u32),
) -> Choices {
    let padding = augment.crop_padding as i32;
    let small = size <= SMALL && (width as usize, height as usize) == (size, size);
    let cut = if small && padding > 0 {
        Cut::Shifted {
            down: rng.random_range(-padding..=padding),
            right: rng.random_range(-padding..=padding),
        }
    } else {
        let ([least, most], [narrow, wide]) = (augment.crop_scale, augment.crop_ratio);
        Cut::Resized(random_area(rng, (least, most), (narrow, wide), (width, height)))
    };
    let flip = chance(rng, augment.flip_probability);
    let operations = augment.rand_augment().draw(rng);
    let ([least, most], [flat, steep]) = (augment.erasing_area, augment.erasing_aspect);
    let erased = chance(rng, augment.erasing_probability)
        .then(|| Erased::draw(rng, size, (least, most), (flat, steep)))
        .flatten();
    Choices { cut, flip, operations, erased }
}

/// Makes the crop of `size` pixels a side that `choices` describe, `[channels, size, size]`, into `out`, all but for the
/// noise. `image` must have at least one pixel; `fill`, a value a channel, stands where geometry leaves nothing of it.
pub fn apply_into(
    image: &Image,
    choices: &Choices,
    size: usize,
    fill: &[u8],
    scratch: &mut Scratch,
    out: &mut [u8],
) {
    let Scratch { resizer, pixels, other, .. } = scratch;
    match choices.cut {
        Cut::Resized(area) => resize_area(resizer, image, area, (size as u32, size as u32), pixels),
        Cut::Shifted { down, right } => shift(image, (down, right), size, pixels),
    }
    let mut flip = choices.flip;
    if !choices.operations.is_empty() {
        if std::mem::take(&mut flip) {
            mirror(pixels, size, image.channels());
        }
        let mut canvas = Canvas { pixels, other, size, fill };
        choices.operations.iter().for_each(|operation| canvas.run(*operation));
    }
    deinterleave(pixels, image.channels(), size, flip, out);
}

/// Mirrors `[size, size, channels]` left to right.
fn mirror(pixels: &mut [u8], size: usize, channels: usize) {
    for row in pixels.chunks_exact_mut(size * channels) {
        // the order of the channels turns back with every pixel
        row.reverse();
        row.chunks_exact_mut(channels).for_each(<[u8]>::reverse);
    }
}

/// The box of `size` pixels a side that begins `down` rows below and `right` columns right of the image's first pixel.
fn shift(image: &Image, (down, right): (i32, i32), size: usize, out: &mut Vec<u8>) {
    let (channels, width, height) = (image.channels(), image.width() as i32, image.height() as i32);
    out.clear();
    out.resize(size * size * channels, 0);
    // columns of the result that the image has pixels for
    let (from, to) = ((-right).clamp(0, size as i32), (width - right).clamp(0, size as i32));
    for (y, row) in (0i32..).zip(out.chunks_exact_mut(size * channels)) {
        let (y, count) = (y + down, (to - from).max(0) as usize * channels);
        if (0..height).contains(&y) && count > 0 {
            let first = (y * width + from + right) as usize * channels;
            row[from as usize * channels..][..count].copy_from_slice(&image.values()[first..][..count]);
        }
    }
}

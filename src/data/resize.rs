//! Crop and resize: bicubic (a = −0.5) with antialiasing, the filter of PIL's `BICUBIC`.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use crate::data::pixels::Image as Pixels;

/// A box within an image, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First row.
    pub top: u32,
    /// First column.
    pub left: u32,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

impl Area {
    /// The part of the box that lies within a width × height image, at least one pixel.
    fn within(self, width: u32, height: u32) -> Self {
        let (left, top) = (self.left.min(width - 1), self.top.min(height - 1));
        Self {
            left,
            top,
            width: self.width.clamp(1, width - left),
            height: self.height.clamp(1, height - top),
        }
    }
}

/// Resizes the pixels of `area` to width × height in `out`, channels side by side. As in torchvision, which
/// cuts the crop out first, pixels beyond the box have no influence.
///
/// `image` must have at least one pixel; a box beyond its border is cut to it.
pub fn resize_area(resizer: &mut Resizer, image: &Pixels, area: Area, side: (u32, u32), out: &mut Vec<u8>) {
    let area = area.within(image.width(), image.height());
    resize(resizer, image, Some(area), &bicubic(), side, out);
}

/// Resizes the part of `image` that `x` and `y` (start, length; pixels, within it) give to width × height. As
/// if the whole had been resized first and cut afterwards: pixels beyond the part do have influence.
pub fn resize_part(
    resizer: &mut Resizer,
    image: &Pixels,
    x: (f64, f64),
    y: (f64, f64),
    side: (u32, u32),
    out: &mut Vec<u8>,
) {
    // Rounding may have put the far end a little outside.
    let within = |(start, length): (f64, f64), limit: u32| (start, length.min(f64::from(limit) - start));
    let (x, y) = (off_grid(within(x, image.width()), side.0), off_grid(within(y, image.height()), side.1));
    let options = bicubic().crop(x.0, y.0, x.1, y.1);
    resize(resizer, image, None, &options, side, out);
}

/// A part (start, length) that is enlarged to `pixels`, moved by a little where its first or last new pixel lies exactly on an old one.
///
/// There the filter is 0 on the neighbours, which the resizer (6.1) leaves out for that pixel alone; it then takes the first and last new
/// pixels for those that look farthest, and reads outside of its buffer for the others.
fn off_grid((mut start, mut length): (f64, f64), pixels: u32) -> (f64, f64) {
    const NUDGE: f64 = 1.0 / 65536.0;
    let on_grid = |center: f64| (center - center.round()).abs() < NUDGE / 4.0;
    for _ in 0..4 {
        let scale = length / f64::from(pixels);
        let first = on_grid(start + 0.5 * scale - 0.5);
        let last = on_grid(start + length - 0.5 * scale - 0.5);
        if scale >= 1.0 || !(first || last) {
            break;
        }
        start += if first { NUDGE } else { 0.0 };
        length -= NUDGE * (f64::from(u8::from(first)) + f64::from(u8::from(last)));
    }
    (start, length)
}

fn bicubic() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom)).use_alpha(false)
}

/// Resizes `image`, or what of it is cut out: three channels at once, any other number one after the other.
/// So two kinds of pixel are compiled: the resizer's code for all of them takes a minute of it.
fn resize(
    resizer: &mut Resizer,
    image: &Pixels,
    cut: Option<Area>,
    options: &ResizeOptions,
    side: (u32, u32),
    out: &mut Vec<u8>,
) {
    let (pixels, channels) = (side.0 as usize * side.1 as usize, image.channels());
    let size = (image.width(), image.height());
    out.resize(pixels * channels, 0);
    match channels {
        3 => resize_kind::<U8x3>(resizer, (image.values(), size), cut, options, (out, side)),
        1 => resize_kind::<U8>(resizer, (image.values(), size), cut, options, (out, side)),
        _ => {
            let mut resized = vec![0; pixels];
            for channel in 0..channels {
                let plane: Vec<u8> = image.values().iter().skip(channel).step_by(channels).copied().collect();
                resize_kind::<U8>(resizer, (&plane, size), cut, options, (&mut resized, side));
                out.iter_mut().skip(channel).step_by(channels).zip(&resized).for_each(|(to, v)| *to = *v);
            }
        }
    }
}

/// One kind of pixel; an image is its values and its size.
fn resize_kind<P: PixelTrait>(
    resizer: &mut Resizer,
    (values, (width, height)): (&[u8], (u32, u32)),
    cut: Option<Area>,
    options: &ResizeOptions,
    (out, side): (&mut [u8], (u32, u32)),
) {
    let whole = TypedImageRef::<P>::from_buffer(width, height, values)
        .expect("an image holds its channels for every pixel");
    let mut target = TypedImage::from_buffer(side.0, side.1, out).expect("the buffer was sized for it");
    let resized = match cut {
        Some(area) => {
            let part = TypedCroppedImage::new(whole, area.left, area.top, area.width, area.height)
                .expect("the box was cut to the image");
            resizer.resize_typed(&part, &mut target, options)
        }
        None => resizer.resize_typed(&whole, &mut target, options),
    };
    resized.expect("the box lies within the image");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The filter, a = −0.5.
    fn weight(x: f64) -> f64 {
        let x = x.abs();
        match x {
            x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            _ => 0.0,
        }
    }

    /// A line of values, enlarged.
    fn enlarged(values: &[u8], (start, length): (f64, f64), pixels: usize) -> Vec<f64> {
        let of = |i: usize| {
            let center = start + (i as f64 + 0.5) * length / pixels as f64 - 0.5;
            let weights: Vec<f64> = (0..values.len()).map(|x| weight(x as f64 - center)).collect();
            let sum: f64 = weights.iter().zip(values).map(|(w, v)| w * f64::from(*v)).sum();
            (sum / weights.iter().sum::<f64>()).clamp(0.0, 255.0)
        };
        (0..pixels).map(of).collect()
    }

    /// Parts that begin or end where a new pixel lies on an old one: the resizer by itself reads outside of its buffer there.
    #[test]
    fn parts_whose_pixels_lie_on_old_ones() {
        let (mut resizer, mut out) = (Resizer::new(), Vec::new());
        for channels in [3, 1, 2] {
            for (width, whole) in [(40u32, 120u32), (36, 60), (17, 51), (40, 71), (9, 90)] {
                let values: Vec<u8> =
                    (0..width * width).map(|i| ((i * 7919 + i / width * 31) % 251) as u8).collect();
                let pixels = values.iter().flat_map(|v| vec![*v; channels]).collect();
                let image = Pixels::new(width, width, channels, pixels).unwrap();
                let scale = f64::from(width) / f64::from(whole);
                let side = whole / 2;
                for first in 0..=whole - side {
                    let span = (f64::from(first) * scale, f64::from(side) * scale);
                    resize_part(&mut resizer, &image, span, (0.0, f64::from(width)), (side, width), &mut out);
                    for row in 0..width as usize {
                        let line = &values[row * width as usize..][..width as usize];
                        let want = enlarged(line, span, side as usize);
                        for (i, want) in want.iter().enumerate() {
                            let at = (row * side as usize + i) * channels;
                            let got = f64::from(out[at + channels - 1]);
                            assert!((got - want).abs() <= 1.5, "{width} {whole} {first} {i}: {got} {want}");
                        }
                    }
                }
            }
        }
    }
}

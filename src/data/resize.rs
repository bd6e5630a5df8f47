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
    let length = |(start, length): (f64, f64), limit: u32| length.min(f64::from(limit) - start);
    let options = bicubic().crop(x.0, y.0, length(x, image.width()), length(y, image.height()));
    resize(resizer, image, None, &options, side, out);
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

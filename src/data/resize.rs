//! Crop and resize: bicubic (a = −0.5) with antialiasing, the filter of PIL's `BICUBIC`.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ImageView, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

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

/// Resizes the pixels of `area` to width × height in `out`, interleaved RGB. As in torchvision, which cuts the crop
/// out first, pixels beyond the box have no influence.
///
/// `image` must have at least one pixel; a box beyond its border is cut to it.
pub fn resize_area(resizer: &mut Resizer, image: &RgbImage, area: Area, side: (u32, u32), out: &mut Vec<u8>) {
    let area = area.within(image.width(), image.height());
    let source = TypedCroppedImage::new(view(image), area.left, area.top, area.width, area.height)
        .expect("the box was cut to the image");
    run(resizer, &source, &bicubic(), side, out);
}

/// Resizes the part of `image` that `x` and `y` (start, length; pixels, within it) give to width × height. As if the
/// whole had been resized first and cut afterwards: pixels beyond the part do have influence.
pub fn resize_part(
    resizer: &mut Resizer,
    image: &RgbImage,
    x: (f64, f64),
    y: (f64, f64),
    side: (u32, u32),
    out: &mut Vec<u8>,
) {
    // Rounding may have put the far end a little outside.
    let length = |(start, length): (f64, f64), limit: u32| length.min(f64::from(limit) - start);
    let options = bicubic().crop(x.0, y.0, length(x, image.width()), length(y, image.height()));
    run(resizer, &view(image), &options, side, out);
}

fn bicubic() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom)).use_alpha(false)
}

fn view(image: &RgbImage) -> TypedImageRef<'_, U8x3> {
    TypedImageRef::from_buffer(image.width(), image.height(), image.as_raw())
        .expect("an RgbImage holds three bytes a pixel")
}

/// The kind of pixel is known when this is compiled: the resizer's code for any kind takes a minute of it.
fn run(
    resizer: &mut Resizer,
    source: &impl ImageView<Pixel = U8x3>,
    options: &ResizeOptions,
    (width, height): (u32, u32),
    out: &mut Vec<u8>,
) {
    out.resize(width as usize * height as usize * 3, 0);
    let mut target = TypedImage::from_buffer(width, height, out).expect("the buffer was sized for it");
    resizer.resize_typed(source, &mut target, options).expect("the box lies within the image");
}

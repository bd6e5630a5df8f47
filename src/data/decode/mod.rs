//! From the bytes of an image file to 8-bit RGB, with the pixels that PIL's
//! `exif_transpose(image).convert("RGB")` gives: the content decides what the file is, whatever its name; the
//! EXIF orientation is applied; an alpha channel is dropped; grey, palette and CMYK become RGB; of an
//! animation the first picture is taken. Of values of more than 8 bits the upper 8 that are in use are kept.
//!
//! ```text
//! kinds.rs   which files are looked at, what is no image, and the kinds that are not read
//! bounds.rs  pixels, bytes and memory      depth.rs  which value is white
//! tiff/      TIFF files; the `image` crate reads the rest, jpeg.rs what is refused of that
//! ```

mod bounds;
mod depth;
mod jpeg;
mod kinds;
mod tiff;

pub use bounds::check_bytes;
pub(in crate::data) use kinds::unread_kind;
pub use kinds::{EXTENSIONS, Unread, is_image_extension, is_junk};

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::data::bad_samples::{BadKind, Fault};
use crate::data::decode::bounds::{check_size, turn};
use crate::data::decode::depth::upper_bits;
use crate::data::reading::Reading;
use crate::guard::guarded;

/// What a decoder may allocate beside the picture: colour profiles, texts, rows.
const BESIDE: u64 = 64 << 20;

/// Bytes that tell what a file is.
const HEAD: u64 = 4096;

/// Reads and decodes one file.
pub fn decode_file(path: &Path, reading: &Reading) -> Result<RgbImage, Fault> {
    decode(&read_file(path, reading)?, reading)
}

/// The bytes of an image file. Opening a pipe would wait for its other end, and a device may never end.
fn read_file(path: &Path, reading: &Reading) -> Result<Vec<u8>, Fault> {
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        let what = if about.is_dir() { "is a folder" } else { "is a pipe, a socket or a device" };
        return Err(Fault::new(BadKind::Unreadable, what));
    }
    check_bytes(about.len(), reading)?;
    let mut file = File::open(path)?.take(HEAD);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    // What is no image is not read in full; a file that grows meanwhile is cut off, and so damaged.
    if kinds::foreign(&bytes).is_none() && format(&bytes).is_some() {
        file.set_limit(about.len().saturating_sub(HEAD));
        let no_memory =
            |_| Fault::new(BadKind::TooLarge, format!("there is no memory for its {} bytes", about.len()));
        bytes.try_reserve_exact(file.limit() as usize).map_err(no_memory)?;
        file.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Decodes the content of one file; the result has at least one pixel.
pub fn decode(bytes: &[u8], reading: &Reading) -> Result<RgbImage, Fault> {
    if bytes.is_empty() {
        return Err(Fault::new(BadKind::Empty, "has no bytes"));
    }
    guarded(|| decode_any(bytes, reading))
        .unwrap_or_else(|| Err(Fault::new(BadKind::Damaged, "the decoder failed on it")))
}

fn decode_any(bytes: &[u8], reading: &Reading) -> Result<RgbImage, Fault> {
    if let Some(what) = kinds::foreign(bytes) {
        return Err(Fault::new(
            BadKind::Unsupported,
            format!("is {what}, which is not read; convert it to png or jpeg"),
        ));
    }
    let (mut image, orientation) = match format(bytes) {
        None => return Err(Fault::new(BadKind::Unsupported, "is not an image of a known format")),
        Some(ImageFormat::Tiff) => tiff::decode(bytes, reading)?,
        Some(ImageFormat::Jpeg) => {
            jpeg::check(bytes)?;
            decode_other(bytes, ImageFormat::Jpeg, reading)?
        }
        Some(format) => decode_other(bytes, format, reading)?,
    };
    if orientation != Orientation::NoTransforms {
        let mut turned = DynamicImage::from(image);
        turned.apply_orientation(orientation);
        image = turned.into_rgb8();
    }
    Ok(image)
}

/// What a content is by its first bytes.
fn format(bytes: &[u8]) -> Option<ImageFormat> {
    if tiff::is_big(bytes) {
        return Some(ImageFormat::Tiff);
    }
    image::guess_format(bytes).ok()
}

/// Decodes what the `image` crate knows.
fn decode_other(
    bytes: &[u8],
    format: ImageFormat,
    reading: &Reading,
) -> Result<(RgbImage, Orientation), Fault> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(BESIDE);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, reading)?;
    limits.max_alloc = Some(decoder.total_bytes().saturating_mul(2).saturating_add(BESIDE));
    decoder.set_limits(limits)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let _turn = turn(width, height);
    let image = DynamicImage::from_decoder(decoder)?;
    Ok((eight_bit(image, reading), orientation))
}

/// As 8-bit RGB.
fn eight_bit(image: DynamicImage, reading: &Reading) -> RgbImage {
    use DynamicImage::{ImageLuma16, ImageLumaA16, ImageRgb16, ImageRgba16};
    let (width, height) = (image.width(), image.height());
    // alpha is dropped first: what it holds says nothing of the colours
    let pixels = match image {
        ImageLuma16(_) | ImageLumaA16(_) => {
            let grey = upper_bits(&image.into_luma16(), 16, None, reading);
            grey.into_iter().flat_map(|value| [value; 3]).collect()
        }
        ImageRgb16(_) | ImageRgba16(_) => upper_bits(&image.into_rgb16(), 16, None, reading),
        other => return other.into_rgb8(),
    };
    RgbImage::from_raw(width, height, pixels).unwrap_or_default()
}
impl From<ImageError> for Fault {
    fn from(e: ImageError) -> Self {
        let kind = match &e {
            ImageError::Unsupported(_) => BadKind::Unsupported,
            ImageError::Limits(_) => BadKind::TooLarge,
            _ => BadKind::Damaged,
        };
        Self::new(kind, e.to_string())
    }
}

//! From the bytes of an image file to 8-bit RGB, with the pixels that PIL's
//! `exif_transpose(image).convert("RGB")` gives: the content decides what the file is, whatever its name; the
//! EXIF orientation is applied; an alpha channel is dropped; grey, palette and CMYK become RGB. Of values of
//! more than 8 bits the upper 8 that are in use are kept.

mod kinds;

pub use kinds::{EXTENSIONS, is_image_extension, is_junk};

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::error::ImageError;
use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, ImageReader, Rgb, RgbImage};

use crate::data::bad_samples::{BadKind, Fault};
use crate::data::reading::Reading;

/// Reads and decodes one file.
pub fn decode_file(path: &Path, reading: &Reading) -> Result<RgbImage, Fault> {
    decode(&std::fs::read(path)?, reading)
}

/// Decodes the content of one file; the result has at least one pixel.
pub fn decode(bytes: &[u8], reading: &Reading) -> Result<RgbImage, Fault> {
    if bytes.is_empty() {
        return Err(Fault::new(BadKind::Empty, "has no bytes"));
    }
    // Decoders of hostile files have been known to panic: that is a damaged file, not the end of a run.
    catch_unwind(AssertUnwindSafe(|| decode_any(bytes, reading)))
        .unwrap_or_else(|_| Err(Fault::new(BadKind::Damaged, "the decoder failed on it")))
}

fn decode_any(bytes: &[u8], reading: &Reading) -> Result<RgbImage, Fault> {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    match reader.format() {
        None => return Err(Fault::new(BadKind::Unsupported, "is not an image of a known format")),
        // The decoder would fill the rest of the picture with grey.
        Some(ImageFormat::Jpeg) if !has_end_of_jpeg(bytes) => {
            return Err(Fault::new(BadKind::Damaged, "ends before the picture does"));
        }
        Some(_) => {}
    }
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > reading.max_pixels {
        let limit = reading.max_pixels;
        let reason = format!("is {width}×{height}, and data.max_pixels is {limit}");
        return Err(Fault::new(BadKind::TooLarge, reason));
    }
    if width == 0 || height == 0 {
        return Err(Fault::new(BadKind::Empty, "has no pixels"));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = eight_bit(DynamicImage::from_decoder(decoder)?, reading);
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Keeps the upper 8 of the bits that 16-bit values have; other images stay as they are.
fn eight_bit(image: DynamicImage, reading: &Reading) -> DynamicImage {
    /// The RGB image of pixels of N values, of which `rgb` picks three.
    fn upper<const N: usize>(image: (u32, u32, &[u16], u32), rgb: [usize; 3]) -> DynamicImage {
        let (width, height, values, deep_bits) = image;
        let colours = || values.chunks_exact(N).flat_map(|pixel| rgb.map(|channel| pixel[channel]));
        let bits = match deep_bits {
            0 => bits_in_use(colours().max().unwrap_or(0)),
            bits => bits,
        };
        let pixels = colours().map(|value| (value >> (bits - 8)).min(255) as u8);
        let image = ImageBuffer::<Rgb<u8>, _>::from_raw(width, height, pixels.collect());
        image.unwrap_or_default().into()
    }
    let (width, height) = (image.width(), image.height());
    match &image {
        DynamicImage::ImageLuma16(i) => upper::<1>((width, height, i, reading.deep_bits), [0; 3]),
        DynamicImage::ImageLumaA16(i) => upper::<2>((width, height, i, reading.deep_bits), [0; 3]),
        DynamicImage::ImageRgb16(i) => upper::<3>((width, height, i, reading.deep_bits), [0, 1, 2]),
        DynamicImage::ImageRgba16(i) => upper::<4>((width, height, i, reading.deep_bits), [0, 1, 2]),
        _ => image,
    }
}

/// The bits a value that cameras and scanners give must have for the largest one of a file.
fn bits_in_use(largest: u16) -> u32 {
    [8, 10, 12, 14].into_iter().find(|bits| largest >> bits == 0).unwrap_or(16)
}

/// Whether a JPEG has its end marker. It is looked for behind the headers, which may hold a whole thumbnail.
fn has_end_of_jpeg(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2).and_then(|b| b.first_chunk()) {
        match (marker, bytes.get(at + 2..at + 4)) {
            (START_OF_SCAN, _) => break,
            (0xff, _) => at += 1, // padding
            (_, Some(length)) => at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]])),
            (_, None) => return false,
        }
    }
    bytes.get(at..).is_some_and(|scans| scans.windows(2).rev().any(|pair| pair == [0xff, 0xd9]))
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

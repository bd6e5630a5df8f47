//! From a mask file to a class a pixel. A PNG's indices are taken as they are, those of a palette too: what the palette
//! paints them with is for the eye. Other formats are read as grey values, or as the colours that a palette of classes
//! names. JPEG is refused: its values are not those that were written.

use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::Path;

use image::{DynamicImage, ImageFormat, ImageReader, Limits};
use png::{BitDepth, ColorType, Transformations};

use crate::data::bad_samples::{BadKind, Fault};
use crate::data::reading::Reading;
use crate::data::segmentation::meaning::Meaning;
use crate::guard::guarded;

/// Bytes of a mask file, at most.
const MOST_BYTES: u64 = 1 << 30;
/// What a decoder may allocate beside the picture.
const BESIDE: u64 = 64 << 20;

/// A class or [`IGNORED`](crate::data::pixels::IGNORED) for every pixel, row by row.
#[derive(Debug)]
pub(super) struct ClassMap {
    pub width: u32,
    pub height: u32,
    pub classes: Vec<u8>,
}

/// What a mask file holds.
enum Values {
    /// An index a pixel.
    Indices(Vec<u16>),
    /// A colour a pixel.
    Colours(Vec<[u8; 3]>),
}

/// Reads a mask. Values that mean no class are a fault that names the first.
pub(super) fn read(path: &Path, meaning: &Meaning, reading: &Reading) -> Result<ClassMap, Fault> {
    let about = std::fs::metadata(path)?;
    if !about.is_file() {
        return Err(Fault::new(BadKind::Unreadable, "is no file"));
    }
    if about.len() > MOST_BYTES {
        return Err(Fault::new(BadKind::TooLarge, format!("has {} bytes", about.len())));
    }
    let mut bytes = Vec::new();
    BufReader::new(File::open(path)?).take(MOST_BYTES).read_to_end(&mut bytes)?;
    let decoded = guarded(|| decode(&bytes, reading))
        .unwrap_or_else(|| Err(Fault::new(BadKind::Damaged, "the decoder failed on it")));
    let (width, height, values) = decoded?;
    Ok(ClassMap { width, height, classes: classes(values, width, meaning)? })
}

fn classes(values: Values, width: u32, meaning: &Meaning) -> Result<Vec<u8>, Fault> {
    let place = |at: usize| format!("pixel ({}, {})", at % width.max(1) as usize, at / width.max(1) as usize);
    match values {
        Values::Indices(indices) if meaning.palette.is_empty() => {
            let table: Vec<Option<u8>> = (0..=u8::MAX).map(|i| meaning.of_index(u16::from(i))).collect();
            let of = |index: u16| match table.get(usize::from(index)) {
                Some(class) => *class,
                None => meaning.of_index(index),
            };
            let all: Option<Vec<u8>> = indices.iter().map(|index| of(*index)).collect();
            all.ok_or_else(|| {
                let at = indices.iter().position(|index| of(*index).is_none()).unwrap_or(0);
                unknown(format!(
                    "{} has index {}, and there are {} classes{}; see data.classes, data.ignore_index and \
                     data.from_one",
                    place(at),
                    indices[at],
                    meaning.classes.len(),
                    if meaning.from_one { ", counted from 1" } else { "" }
                ))
            })
        }
        Values::Colours(colours) if !meaning.palette.is_empty() => {
            // neighbours mostly have the same colour
            let mut last = None;
            let mut all = Vec::with_capacity(colours.len());
            for (at, colour) in colours.iter().enumerate() {
                let class = match last {
                    Some((known, class)) if known == *colour => class,
                    _ => match meaning.palette.get(colour) {
                        Some(class) => *class,
                        // what no class is painted with is not looked at where it is black or white, as borders are
                        None if *colour == [0; 3] || *colour == [255; 3] => crate::data::pixels::IGNORED,
                        None => {
                            let [r, g, b] = colour;
                            return Err(unknown(format!(
                                "{} has colour {r} {g} {b}, which data.classes gives to no class",
                                place(at)
                            )));
                        }
                    },
                };
                last = Some((*colour, class));
                all.push(class);
            }
            Ok(all)
        }
        Values::Indices(_) => Err(unknown(
            "holds indices, and data.classes has colours; give a file with names alone".to_string(),
        )),
        Values::Colours(_) => Err(unknown(
            "holds colours; give data.classes a file with a colour and a name a line".to_string(),
        )),
    }
}

fn unknown(what: String) -> Fault {
    Fault::new(BadKind::Unsupported, what)
}

fn decode(bytes: &[u8], reading: &Reading) -> Result<(u32, u32, Values), Fault> {
    match image::guess_format(bytes).ok() {
        Some(ImageFormat::Png) => decode_png(bytes, reading),
        Some(ImageFormat::Jpeg) => {
            Err(unknown("is a JPEG, whose values are not those that were written; save masks as PNG".into()))
        }
        Some(format) => decode_other(bytes, format, reading),
        None => Err(unknown("is not an image of a known format".into())),
    }
}

fn check_size(width: u32, height: u32, reading: &Reading) -> Result<(), Fault> {
    let pixels = u64::from(width) * u64::from(height);
    match pixels {
        0 => Err(Fault::new(BadKind::Empty, "has no pixels")),
        _ if pixels > reading.max_pixels => Err(Fault::new(
            BadKind::TooLarge,
            format!("has {width}x{height} pixels, more than data.max_pixels = {}", reading.max_pixels),
        )),
        _ => Ok(()),
    }
}

impl From<png::DecodingError> for Fault {
    fn from(e: png::DecodingError) -> Self {
        Self::new(BadKind::Damaged, e.to_string())
    }
}

/// A PNG's samples as they are written.
fn decode_png(bytes: &[u8], reading: &Reading) -> Result<(u32, u32, Values), Fault> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info()?;
    let (width, height) = (reader.info().width, reader.info().height);
    check_size(width, height, reading)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| Fault::new(BadKind::TooLarge, format!("has {width}x{height} pixels")))?;
    let mut rows = vec![0; size];
    let info = reader.next_frame(&mut rows)?;
    rows.truncate(info.buffer_size());
    let pixels = width as usize * height as usize;
    let samples = match info.color_type {
        ColorType::Grayscale | ColorType::Indexed => 1,
        ColorType::GrayscaleAlpha => 2,
        ColorType::Rgb => 3,
        ColorType::Rgba => 4,
    };
    let deep = info.bit_depth == BitDepth::Sixteen;
    let values = match (samples, info.bit_depth) {
        (1 | 2, BitDepth::Sixteen) => {
            let pairs = rows.chunks_exact(2).step_by(samples);
            Values::Indices(pairs.map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect())
        }
        (1, depth) => {
            let bits = depth as usize;
            let mut all = Vec::with_capacity(pixels);
            for row in rows.chunks_exact(info.line_size) {
                let value = |x: usize| {
                    let first = x * bits;
                    (row[first / 8] >> (8 - bits - first % 8)) & (0xffu16 >> (8 - bits)) as u8
                };
                all.extend((0..width as usize).map(|x| u16::from(value(x))));
            }
            Values::Indices(all)
        }
        (2, _) => Values::Indices(rows.iter().step_by(2).map(|v| u16::from(*v)).collect()),
        (n, _) => {
            let step = if deep { 2 * n } else { n };
            let of = |pixel: &[u8]| {
                if deep { [pixel[0], pixel[2], pixel[4]] } else { [pixel[0], pixel[1], pixel[2]] }
            };
            Values::Colours(rows.chunks_exact(step).map(of).collect())
        }
    };
    Ok((width, height, values))
}

/// What the `image` crate reads besides.
fn decode_other(bytes: &[u8], format: ImageFormat, reading: &Reading) -> Result<(u32, u32, Values), Fault> {
    let mut file = ImageReader::with_format(Cursor::new(bytes), format);
    let (width, height) = ImageReader::with_format(Cursor::new(bytes), format).into_dimensions()?;
    check_size(width, height, reading)?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(8 * u64::from(width) * u64::from(height) + BESIDE);
    file.limits(limits);
    let values = match file.decode()? {
        DynamicImage::ImageLuma8(grey) => {
            Values::Indices(grey.into_raw().into_iter().map(u16::from).collect())
        }
        DynamicImage::ImageLuma16(grey) => Values::Indices(grey.into_raw()),
        other => Values::Colours(other.into_rgb8().pixels().map(|pixel| pixel.0).collect()),
    };
    Ok((width, height, values))
}

//! What the tags of a page say.

use std::io::Cursor;

use image::metadata::Orientation;
use tiff::decoder::Decoder;
use tiff::decoder::ifd::Value;
use tiff::tags::Tag;

use crate::data::bad_samples::Fault;
use crate::data::decode::bounds::{check_bytes, check_size};
use crate::data::decode::depth::Kind;
use crate::data::decode::tiff::faults::{damaged, unsupported};
use crate::data::reading::Reading;

const T4_OPTIONS: Tag = Tag::Unknown(292);
const MAX_SAMPLE_VALUE: Tag = Tag::Unknown(281);

/// What the values of a pixel are.
pub(super) enum Colours {
    /// One, light or, where inverted, darkness.
    Grey {
        inverted: bool,
    },
    Rgb,
    /// A number of one of these.
    Palette(Vec<[u8; 3]>),
    Cmyk,
    YCbCr,
}

/// How a value is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Whole numbers of at most 8 bits.
    Bytes,
    /// Whole numbers of 9 to 16 bits.
    Shorts,
    /// Others, of 8, 16, 32 or 64 bits.
    Numbers(Kind),
}

/// How strips are compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Lzw,
    Deflate,
    PackBits,
    Zstd,
    Jpeg,
    Group3,
    Group4,
}

/// A page of a file.
pub(super) struct Page {
    pub width: u32,
    pub height: u32,
    pub colours: Colours,
    pub format: Format,
    /// Bits of a value.
    pub bits: u32,
    /// Values of a pixel, with those that are not used.
    pub samples: usize,
    pub compression: Compression,
    /// 1 for none, 2 for differences to the left neighbour, 3 for those of floating point.
    pub predictor: u16,
    /// Whether each of the values of a pixel has strips of its own.
    pub planar: bool,
    /// Whether the first pixel is the lowest bit of a byte.
    pub reversed: bool,
    pub little_endian: bool,
    /// Pixels of a tile, or of a strip, the last of which may be shorter.
    pub chunk: (u32, u32),
    pub tiled: bool,
    /// Where the bytes of each strip or tile start, and how many they are.
    pub chunks: Vec<(u64, u64)>,
    pub jpeg_tables: Vec<u8>,
    pub orientation: Orientation,
    /// The smallest and the largest value, where the file says them.
    pub range: Option<(f32, f32)>,
    /// The value that stands for no value.
    pub nothing: Option<f32>,
    /// The largest whole number that there may be, where the file says it.
    pub largest: Option<u32>,
}

impl Page {
    /// Reads the tags of the first page; what cannot be read is refused here.
    pub fn read(bytes: &[u8], reading: &Reading) -> Result<Self, Fault> {
        let mut tags = Decoder::new(Cursor::new(bytes))?;
        let (width, height) = tags.dimensions()?;
        check_size(width, height, reading)?;
        let mut number = |tag: Tag, default: u32| -> Result<u32, Fault> {
            Ok(tags.find_tag_unsigned(tag)?.unwrap_or(default))
        };
        let compression = compression(number(Tag::Compression, 1)?, number(T4_OPTIONS, 0)?)?;
        let photometric = number(Tag::PhotometricInterpretation, 1)?;
        let samples = number(Tag::SamplesPerPixel, 1)? as usize;
        let mut predictor = number(Tag::Predictor, 1)? as u16;
        let planar = number(Tag::PlanarConfiguration, 1)? == 2 && samples > 1;
        let reversed = number(Tag::FillOrder, 1)? == 2;
        let orientation = Orientation::from_exif(number(Tag::Orientation, 1)?.min(255) as u8);
        let rows = number(Tag::RowsPerStrip, height)?.min(height);
        let tile = (number(Tag::TileWidth, 0)?, number(Tag::TileLength, 0)?);
        let subsampling = tags.find_tag_unsigned_vec::<u16>(Tag::ChromaSubsampling)?.unwrap_or(vec![2, 2]);
        let bits = tags
            .find_tag_unsigned_vec::<u16>(Tag::BitsPerSample)?
            .and_then(|b| b.first().copied())
            .unwrap_or(1);
        let sample_format =
            tags.find_tag_unsigned_vec::<u16>(Tag::SampleFormat)?.and_then(|f| f.first().copied());

        let bits = u32::from(bits);
        let format = format(sample_format.unwrap_or(1), bits)?;
        let colours = match photometric {
            0 | 1 => Colours::Grey { inverted: photometric == 0 },
            2 => Colours::Rgb,
            3 if format == Format::Bytes => {
                Colours::Palette(palette(&tags.get_tag_u16_vec(Tag::ColorMap)?, bits))
            }
            5 => Colours::Cmyk,
            // a decoder of JPEG gives every pixel its colour
            6 if compression == Compression::Jpeg || subsampling.iter().all(|&n| n == 1) => Colours::YCbCr,
            6 => return Err(unsupported("subsampled YCbCr without JPEG")),
            8..=10 => return Err(unsupported("L*a*b* colours")),
            other => return Err(unsupported(format!("photometric interpretation {other}"))),
        };
        let needed = colours.values();
        let extra = samples
            .checked_sub(needed)
            .ok_or_else(|| damaged(format!("has {samples} values a pixel, not {needed}")))?;
        if needed == 1 && extra > 1 {
            return Err(unsupported(format!("{samples} channels that are no colours")));
        }
        let (bilevel, whole_bytes) = (bits == 1 && samples == 1, bits == 8 && format == Format::Bytes);
        match compression {
            Compression::Group3 | Compression::Group4 if !bilevel => {
                return Err(unsupported(format!("a fax of {bits} bits")));
            }
            Compression::Jpeg if !whole_bytes => return Err(unsupported(format!("JPEG of {bits} bits"))),
            Compression::Group3 | Compression::Group4 | Compression::Jpeg => predictor = 1,
            _ => {}
        }
        match predictor {
            1 => {}
            2 if [8, 16, 32, 64].contains(&bits) => {}
            3 if format == Format::Numbers(Kind::Float) => {}
            _ => return Err(unsupported(format!("predictor {predictor} for {bits} bits"))),
        }
        let tiled = tile.0 > 0 && tile.1 > 0;
        let chunk = if tiled { tile } else { (width, rows) };
        // A tile may be larger than its image, and a pixel may have values that are not used, but not without
        // bounds: a strip is unpacked as a whole.
        check_size(chunk.0, chunk.1, reading)?;
        let of_pixel = u64::from(bits) * if planar { 1 } else { samples as u64 };
        let strip = (u64::from(chunk.0) * u64::from(chunk.1)).saturating_mul(of_pixel) / 8;
        check_bytes(strip, reading)?;
        let (offsets, counts) = match tiled {
            true => (Tag::TileOffsets, Tag::TileByteCounts),
            false => (Tag::StripOffsets, Tag::StripByteCounts),
        };
        let chunks: Vec<_> =
            tags.get_tag_u64_vec(offsets)?.into_iter().zip(tags.get_tag_u64_vec(counts)?).collect();
        let across = width.div_ceil(chunk.0.max(1)) as usize * height.div_ceil(chunk.1.max(1)) as usize;
        if chunks.len() != across * if planar { samples } else { 1 } {
            return Err(damaged("has other strips than its size says"));
        }
        let jpeg_tables = match compression {
            Compression::Jpeg => {
                tags.find_tag(Tag::JPEGTables)?.map(|t| t.into_u8_vec()).transpose()?.unwrap_or_default()
            }
            _ => Vec::new(),
        };
        // What is told about the values is of use where it can be read, and may be missing or wrong.
        let mut float = |tag| tags.get_tag(tag).ok().and_then(first_number);
        let range =
            float(Tag::SMinSampleValue).zip(float(Tag::SMaxSampleValue)).filter(|(low, high)| low < high);
        let nothing = tags.get_tag_ascii_string(Tag::GdalNodata).ok();
        let nothing = nothing.and_then(|text| text.trim_matches(['\0', ' ']).parse().ok());
        let largest = tags.find_tag_unsigned_vec::<u32>(MAX_SAMPLE_VALUE).ok().flatten();
        let largest = largest.and_then(|all| all.into_iter().max());
        let little_endian = tags.byte_order() == tiff::tags::ByteOrder::LittleEndian;
        Ok(Self {
            width,
            height,
            colours,
            format,
            bits,
            samples,
            compression,
            predictor,
            planar,
            reversed,
            little_endian,
            chunk,
            tiled,
            chunks,
            jpeg_tables,
            orientation: orientation.unwrap_or(Orientation::NoTransforms),
            range,
            nothing,
            largest,
        })
    }
}

impl Colours {
    /// Values of a pixel that are used.
    pub fn values(&self) -> usize {
        match self {
            Self::Grey { .. } | Self::Palette(_) => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }
}

fn compression(number: u32, t4_options: u32) -> Result<Compression, Fault> {
    let name = match number {
        1 => return Ok(Compression::None),
        3 if t4_options & 1 == 0 => return Ok(Compression::Group3),
        4 => return Ok(Compression::Group4),
        5 => return Ok(Compression::Lzw),
        7 => return Ok(Compression::Jpeg),
        8 | 32946 => return Ok(Compression::Deflate),
        32773 => return Ok(Compression::PackBits),
        50000 => return Ok(Compression::Zstd),
        2 => "CCITT run lengths (compression 2)".into(),
        3 => "two-dimensional group 3".into(),
        6 => "old-style JPEG (compression 6)".into(),
        33003 | 33005 | 34712 => "JPEG 2000".into(),
        34887 => "LERC".into(),
        34925 => "LZMA".into(),
        50001 => "WebP".into(),
        50002 | 52546 => "JPEG XL".into(),
        other => format!("compression {other}"),
    };
    Err(unsupported(name))
}

fn format(sample_format: u16, bits: u32) -> Result<Format, Fault> {
    match (sample_format, bits) {
        // undefined is whole numbers in practice
        (1 | 4, 1..=8) => Ok(Format::Bytes),
        (1 | 4, 9..=16) => Ok(Format::Shorts),
        (1 | 4, 32) => Ok(Format::Numbers(Kind::Whole)),
        (2, 8 | 16 | 32) => Ok(Format::Numbers(Kind::Signed)),
        (3, 16 | 32 | 64) => Ok(Format::Numbers(Kind::Float)),
        (1 | 4, _) => Err(unsupported(format!("whole numbers of {bits} bits"))),
        (2, _) => Err(unsupported(format!("signed numbers of {bits} bits"))),
        (3, _) => Err(unsupported(format!("floating point of {bits} bits"))),
        (5 | 6, _) => Err(unsupported("complex numbers")),
        (other, _) => Err(unsupported(format!("sample format {other}"))),
    }
}

/// The colours of a palette, stored as all reds, all greens and all blues of 16 bits each; some programs write
/// 8 bits.
fn palette(values: &[u16], bits: u32) -> Vec<[u8; 3]> {
    let count = values.len() / 3;
    let shift = if values.iter().all(|&v| v < 256) { 0 } else { 8 };
    (0..count.min(1 << bits)).map(|i| [0, 1, 2].map(|c| (values[c * count + i] >> shift) as u8)).collect()
}

fn first_number(value: Value) -> Option<f32> {
    match value {
        Value::List(values) => first_number(values.into_iter().next()?),
        Value::Float(v) => Some(v),
        Value::Double(v) => Some(v as f32),
        Value::Byte(v) => Some(v.into()),
        Value::SignedByte(v) => Some(v.into()),
        Value::Short(v) => Some(v.into()),
        Value::SignedShort(v) => Some(v.into()),
        Value::Unsigned(v) => Some(v as f32),
        Value::Signed(v) => Some(v as f32),
        _ => None,
    }
}

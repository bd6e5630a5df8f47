//! Masks as NumPy writes them: `.npy` files of a plane, or of planes of which the first counts.

use std::path::Path;

use crate::error::{Error, Result};

/// What a file begins with.
const MAGIC: &[u8] = b"\x93NUMPY";
/// Most values of a file.
const MOST: usize = 1 << 28;

/// A plane of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[height, width]`
    pub values: Vec<f32>,
}

impl Plane {
    /// Reads a file.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
        Self::parse(&bytes).map_err(|problem| Error::file(path, problem))
    }

    /// Reads the bytes of a file: `[height, width]` or `[height, width, planes]`, row by row, of truth values, bytes,
    /// integers of 64 bits or floats. An error says what is wrong, and what would be right.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!("{what}; save a mask by numpy.save, [height, width], of bool, uint8 or float32")
        };
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("is no .npy file"))?;
        let short = || wrong("is cut short");
        let (version, rest) = rest.split_at_checked(2).ok_or_else(short)?;
        let digits = if version[0] == 1 { 2 } else { 4 };
        let (length, rest) = rest.split_at_checked(digits).ok_or_else(short)?;
        let length = length.iter().rev().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
        let (header, data) = rest.split_at_checked(length).ok_or_else(short)?;
        let header = std::str::from_utf8(header).map_err(|_| wrong("has a header that is no text"))?;
        let after = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
        if after("fortran_order").is_none_or(|rest| !rest.starts_with("False")) {
            return Err(wrong("is in column order, or does not say that it is not"));
        }
        let shape = after("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
        let shape = shape.ok_or_else(|| wrong("has no shape"))?.0;
        let sizes: Result<Vec<usize>, _> =
            shape.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::parse).collect();
        let sizes = sizes.map_err(|_| wrong("has a shape of no whole numbers"))?;
        let (height, width, planes) = match sizes[..] {
            [height, width] => (height, width, 1),
            [height, width, planes] => (height, width, planes),
            _ => return Err(wrong(&format!("has the shape ({})", shape.trim()))),
        };
        let count = [width, planes].iter().try_fold(height, |n, size| n.checked_mul(*size));
        let count =
            count.filter(|n| (1..=MOST).contains(n)).ok_or_else(|| wrong("has too many values, or none"))?;
        let kind = after("descr").and_then(|rest| rest.split('\'').nth(1)).unwrap_or_default();
        let (size, read): (usize, fn(&[u8]) -> f32) = match kind {
            "|b1" | "|u1" => (1, |b| f32::from(b[0])),
            "<f4" => (4, |b| f32::from_le_bytes(b.try_into().unwrap_or_default())),
            "<f8" => (8, |b| f64::from_le_bytes(b.try_into().unwrap_or_default()) as f32),
            "<i8" => (8, |b| i64::from_le_bytes(b.try_into().unwrap_or_default()) as f32),
            other => return Err(wrong(&format!("has values of the kind `{other}`"))),
        };
        if data.len() < count * size {
            return Err(short());
        }
        let values = data[..count * size].chunks_exact(size * planes).map(|pixel| read(&pixel[..size]));
        Ok(Self { height, width, values: values.collect() })
    }
}

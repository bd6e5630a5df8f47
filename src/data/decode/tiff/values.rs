//! The values of a page, in their places.

use half::f16;

use crate::data::bad_samples::Fault;
use crate::data::decode::depth::Kind;
use crate::data::decode::tiff::faults::damaged;
use crate::data::decode::tiff::page::{Colours, Format, Page};
use crate::data::decode::tiff::strips::decompress;

/// The values of all pixels, those that are used, side by side.
pub(super) enum Values {
    /// From 0 to 255, or numbers in a palette.
    Bytes(Vec<u8>),
    Shorts(Vec<u16>),
    Numbers(Kind, Vec<f32>),
}

/// All values of the page.
pub(super) fn read(page: &Page, bytes: &[u8]) -> Result<Values, Fault> {
    let bits = page.bits;
    Ok(match page.format {
        Format::Bytes if bits == 8 => Values::Bytes(gather(page, bytes, |row, i| row[i])?),
        Format::Bytes => {
            let most = (1 << bits) - 1;
            let white = if matches!(page.colours, Colours::Palette(_)) { most } else { 255 };
            Values::Bytes(gather(page, bytes, |row, i| (packed(row, i, bits) * white / most) as u8)?)
        }
        Format::Shorts if bits == 16 => {
            Values::Shorts(gather(page, bytes, |row, i| u16::from_ne_bytes(at(row, i)))?)
        }
        Format::Shorts => Values::Shorts(gather(page, bytes, |row, i| packed(row, i, bits) as u16)?),
        Format::Numbers(kind) => {
            let value: fn(&[u8], usize) -> f32 = match (kind, bits) {
                (Kind::Whole, _) => |row, i| u32::from_ne_bytes(at(row, i)) as f32,
                (Kind::Signed, 8) => |row, i| f32::from(row[i] as i8),
                (Kind::Signed, 16) => |row, i| f32::from(i16::from_ne_bytes(at(row, i))),
                (Kind::Signed, _) => |row, i| i32::from_ne_bytes(at(row, i)) as f32,
                (Kind::Float, 16) => |row, i| f16::from_ne_bytes(at(row, i)).to_f32(),
                (Kind::Float, 32) => |row, i| f32::from_ne_bytes(at(row, i)),
                (Kind::Float, _) => |row, i| f64::from_ne_bytes(at(row, i)) as f32,
            };
            Values::Numbers(kind, gather(page, bytes, value)?)
        }
    })
}

/// Value `i` of a row, of whole bytes.
fn at<const N: usize>(row: &[u8], i: usize) -> [u8; N] {
    row.as_chunks().0[i]
}

/// Value `i` of a row, of at most 16 bits, the highest first.
fn packed(row: &[u8], i: usize, bits: u32) -> u32 {
    let (start, end) = (i * bits as usize, (i + 1) * bits as usize);
    let bytes = &row[start / 8..end.div_ceil(8)];
    let value = bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte));
    value >> (bytes.len() * 8 - (end - start / 8 * 8)) & ((1 << bits) - 1)
}

/// Puts the values of all strips or tiles in their places; `value` takes one of a row.
fn gather<T: Copy + Default>(
    page: &Page,
    bytes: &[u8],
    value: impl Fn(&[u8], usize) -> T,
) -> Result<Vec<T>, Fault> {
    let kept = page.colours.values();
    let (width, height) = (page.width as usize, page.height as usize);
    let stored = if page.planar { 1 } else { page.samples };
    let across = page.width.div_ceil(page.chunk.0);
    let chunks_of_plane = page.chunks.len() / if page.planar { page.samples } else { 1 };
    let mut out = vec![T::default(); width * height * kept];
    for (i, &(offset, count)) in page.chunks.iter().enumerate() {
        let (plane, place) = (i / chunks_of_plane, (i % chunks_of_plane) as u32);
        if plane >= kept {
            break; // of values that are not used
        }
        let (left, top) = (place % across * page.chunk.0, place / across * page.chunk.1);
        let columns = page.chunk.0.min(page.width - left) as usize;
        let rows = page.chunk.1.min(page.height - top);
        let stored_rows = if page.tiled { page.chunk.1 } else { rows };
        let data = part(bytes, offset, count).ok_or_else(|| damaged("ends before the picture does"))?;
        let mut strip = decompress(page, data, (page.chunk.0, stored_rows), stored)?;
        let row_bytes = strip.len() / stored_rows as usize;
        let per_pixel = if page.planar { 1 } else { kept };
        for (y, row) in strip.chunks_exact_mut(row_bytes).take(rows as usize).enumerate() {
            undo_prediction(page, row, stored);
            let out = &mut out[((top as usize + y) * width + left as usize) * kept..];
            for x in 0..columns {
                for sample in 0..per_pixel {
                    out[x * kept + plane + sample] = value(row, x * stored + sample);
                }
            }
        }
    }
    Ok(out)
}

fn part(bytes: &[u8], offset: u64, count: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(count).ok()?)?)
}

/// Brings a row to the order of this machine's bytes and adds up what is stored as differences to the pixel
/// before.
fn undo_prediction(page: &Page, row: &mut [u8], stored: usize) {
    let bytes = page.bits as usize / 8;
    if page.predictor == 3 {
        for i in stored..row.len() {
            row[i] = row[i].wrapping_add(row[i - stored]);
        }
        // The bytes of all numbers lie apart, the highest first.
        let (count, apart) = (row.len() / bytes, row.to_vec());
        for (i, number) in row.chunks_exact_mut(bytes).enumerate() {
            for (k, byte) in number.iter_mut().enumerate() {
                let k = if cfg!(target_endian = "little") { bytes - 1 - k } else { k };
                *byte = apart[k * count + i];
            }
        }
        return;
    }
    if page.bits.is_multiple_of(8) && page.little_endian != cfg!(target_endian = "little") {
        row.chunks_exact_mut(bytes).for_each(<[u8]>::reverse);
    }
    if page.predictor == 2 {
        match bytes {
            1 => add_up::<1>(row, stored, |a, b| [a[0].wrapping_add(b[0])]),
            2 => add_up(row, stored, |a, b| {
                u16::from_ne_bytes(a).wrapping_add(u16::from_ne_bytes(b)).to_ne_bytes()
            }),
            4 => add_up(row, stored, |a, b| {
                u32::from_ne_bytes(a).wrapping_add(u32::from_ne_bytes(b)).to_ne_bytes()
            }),
            _ => add_up(row, stored, |a, b| {
                u64::from_ne_bytes(a).wrapping_add(u64::from_ne_bytes(b)).to_ne_bytes()
            }),
        }
    }
}

fn add_up<const N: usize>(row: &mut [u8], stored: usize, sum: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
    let values = row.as_chunks_mut::<N>().0;
    for i in stored..values.len() {
        values[i] = sum(values[i], values[i - stored]);
    }
}

//! The first page of a TIFF file, classic or Big.
//!
//! The `tiff` crate reads the directory. It knows no palettes, no packed values of 10 or 12 bits and no
//! group 3, so the pixels are put together here:
//!
//! ```text
//! page.rs    what the tags say, and what is refused      strips.rs  a strip or tile, decompressed
//! values.rs  its values, in their place on the page      mod.rs     colours          faults.rs
//! ```

mod faults;
mod page;
mod strips;
mod values;

use image::RgbImage;
use image::metadata::Orientation;

use crate::data::bad_samples::Fault;
use crate::data::decode::bounds::turn;
use crate::data::decode::depth::{scaled, upper_bits};
use crate::data::decode::tiff::faults::damaged;
use crate::data::decode::tiff::page::{Colours, Page};
use crate::data::decode::tiff::values::{Values, read};
use crate::data::reading::Reading;

/// Whether these are the first bytes of a BigTIFF, which `image` does not know.
pub(super) fn is_big(bytes: &[u8]) -> bool {
    bytes.starts_with(b"II\x2b\0\x08\0") || bytes.starts_with(b"MM\0\x2b\0\x08")
}

/// Decodes the first page, as it is stored, and says how it is to be turned.
pub(super) fn decode(bytes: &[u8], reading: &Reading) -> Result<(RgbImage, Orientation), Fault> {
    let page = Page::read(bytes, reading)?;
    let _turn = turn(page.width, page.height);
    let values = match read(&page, bytes)? {
        Values::Bytes(values) => values,
        Values::Shorts(values) => upper_bits(&values, page.bits, page.largest, reading),
        Values::Numbers(kind, values) => scaled(&values, kind, page.range, page.nothing, reading),
    };
    let pixels = match &page.colours {
        Colours::Rgb => values,
        Colours::Grey { inverted: false } => values.into_iter().flat_map(|v| [v; 3]).collect(),
        Colours::Grey { inverted: true } => values.into_iter().flat_map(|v| [255 - v; 3]).collect(),
        Colours::Palette(colours) => values
            .into_iter()
            .flat_map(|v| colours.get(usize::from(v)).copied().unwrap_or_default())
            .collect(),
        Colours::Cmyk => values.as_chunks().0.iter().flat_map(from_cmyk).collect(),
        Colours::YCbCr => values.as_chunks().0.iter().flat_map(from_ycbcr).collect(),
    };
    let image = RgbImage::from_raw(page.width, page.height, pixels);
    Ok((image.ok_or_else(|| damaged("has fewer values than pixels"))?, page.orientation))
}

/// As PIL does.
fn from_cmyk(&[c, m, y, k]: &[u8; 4]) -> [u8; 3] {
    let light = 255 - u32::from(k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * light + 128;
        (light - ((product + (product >> 8)) >> 8).min(light)) as u8
    })
}

/// Rec. 601, full range.
fn from_ycbcr(&[y, cb, cr]: &[u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb].map(|v| v.round() as u8)
}

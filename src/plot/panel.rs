//! Pictures side by side, each with what it shows.

use image::{Rgb, RgbImage, imageops};

use crate::error::{Error, Result};
use crate::plot::drawing::{Anchor, Drawing, Text};
use crate::plot::font;
use crate::plot::raster;

/// Pixels between pictures of a panel.
pub const GAP: u32 = 4;
/// Pixels above a picture in which its name stands.
pub const CAPTION: u32 = 26;
/// Font size of the names, in pixels.
const SIZE: f32 = 17.0;

/// Pictures of one size in rows of `columns`, each below its name, with small white gaps. An error if there is none,
/// or their sizes differ.
pub fn panel<N: AsRef<str>>(pictures: &[(N, RgbImage)], columns: usize) -> Result<RgbImage> {
    let op = "panel of pictures";
    let (_, first) = pictures.first().ok_or_else(|| Error::shape(op, "there is no picture"))?;
    let (width, height) = first.dimensions();
    if let Some((_, other)) = pictures.iter().find(|(_, p)| p.dimensions() != (width, height)) {
        let (w, h) = other.dimensions();
        return Err(Error::shape(
            op,
            format!("a picture of {w} × {h} pixels among some of {width} × {height}"),
        ));
    }
    let columns = columns.clamp(1, pictures.len());
    let rows = pictures.len().div_ceil(columns);
    let tile = (width + GAP, height + CAPTION + GAP);
    let size = (columns as u32 * tile.0 - GAP, rows as u32 * tile.1 - GAP);
    let mut panel = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
    for (i, (name, picture)) in pictures.iter().enumerate() {
        let (x, y) = ((i % columns) as i64 * i64::from(tile.0), (i / columns) as i64 * i64::from(tile.1));
        imageops::replace(&mut panel, &caption(name.as_ref(), width), x, y);
        imageops::replace(&mut panel, picture, x, y + i64::from(CAPTION));
    }
    Ok(panel)
}

/// A name on white, as much of it as fits.
fn caption(name: &str, width: u32) -> RgbImage {
    let mut drawing = Drawing::new((width as f32, CAPTION as f32));
    let name = font::shortened(name, SIZE, width as f32 - 4.0);
    drawing.text(Text::new(name, 2.0, CAPTION as f32 / 2.0, SIZE, Anchor::Start));
    raster::paint(&drawing)
}

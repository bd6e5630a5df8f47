//! Charts of a run and of an evaluation, each written as `<stem>.png` and `<stem>.svg` from one description.
//!
//! A chart is a list of shapes (`drawing`) that is printed as SVG or painted with an embedded font, so no
//! display and no installed font is needed. Values that are not finite are left out; nothing at all to show
//! is an error.

mod axis;
mod confusion;
mod curves;
mod drawing;
mod font;
mod frame;
mod front;
mod labels;
mod panel;
mod raster;
mod scatter;
mod surface;

use std::ffi::OsString;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};

pub use confusion::confusion_matrix;
pub use curves::lines;
pub use front::{Priced, accuracy_over_cost};
pub use panel::{CAPTION, GAP, panel};
pub use scatter::accuracy_over_parameters;
pub use surface::accuracy_surface;

use crate::error::{Error, Result};
use crate::files::own::create_own;
use drawing::Drawing;

/// Pixels of every chart.
const SIZE: (f32, f32) = (1200.0, 900.0);

/// The error of a chart that would show nothing.
fn nothing_to_show(stem: &Path) -> Error {
    Error::file(stem, "no chart can be drawn: there is not one finite value to show")
}

/// Writes both files of a chart.
fn save(drawing: &Drawing, stem: &Path) -> Result<()> {
    write_whole(&with_suffix(stem, ".svg"), drawing.svg().as_bytes())?;
    write_png(&with_suffix(stem, ".png"), &raster::paint(drawing))
}

/// Writes an image as PNG; until all of it is on disk, `path` keeps what it held before.
pub fn write_png(path: &Path, image: &RgbImage) -> Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|e| Error::file(path, format!("the picture cannot be written as PNG: {e}")))?;
    write_whole(path, bytes.get_ref())
}

/// Writes a file under another name and gives it its own when it is whole.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = with_suffix(path, ".partial");
    let written = create_own(&partial).and_then(|mut file| file.write_all(bytes));
    written.and_then(|()| fs::rename(&partial, path)).map_err(|e| {
        // What the error leaves behind is of no use; if it cannot be removed either, the error says why.
        let _ = fs::remove_file(&partial);
        Error::file(path, format!("cannot be written: {e}; is the folder there, and the disk not full?"))
    })
}

/// The path with something added to its last name, which may hold dots of its own.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = OsString::from(path);
    path.push(suffix);
    path.into()
}

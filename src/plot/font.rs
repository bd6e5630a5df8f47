//! The embedded font: widths of texts and outlines of letters.

use std::sync::LazyLock;

use ttf_parser::{Face, OutlineBuilder};
use zeno::{Command, PathBuilder};

/// What SVG viewers are to use: the embedded font, or one of about the same widths.
pub const FAMILIES: &str = "DejaVu Sans, Verdana, sans-serif";
/// Height of capitals and digits, of a text of size 1.
pub const CAPITALS: f32 = 0.73;

/// None only if the crate that ships the font shipped something else; texts would then be missing.
static FACE: LazyLock<Option<Face<'static>>> = LazyLock::new(|| Face::parse(dejavu::sans::regular(), 0).ok());

/// Width in pixels of a text of `size` pixels.
pub fn width(text: &str, size: f32) -> f32 {
    let Some(face) = FACE.as_ref() else { return 0.0 };
    text.chars().map(|c| advance(face, c)).sum::<f32>() * size / f32::from(face.units_per_em())
}

/// `text`, or as much of its beginning as fits into `room` pixels, with an ellipsis.
pub fn shortened(text: &str, size: f32, room: f32) -> String {
    if width(text, size) <= room {
        return text.to_string();
    }
    let mut kept = text.to_string();
    while kept.pop().is_some() {
        let short = format!("{}…", kept.trim_end());
        if width(&short, size) <= room {
            return short;
        }
    }
    String::new()
}

/// The outlines of a text; `place` gives the pixel of a point that lies so far along the baseline and so far
/// above it.
pub fn outline(text: &str, size: f32, place: impl Fn(f32, f32) -> (f32, f32)) -> Vec<Command> {
    let Some(face) = FACE.as_ref() else { return Vec::new() };
    let scale = size / f32::from(face.units_per_em());
    let mut pen = Pen { path: Vec::new(), along: 0.0, scale, place };
    for c in text.chars() {
        if let Some(glyph) = face.glyph_index(c) {
            face.outline_glyph(glyph, &mut pen);
        }
        pen.along += advance(face, c) * scale;
    }
    pen.path
}

/// How far a letter moves the pen, in units of the font.
fn advance(face: &Face, c: char) -> f32 {
    face.glyph_index(c).and_then(|glyph| face.glyph_hor_advance(glyph)).map_or(0.0, f32::from)
}

/// Draws letters, given in units of the font.
struct Pen<F> {
    path: Vec<Command>,
    /// Where the letter begins, pixels along the baseline.
    along: f32,
    /// Pixels of a unit.
    scale: f32,
    place: F,
}

impl<F: Fn(f32, f32) -> (f32, f32)> Pen<F> {
    fn at(&self, x: f32, y: f32) -> (f32, f32) {
        (self.place)(self.along + x * self.scale, y * self.scale)
    }
}

impl<F: Fn(f32, f32) -> (f32, f32)> OutlineBuilder for Pen<F> {
    fn move_to(&mut self, x: f32, y: f32) {
        let to = self.at(x, y);
        self.path.move_to(to);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let to = self.at(x, y);
        self.path.line_to(to);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        let (control, to) = (self.at(x1, y1), self.at(x, y));
        self.path.quad_to(control, to);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        let (first, second, to) = (self.at(x1, y1), self.at(x2, y2), self.at(x, y));
        self.path.curve_to(first, second, to);
    }

    fn close(&mut self) {
        self.path.close();
    }
}

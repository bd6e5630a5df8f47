//! A chart as a list of shapes, and its SVG. Coordinates are pixels from the upper left corner.

use std::fmt::Write;

use crate::plot::font::{self, CAPITALS, FAMILIES};

/// Red, green, blue.
pub type Color = [u8; 3];

/// Texts, axes.
pub const INK: Color = [38, 38, 38];
/// Grid lines, and cells without a value.
pub const FAINT: Color = [220, 220, 220];
/// The ground.
pub const WHITE: Color = [255, 255, 255];

/// Pixels of the line around a text that makes its white rim; half of it lies under the letters.
pub const RIM: f32 = 4.0;

/// Where a text's x lies in it.
#[derive(Clone, Copy, PartialEq)]
pub enum Anchor {
    /// At its beginning.
    Start,
    /// In its middle.
    Middle,
    /// At its end.
    End,
}

/// A text on one line.
pub struct Text {
    /// The words.
    pub text: String,
    /// Where the anchor lies.
    pub x: f32,
    /// The baseline.
    pub y: f32,
    /// Pixels of the font.
    pub size: f32,
    /// What of the text lies at x.
    pub anchor: Anchor,
    /// Colour.
    pub color: Color,
    /// Turned to run upwards, about (x, y).
    pub upwards: bool,
    /// With a white rim, to be read over lines.
    pub rim: bool,
}

impl Text {
    /// Dark, level, without a rim; its capitals are centred on `middle`.
    pub fn new(text: impl Into<String>, x: f32, middle: f32, size: f32, anchor: Anchor) -> Self {
        let y = middle + CAPITALS * size / 2.0;
        Self { text: text.into(), x, y, size, anchor, color: INK, upwards: false, rim: false }
    }

    /// Where the text begins if it is level; one that runs upwards begins as far below y as this lies left of
    /// x.
    pub fn left(&self) -> f32 {
        let width = font::width(&self.text, self.size);
        match self.anchor {
            Anchor::Start => self.x,
            Anchor::Middle => self.x - width / 2.0,
            Anchor::End => self.x - width,
        }
    }
}

/// One thing to draw.
pub enum Shape {
    /// A filled rectangle.
    Rect { x: f32, y: f32, width: f32, height: f32, color: Color },
    /// Straight lines through points; `dash` holds lengths drawn and left out in turn, or nothing.
    Line { points: Vec<(f32, f32)>, width: f32, dash: &'static [f32], color: Color },
    /// A filled circle.
    Circle { x: f32, y: f32, radius: f32, color: Color },
    /// A text.
    Text(Text),
}

/// A chart: its size in pixels and its shapes, later ones over earlier ones.
pub struct Drawing {
    /// Pixels.
    pub width: f32,
    /// Pixels.
    pub height: f32,
    /// What is drawn.
    pub shapes: Vec<Shape>,
}

impl Drawing {
    /// An empty one, on white ground.
    pub fn new((width, height): (f32, f32)) -> Self {
        Self { width, height, shapes: vec![Shape::Rect { x: 0.0, y: 0.0, width, height, color: WHITE }] }
    }

    /// Adds a shape.
    pub fn add(&mut self, shape: Shape) {
        self.shapes.push(shape);
    }

    /// Adds a text.
    pub fn text(&mut self, text: Text) {
        self.add(Shape::Text(text));
    }

    /// Adds an undashed line between two points.
    pub fn line(&mut self, from: (f32, f32), to: (f32, f32), width: f32, color: Color) {
        self.add(Shape::Line { points: vec![from, to], width, dash: &[], color });
    }

    /// Adds the outline of a rectangle.
    pub fn border(&mut self, (left, top): (f32, f32), (right, bottom): (f32, f32)) {
        let points = vec![(left, top), (right, top), (right, bottom), (left, bottom), (left, top)];
        self.add(Shape::Line { points, width: 1.5, dash: &[], color: INK });
    }

    /// The text of an SVG file.
    pub fn svg(&self) -> String {
        let (width, height) = (self.width, self.height);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"{FAMILIES}\">\n"
        );
        for shape in &self.shapes {
            // Writing to a string cannot fail.
            let _ = write_shape(&mut svg, shape);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn write_shape(svg: &mut String, shape: &Shape) -> std::fmt::Result {
    match shape {
        Shape::Rect { x, y, width, height, color } => writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{}\"/>",
            hex(*color)
        ),
        Shape::Circle { x, y, radius, color } => {
            writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{}\"/>", hex(*color))
        }
        Shape::Line { points, width, dash, color } => {
            let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let dash: Vec<String> = dash.iter().map(f32::to_string).collect();
            let dash = match dash.is_empty() {
                true => String::new(),
                false => format!(" stroke-dasharray=\"{}\"", dash.join(" ")),
            };
            writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" \
                 stroke-linejoin=\"round\"{dash}/>",
                points.join(" "),
                hex(*color)
            )
        }
        Shape::Text(text) => {
            let Text { x, y, size, .. } = text;
            let anchor = match text.anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size:.1}\" text-anchor=\"{anchor}\"")?;
            if text.upwards {
                write!(svg, " transform=\"rotate(-90 {x:.1} {y:.1})\"")?;
            }
            if text.rim {
                write!(svg, " paint-order=\"stroke\" stroke=\"{}\" stroke-width=\"{RIM}\"", hex(WHITE))?;
            }
            writeln!(svg, " fill=\"{}\">{}</text>", hex(text.color), escaped(&text.text))
        }
    }
}

fn hex([r, g, b]: Color) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// A text as XML allows it: markup escaped, control characters as spaces.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

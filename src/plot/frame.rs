//! What all charts share: title, axes with marks and names, the legend.

use crate::plot::SIZE;
use crate::plot::axis::Axis;
use crate::plot::drawing::{Anchor, Color, Drawing, FAINT, Shape, Text};
use crate::plot::font;

/// Font size of the title, in pixels.
pub const TITLE: f32 = 30.0;
/// Font size of the names of axes.
pub const NAME: f32 = 24.0;
/// Font size of numbers at axes, legends, labels.
pub const NUMBER: f32 = 20.0;
/// The upper edge of the area of values.
pub const TOP: f32 = 80.0;
/// The lower edge.
pub const BOTTOM: f32 = SIZE.1 - 100.0;
/// The left edge.
pub const LEFT: f32 = 120.0;

const LEGEND_SIZES: (f32, f32) = (12.0, NUMBER);
/// Most pixels of a legend's width.
const LEGEND_ROOM: f32 = 380.0;
/// Pixels of the sample of a line in the legend.
const SAMPLE: f32 = 34.0;

/// Adds the title, smaller or shortened where it would not fit.
pub fn title(drawing: &mut Drawing, text: &str) {
    let room = SIZE.0 - 60.0;
    let size = (TITLE * room / font::width(text, TITLE).max(1.0)).clamp(18.0, TITLE);
    drawing.text(Text::new(font::shortened(text, size, room), SIZE.0 / 2.0, TOP / 2.0, size, Anchor::Middle));
}

/// Adds the names of both axes of the area between [`LEFT`] and `right`.
pub fn names(drawing: &mut Drawing, right: f32, x: &str, y: &str) {
    let name = |text: &str, room: f32| font::shortened(text, NAME, room);
    let centre = (LEFT + right) / 2.0;
    drawing.text(Text::new(name(x, right - LEFT), centre, SIZE.1 - 32.0, NAME, Anchor::Middle));
    let mut up = Text::new(name(y, BOTTOM - TOP), 38.0, (TOP + BOTTOM) / 2.0, NAME, Anchor::Middle);
    (up.y, up.upwards) = ((TOP + BOTTOM) / 2.0, true);
    drawing.text(up);
}

/// Adds grid lines, numbers and the border of the area between [`LEFT`] and `right`.
pub fn axes(drawing: &mut Drawing, right: f32, x: &Axis, y: &Axis) {
    let mut free = f32::NEG_INFINITY;
    for (value, text) in x.marks(7) {
        let at = x.place(value);
        drawing.line((at, TOP), (at, BOTTOM), 1.0, FAINT);
        let text = Text::new(text, at, BOTTOM + 24.0, NUMBER, Anchor::Middle);
        // Where marks are close, as on a logarithmic axis, the later number gives way.
        if text.left() > free {
            free = 2.0 * at - text.left() + 8.0;
            drawing.text(text);
        }
    }
    for (value, text) in y.marks(8) {
        let at = y.place(value);
        drawing.line((LEFT, at), (right, at), 1.0, FAINT);
        drawing.text(Text::new(text, LEFT - 10.0, at, NUMBER, Anchor::End));
    }
    drawing.border((LEFT, TOP), (right, BOTTOM));
}

/// A line of the legend.
pub struct Entry {
    /// What it stands for.
    pub name: String,
    /// Its colour.
    pub color: Color,
    /// Its dashes.
    pub dash: &'static [f32],
}

/// The right edge of the area of values that leaves room for the legend; nothing is reserved for no entries.
pub fn right_of(entries: &[Entry]) -> f32 {
    match entries.is_empty() {
        true => SIZE.0 - 50.0,
        false => SIZE.0 - 30.0 - legend_width(entries, legend_size(entries.len())),
    }
}

/// Adds the legend to the right of `right`. What does not fit in the smallest print is counted.
pub fn legend(drawing: &mut Drawing, right: f32, entries: &[Entry]) {
    let size = legend_size(entries.len());
    let line = 1.4 * size;
    let left = right + 20.0;
    let fitting = ((BOTTOM - TOP) / line) as usize;
    let shown = if entries.len() > fitting { fitting - 1 } else { entries.len() };
    let text_at = left + SAMPLE + 10.0;
    let room = SIZE.0 - 10.0 - text_at;
    for (i, entry) in entries[..shown].iter().enumerate() {
        let y = TOP + line * (i as f32 + 0.5);
        let points = vec![(left, y), (left + SAMPLE, y)];
        drawing.add(Shape::Line { points, width: 3.0, dash: entry.dash, color: entry.color });
        drawing.add(Shape::Circle { x: left + SAMPLE / 2.0, y, radius: 5.0, color: entry.color });
        let name = font::shortened(&entry.name, size, room);
        drawing.text(Text::new(name, text_at, y, size, Anchor::Start));
    }
    if shown < entries.len() {
        let y = TOP + line * (shown as f32 + 0.5);
        let more = format!("and {} more", entries.len() - shown);
        drawing.text(Text::new(more, text_at, y, size, Anchor::Start));
    }
}

fn legend_size(entries: usize) -> f32 {
    ((BOTTOM - TOP) / (1.4 * entries.max(1) as f32)).clamp(LEGEND_SIZES.0, LEGEND_SIZES.1)
}

fn legend_width(entries: &[Entry], size: f32) -> f32 {
    let widest = entries.iter().map(|entry| font::width(&entry.name, size)).fold(0.0, f32::max);
    (SAMPLE + 10.0 + widest + 10.0).min(LEGEND_ROOM)
}

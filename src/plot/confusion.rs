//! Confusion matrices: which classes are taken for which.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::Result;
use crate::plot::drawing::{Anchor, Drawing, INK, Shape, Text};
use crate::plot::font::{self, CAPITALS};
use crate::plot::frame::{NAME, NUMBER, title};
use crate::plot::surface::{edges, readable_on, viridis};
use crate::plot::{SIZE, nothing_to_show, save};

/// The area of the matrix: left, top, and pixels a side.
const AREA: (f32, f32, f32) = (260.0, 80.0, 680.0);
/// Pixels for a class's name on either side.
const ROOM: (f32, f32) = (170.0, 84.0);
/// Font sizes of names and of numbers in cells; smaller ones are left out.
const SIZES: (f32, f32) = (10.0, NUMBER);
/// Cells a side at most. More classes than that share cells, as many neighbours as it takes.
const MOST_CELLS: usize = 200;
/// The colour bar's left edge and width.
const BAR: (f32, f32) = (AREA.0 + AREA.2 + 40.0, 34.0);
/// Steps of the colour bar, and its marks in percent.
const BAR_STEPS: usize = 240;
const MARKS: [u8; 7] = [0, 1, 5, 10, 25, 50, 100];

/// Draws how many of each true class's images (a row, from the top) were taken for each class (a column, from the left),
/// in shares of the row, into `<stem>.png` and `<stem>.svg`. `counts` holds images by (true class, guess).
///
/// Few classes have their percentages written in the cells; of many, runs of neighbours share a cell, and only some are
/// named. Colours go by the square root of the share, so that rare confusions are seen. An error if there is no image, or
/// a file cannot be written.
pub fn confusion_matrix<N: AsRef<str>>(
    names: &[N],
    counts: &BTreeMap<(u32, u32), u64>,
    text: &str,
    stem: &Path,
) -> Result<()> {
    let each = names.len().div_ceil(MOST_CELLS).max(1);
    let cells = names.len().div_ceil(each);
    let (mut shares, mut rows) = (BTreeMap::<(usize, usize), u64>::new(), vec![0u64; cells]);
    for (&(label, guess), count) in counts {
        let (row, column) = (label as usize / each, guess as usize / each);
        if row < cells && column < cells {
            *shares.entry((row, column)).or_default() += count;
            rows[row] += count;
        }
    }
    if rows.iter().sum::<u64>() == 0 {
        return Err(nothing_to_show(stem));
    }
    let mut drawing = Drawing::new(SIZE);
    title(&mut drawing, text);
    let (left, top, side) = AREA;
    // what never occurs is one rectangle
    drawing.add(Shape::Rect { x: left, y: top, width: side, height: side, color: viridis(0.0) });
    let (columns, lines) = (edges(left, left + side, cells), edges(top, top + side, cells));
    let size = (0.3 * side / cells as f32).min(SIZES.1);
    for (&(row, column), &count) in shares.iter().filter(|(_, count)| **count > 0) {
        let share = count as f64 / rows[row] as f64;
        let color = viridis(share.sqrt());
        let (x, y) = (columns[column], lines[row]);
        let (width, height) = (columns[column + 1] - x, lines[row + 1] - y);
        drawing.add(Shape::Rect { x, y, width, height, color });
        if size >= SIZES.0 {
            let mut text = Text::new(percent(share), x + width / 2.0, y + height / 2.0, size, Anchor::Middle);
            text.color = readable_on(color);
            drawing.text(text);
        }
    }
    drawing.border((left, top), (left + side, top + side));
    class_names(&mut drawing, names, each, &columns, &lines);
    axis_names(&mut drawing, each);
    color_bar(&mut drawing);
    save(&drawing, stem)
}

/// A share in percent as it stands in a cell: with a digit behind the point where it is small.
fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent < 9.95 { format!("{percent:.1}") } else { format!("{percent:.0}") }
}

/// Adds the first class of every cell beside and below it; every so many where they are too close.
fn class_names<N: AsRef<str>>(
    drawing: &mut Drawing,
    names: &[N],
    each: usize,
    columns: &[f32],
    lines: &[f32],
) {
    let cells = columns.len() - 1;
    let cell = AREA.2 / cells as f32;
    let size = (0.8 * cell).clamp(SIZES.0, SIZES.1);
    let step = (1.25 * size / cell).ceil().max(1.0) as usize;
    for i in (0..cells).step_by(step) {
        let name = names[i * each].as_ref();
        let middle = |edges: &[f32]| (edges[i] + edges[i + 1]) / 2.0;
        let beside = font::shortened(name, size, ROOM.0);
        drawing.text(Text::new(beside, AREA.0 - 10.0, middle(lines), size, Anchor::End));
        let (x, y) = (middle(columns) + CAPITALS * size / 2.0, AREA.1 + AREA.2 + 10.0);
        let mut below = Text::new(font::shortened(name, size, ROOM.1), x, y, size, Anchor::End);
        (below.y, below.upwards) = (y, true);
        drawing.text(below);
    }
}

fn axis_names(drawing: &mut Drawing, each: usize) {
    let of = if each > 1 { format!(" ({each} a cell)") } else { String::new() };
    let middle = AREA.0 + AREA.2 / 2.0;
    drawing.text(Text::new(format!("class guessed{of}"), middle, SIZE.1 - 18.0, NAME, Anchor::Middle));
    let middle = AREA.1 + AREA.2 / 2.0;
    let mut up = Text::new(format!("true class{of}"), 38.0, middle, NAME, Anchor::Middle);
    (up.y, up.upwards) = (middle, true);
    drawing.text(up);
}

/// Adds the colours of 0 to 100 percent of a row.
fn color_bar(drawing: &mut Drawing) {
    let ((left, width), (_, top, side)) = (BAR, AREA);
    let bottom = top + side;
    for (i, y) in edges(bottom, top, BAR_STEPS).windows(2).enumerate() {
        let color = viridis((i as f64 + 0.5) / BAR_STEPS as f64);
        drawing.add(Shape::Rect { x: left, y: y[1], width, height: y[0] - y[1], color });
    }
    drawing.border((left, top), (left + width, bottom));
    for mark in MARKS {
        let y = bottom - side * (f32::from(mark) / 100.0).sqrt();
        drawing.line((left + width, y), (left + width + 6.0, y), 1.5, INK);
        drawing.text(Text::new(mark.to_string(), left + width + 12.0, y, NUMBER, Anchor::Start));
    }
    let middle = top + side / 2.0;
    let mut name = Text::new("share of the true class (%)", SIZE.0 - 18.0, middle, NAME, Anchor::Middle);
    (name.y, name.upwards) = (middle, true);
    drawing.text(name);
}

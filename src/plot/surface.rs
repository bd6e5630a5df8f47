//! Accuracy over width and depth, as in the paper's figure 1, seen from above.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use colorous::VIRIDIS;

use crate::error::Result;
use crate::plot::axis::Axis;
use crate::plot::drawing::{Anchor, Color, Drawing, FAINT, INK, Shape, Text, WHITE};
use crate::plot::frame::{BOTTOM, LEFT, NAME, NUMBER, TOP, names, title};
use crate::plot::{SIZE, font, nothing_to_show, save};

/// The right edge of the grid.
const RIGHT: f32 = SIZE.0 - 200.0;
/// Font sizes of the numbers in the cells; in cells that cannot hold the smaller there are none.
const CELL_SIZES: (f32, f32) = (11.0, 28.0);
/// The colour bar's left edge and width.
const BAR: (f32, f32) = (RIGHT + 40.0, 34.0);
/// Steps of the colour bar.
const BAR_STEPS: usize = 240;

/// Draws accuracies (0 to 1) of sub-networks, given as (width, depth, accuracy), as a coloured grid with
/// their numbers in percent and a colour bar, into `<stem>.png` and `<stem>.svg`.
///
/// Pairs that are not given, or whose accuracy is not finite, are grey; of a pair given twice the last
/// counts. An error if there is no accuracy at all, or a file cannot be written.
pub fn accuracy_surface(cells: &[(usize, usize, f64)], text: &str, stem: &Path) -> Result<()> {
    let widths: Vec<usize> = cells.iter().map(|c| c.0).collect::<BTreeSet<_>>().into_iter().collect();
    let depths: Vec<usize> = cells.iter().map(|c| c.1).collect::<BTreeSet<_>>().into_iter().collect();
    let percent = cells.iter().map(|&(width, depth, accuracy)| ((width, depth), 100.0 * accuracy));
    let percent: BTreeMap<(usize, usize), f64> = percent.filter(|(_, v)| v.is_finite()).collect();
    let low = percent.values().copied().reduce(f64::min).ok_or_else(|| nothing_to_show(stem))?;
    let high = percent.values().copied().fold(low, f64::max);
    // Equal accuracies all get the middle of the colours.
    let share = |v: f64| if high > low { (v - low) / (high - low) } else { 0.5 };

    let mut drawing = Drawing::new(SIZE);
    title(&mut drawing, text);
    names(&mut drawing, RIGHT, "width (channels)", "depth (blocks)");
    let columns = edges(LEFT, RIGHT, widths.len());
    let rows = edges(BOTTOM, TOP, depths.len());
    let cell = ((RIGHT - LEFT) / widths.len() as f32, (BOTTOM - TOP) / depths.len() as f32);
    let widest = percent.values().map(|v| font::width(&number(*v), 1.0)).fold(0.0, f32::max);
    let size = (0.84 * cell.0 / widest).min(0.65 * cell.1).min(CELL_SIZES.1);
    for (x, &width) in columns.windows(2).zip(&widths) {
        for (y, &depth) in rows.windows(2).zip(&depths) {
            let value = percent.get(&(width, depth)).copied();
            let color = value.map_or(FAINT, |v| viridis(share(v)));
            drawing.add(Shape::Rect { x: x[0], y: y[1], width: x[1] - x[0], height: y[0] - y[1], color });
            if let Some(value) = value.filter(|_| size >= CELL_SIZES.0) {
                let (x, y) = ((x[0] + x[1]) / 2.0, (y[0] + y[1]) / 2.0);
                let mut text = Text::new(number(value), x, y, size, Anchor::Middle);
                text.color = readable_on(color);
                drawing.text(text);
            }
        }
    }
    drawing.border((LEFT, TOP), (RIGHT, BOTTOM));
    labels(&mut drawing, &columns, &widths, &rows, &depths);
    color_bar(&mut drawing, low, high);
    save(&drawing, stem)
}

/// An accuracy in percent as it stands in a cell.
fn number(percent: f64) -> String {
    format!("{percent:.1}")
}

/// The `count` + 1 edges of equal parts, on whole pixels, so that no ground shines through between
/// neighbours.
pub(super) fn edges(from: f32, to: f32, count: usize) -> Vec<f32> {
    (0..=count).map(|i| (from + (to - from) * i as f32 / count as f32).round()).collect()
}

/// Adds the widths below and the depths beside the grid; every so many of them where they are too close.
fn labels(drawing: &mut Drawing, columns: &[f32], widths: &[usize], rows: &[f32], depths: &[usize]) {
    let middle = |edges: &[f32]| (edges[0] + edges[1]) / 2.0;
    let widest = widths.iter().map(|w| font::width(&w.to_string(), NUMBER)).fold(0.0, f32::max);
    let every = |needed: f32, room: f32| (needed / room).ceil().max(1.0) as usize;
    let step = every(widest + 10.0, (RIGHT - LEFT) / widths.len() as f32);
    for (edges, width) in columns.windows(2).zip(widths).step_by(step) {
        drawing.text(Text::new(width.to_string(), middle(edges), BOTTOM + 24.0, NUMBER, Anchor::Middle));
    }
    let step = every(1.2 * NUMBER, (BOTTOM - TOP) / depths.len() as f32);
    for (edges, depth) in rows.windows(2).zip(depths).step_by(step) {
        drawing.text(Text::new(depth.to_string(), LEFT - 12.0, middle(edges), NUMBER, Anchor::End));
    }
}

/// Adds the colours from `low` to `high`, with numbers. One value alone has one colour.
fn color_bar(drawing: &mut Drawing, low: f64, high: f64) {
    let (left, width) = BAR;
    let right = left + width;
    let pixels = edges(BOTTOM, TOP, BAR_STEPS);
    for (i, y) in pixels.windows(2).enumerate() {
        let share = if high > low { (i as f64 + 0.5) / BAR_STEPS as f64 } else { 0.5 };
        drawing.add(Shape::Rect { x: left, y: y[1], width, height: y[0] - y[1], color: viridis(share) });
    }
    drawing.border((left, TOP), (right, BOTTOM));
    let mut mark = |y: f32, text: String| {
        drawing.line((right, y), (right + 6.0, y), 1.5, INK);
        drawing.text(Text::new(text, right + 12.0, y, NUMBER, Anchor::Start));
    };
    if high > low {
        let axis = Axis::exact(low, high, (BOTTOM, TOP));
        axis.marks(8).into_iter().for_each(|(value, text)| mark(axis.place(value), text));
    } else {
        mark((TOP + BOTTOM) / 2.0, number(low));
    }
    let middle = (TOP + BOTTOM) / 2.0;
    let mut name = Text::new("accuracy (%)", SIZE.0 - 18.0, middle, NAME, Anchor::Middle);
    (name.y, name.upwards) = (middle, true);
    drawing.text(name);
}

/// The colour of a share of the range.
pub(super) fn viridis(share: f64) -> Color {
    VIRIDIS.eval_continuous(share).into_array()
}

/// Black or white, whichever stands out more.
pub(super) fn readable_on([r, g, b]: Color) -> Color {
    // Weights of the eye for light; the limit is where both have the same contrast to the greens of the map.
    let luma = 0.299 * f32::from(r) + 0.587 * f32::from(g) + 0.114 * f32::from(b);
    if luma > 118.0 { INK } else { WHITE }
}

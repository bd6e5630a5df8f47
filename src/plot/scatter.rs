//! Accuracy over the number of parameters.

use std::path::Path;

use colorous::VIRIDIS;

use crate::error::Result;
use crate::plot::axis::Axis;
use crate::plot::drawing::{Anchor, Color, Drawing, Shape, Text};
use crate::plot::frame::{self, BOTTOM, Entry, LEFT, NUMBER, TOP};
use crate::plot::{SIZE, font, nothing_to_show, save};

/// A sub-network in the picture.
struct Point<'a> {
    millions: f64,
    percent: f64,
    label: &'a str,
}

/// Draws accuracies (0 to 1) over numbers of parameters, given as (parameters, accuracy, label), into
/// `<stem>.png` and `<stem>.svg`.
///
/// Labels such as `384x12` give the width, whose networks share a colour and are joined; the smallest and the
/// largest network are labelled. The axis of parameters is logarithmic if they span more than a factor of
/// ten. Points that are not finite, or without parameters, are left out. An error if none is left, or a file
/// cannot be written.
pub fn accuracy_over_parameters(points: &[(f64, f64, &str)], text: &str, stem: &Path) -> Result<()> {
    let mut points: Vec<Point> = points
        .iter()
        .map(|&(parameters, accuracy, label)| Point {
            millions: parameters / 1e6,
            percent: 100.0 * accuracy,
            label,
        })
        .filter(|p| p.millions.is_finite() && p.millions > 0.0 && p.percent.is_finite())
        .collect();
    points.sort_by(|a, b| a.millions.total_cmp(&b.millions));
    match (points.first(), points.last()) {
        (Some(first), Some(last)) => draw(&points, (first, last), text, stem),
        _ => Err(nothing_to_show(stem)),
    }
}

/// `points` are sorted by size; `ends` are the first and the last.
fn draw(points: &[Point], ends: (&Point, &Point), text: &str, stem: &Path) -> Result<()> {
    let mut widths: Vec<usize> = points.iter().filter_map(|p| width_of(p.label)).collect();
    widths.sort_unstable();
    widths.dedup();
    let color = |width: Option<usize>| -> Color {
        // The last, yellow part of the colours is hard to see on white.
        let at = width.and_then(|w| widths.binary_search(&w).ok()).unwrap_or(0);
        VIRIDIS.eval_continuous(0.9 * at as f64 / widths.len().saturating_sub(1).max(1) as f64).into_array()
    };
    let entries: Vec<Entry> = widths
        .iter()
        .map(|&w| Entry { name: format!("width {w}"), color: color(Some(w)), dash: &[] })
        .collect();
    let right = frame::right_of(&entries);
    let (low, high) = points
        .iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), p| (low.min(p.percent), high.max(p.percent)));
    let x = Axis::of_sizes(ends.0.millions, ends.1.millions, (LEFT, right));
    let y = Axis::linear(low, high, (BOTTOM, TOP));

    let mut drawing = Drawing::new(SIZE);
    frame::title(&mut drawing, text);
    frame::names(&mut drawing, right, "parameters (millions)", "accuracy (%)");
    frame::axes(&mut drawing, right, &x, &y);
    let place = |p: &Point| (x.place(p.millions), y.place(p.percent));
    for &width in &widths {
        let points = points.iter().filter(|p| width_of(p.label) == Some(width)).map(place).collect();
        drawing.add(Shape::Line { points, width: 2.0, dash: &[], color: color(Some(width)) });
    }
    for point in points {
        let (x, y) = place(point);
        drawing.add(Shape::Circle { x, y, radius: 6.0, color: color(width_of(point.label)) });
    }
    let places: Vec<(f32, f32)> = points.iter().map(place).collect();
    label(&mut drawing, ends.0, place(ends.0), &places, right);
    if points.len() > 1 {
        label(&mut drawing, ends.1, place(ends.1), &places, right);
    }
    frame::legend(&mut drawing, right, &entries);
    save(&drawing, stem)
}

/// The width that a label such as `384x12` starts with.
fn width_of(label: &str) -> Option<usize> {
    label.split_once('x')?.0.parse().ok()
}

/// Adds a point's label near it: of the places within the area, the nearest of those that cover the fewest
/// points.
fn label(drawing: &mut Drawing, point: &Point, at: (f32, f32), points: &[(f32, f32)], right: f32) {
    let words = font::shortened(&format!("{} ({:.1}%)", point.label, point.percent), NUMBER, right - LEFT);
    let half = (font::width(&words, NUMBER) / 2.0 + 8.0, NUMBER / 2.0 + 8.0);
    let covered = |(x, y): (f32, f32)| {
        let hit = |p: &&(f32, f32)| (p.0 - x).abs() < half.0 && (p.1 - y).abs() < half.1;
        points.iter().filter(hit).count()
    };
    let line = half.1 + 4.0;
    let level = [(half.0 + 6.0, 0.0), (-half.0 - 6.0, 0.0)];
    let beyond = [1.0, -1.0, 1.6, -1.6, 2.2, -2.2].map(|lines| (0.0, lines * line));
    let places = level.into_iter().chain(beyond).map(|(dx, dy)| {
        let x = (at.0 + dx).max(LEFT + half.0).min(right - half.0);
        let y = (at.1 + dy).max(TOP + half.1).min(BOTTOM - half.1);
        (x, y)
    });
    let (x, y) = places.min_by_key(|&place| covered(place)).unwrap_or(at);
    let mut text = Text::new(words, x, y, NUMBER, Anchor::Middle);
    text.rim = true;
    drawing.text(text);
}

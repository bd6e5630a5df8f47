//! Accuracy over the number of parameters.

use std::path::Path;

use colorous::VIRIDIS;

use crate::error::Result;
use crate::plot::axis::Axis;
use crate::plot::drawing::{Color, Drawing, INK, Shape};
use crate::plot::frame::{self, BOTTOM, Entry, LEFT, TOP};
use crate::plot::labels::Labels;
use crate::plot::{SIZE, nothing_to_show, save};

/// A sub-network in the picture.
struct Point<'a> {
    millions: f64,
    percent: f64,
    label: &'a str,
}

/// Draws accuracies (0 to 1) over numbers of parameters, given as (parameters, accuracy, label), into
/// `<stem>.png` and `<stem>.svg`.
///
/// Labels such as `384x12` give the width, whose networks share a colour and are joined. The most accurate network is
/// labelled, and those of `named`, given as (label, name). No label covers another or leaves the area; one that finds
/// no place near its point has a line to it. The axis of parameters is logarithmic if they span more than a factor of
/// ten. Points that are not finite, or without parameters, are left out. An error if none is left, or a file
/// cannot be written.
pub fn accuracy_over_parameters(
    points: &[(f64, f64, &str)],
    named: &[(&str, &str)],
    text: &str,
    stem: &Path,
) -> Result<()> {
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
        (Some(first), Some(last)) => draw(&points, (first, last), named, text, stem),
        _ => Err(nothing_to_show(stem)),
    }
}

/// `points` are sorted by size; `ends` are the first and the last.
fn draw(
    points: &[Point],
    ends: (&Point, &Point),
    named: &[(&str, &str)],
    text: &str,
    stem: &Path,
) -> Result<()> {
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
    let labelled = labelled(points, named);
    for point in points {
        let (x, y) = place(point);
        if labelled.iter().any(|(shown, _)| std::ptr::eq(*shown, point)) {
            drawing.add(Shape::Circle { x, y, radius: 9.0, color: INK });
        }
        drawing.add(Shape::Circle { x, y, radius: 6.0, color: color(width_of(point.label)) });
    }
    let mut labels = Labels::new(points.iter().map(place).collect(), right);
    for (point, words) in labelled {
        labels.add(&mut drawing, place(point), &words);
    }
    frame::legend(&mut drawing, right, &entries);
    save(&drawing, stem)
}

/// The width that a label such as `384x12` starts with.
fn width_of(label: &str) -> Option<usize> {
    label.split_once('x')?.0.parse().ok()
}

/// The points with a label, and what it says: the most accurate first, then those of `named`.
fn labelled<'a>(points: &'a [Point<'a>], named: &[(&str, &str)]) -> Vec<(&'a Point<'a>, String)> {
    // of equal ones the smallest
    let best = points.iter().reduce(|best, p| if p.percent > best.percent { p } else { best });
    let best = best.map(|best| (best, "best"));
    let named =
        named.iter().filter_map(|(label, name)| Some((points.iter().find(|p| p.label == *label)?, *name)));
    let mut all: Vec<(&Point, Vec<&str>)> = Vec::new();
    for (point, name) in best.into_iter().chain(named) {
        match all.iter_mut().find(|(known, _)| std::ptr::eq(*known, point)) {
            Some((_, names)) => names.push(name),
            None => all.push((point, vec![name])),
        }
    }
    let words = |(point, names): (&'a Point<'a>, Vec<&str>)| {
        (point, format!("{}: {} ({:.1}%)", names.join(", "), point.label, point.percent))
    };
    all.into_iter().map(words).collect()
}

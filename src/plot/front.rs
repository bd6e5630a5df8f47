//! Accuracy over what a network costs, with the networks that none beats in both.

use std::path::Path;

use crate::error::Result;
use crate::plot::axis::Axis;
use crate::plot::drawing::{Color, Drawing, INK, Shape};
use crate::plot::frame::{self, BOTTOM, Entry, LEFT, TOP};
use crate::plot::labels::Labels;
use crate::plot::{SIZE, nothing_to_show, save};

/// Of networks on the front.
const FRONT: Color = [33, 113, 181];
/// Of the others.
const BEATEN: Color = [176, 180, 186];
/// Labels, at most: of the networks on the front as many, evenly, the first and the last among them.
const LABELS: usize = 16;

/// A network in the picture.
#[derive(Clone, Copy, Debug)]
pub struct Priced<'a> {
    /// What it costs, in the unit of the axis.
    pub cost: f64,
    /// 0 to 1.
    pub accuracy: f64,
    /// Its name.
    pub label: &'a str,
    /// Whether no other is both cheaper and as accurate.
    pub on_front: bool,
}

/// Draws accuracies over costs into `<stem>.png` and `<stem>.svg`; those on the front are joined by steps and named. The axis of costs, called
/// `cost`, is logarithmic if they span more than a factor of ten. Points that are not finite, or cost nothing, are left out. An
/// error if none is left, or a file cannot be written.
pub fn accuracy_over_cost(points: &[Priced<'_>], cost: &str, text: &str, stem: &Path) -> Result<()> {
    let mut points: Vec<Priced> = points
        .iter()
        .filter(|p| p.cost.is_finite() && p.cost > 0.0 && p.accuracy.is_finite())
        .copied()
        .collect();
    points.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return Err(nothing_to_show(stem));
    };
    let entries = [("on the front", FRONT), ("others", BEATEN)].map(|(name, color)| Entry {
        name: name.into(),
        color,
        dash: &[],
    });
    let right = frame::right_of(&entries);
    let percents = || points.iter().map(|p| 100.0 * p.accuracy);
    let (low, high) = percents().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p), h.max(p)));
    let x = Axis::of_sizes(first.cost, last.cost, (LEFT, right));
    let y = Axis::linear(low, high, (BOTTOM, TOP));
    let place = |p: &Priced| (x.place(p.cost), y.place(100.0 * p.accuracy));

    let mut drawing = Drawing::new(SIZE);
    frame::title(&mut drawing, text);
    frame::names(&mut drawing, right, cost, "accuracy (%)");
    frame::axes(&mut drawing, right, &x, &y);
    let front: Vec<&Priced> = points.iter().filter(|p| p.on_front).collect();
    // what a budget between two networks buys is the cheaper one
    let mut steps: Vec<(f32, f32)> = Vec::new();
    for at in front.iter().map(|p| place(p)) {
        if let Some(before) = steps.last() {
            steps.push((at.0, before.1));
        }
        steps.push(at);
    }
    if let Some(last) = steps.last() {
        steps.push((right, last.1));
    }
    drawing.add(Shape::Line { points: steps, width: 2.5, dash: &[], color: FRONT });
    for point in points.iter().filter(|p| !p.on_front) {
        let (x, y) = place(point);
        drawing.add(Shape::Circle { x, y, radius: 5.0, color: BEATEN });
    }
    for point in &front {
        let (x, y) = place(point);
        drawing.add(Shape::Circle { x, y, radius: 8.0, color: INK });
        drawing.add(Shape::Circle { x, y, radius: 6.0, color: FRONT });
    }
    let mut labels = Labels::new(points.iter().map(place).collect(), right);
    let count = front.len().min(LABELS);
    let labelled = (0..count).map(|i| front[i * (front.len() - 1) / (count - 1).max(1)]);
    for point in labelled {
        labels.add(&mut drawing, place(point), point.label);
    }
    frame::legend(&mut drawing, right, &entries);
    save(&drawing, stem)
}

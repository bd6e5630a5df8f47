//! Named curves, such as k-NN accuracies over the steps of a run.

use std::path::Path;

use colorous::TABLEAU10;

use crate::error::Result;
use crate::plot::axis::Axis;
use crate::plot::drawing::{Drawing, Shape};
use crate::plot::frame::{self, BOTTOM, Entry, LEFT, TOP};
use crate::plot::{SIZE, nothing_to_show, save};

/// Dashes that tell curves of the same colour apart.
const DASHES: [&[f32]; 4] = [&[], &[12.0, 6.0], &[3.0, 5.0], &[12.0, 5.0, 3.0, 5.0]];
/// A curve of at most so many points shows each of them.
const MARKED: usize = 60;

/// Draws curves, given as (name, points (x, y)), with a legend beside them, into `<stem>.png` and
/// `<stem>.svg`.
///
/// Points are joined in the order given; one that is not finite leaves a gap. An error if no curve has a
/// finite point, or a file cannot be written.
pub fn lines<N: AsRef<str>>(
    series: &[(N, Vec<(f64, f64)>)],
    text: &str,
    x_label: &str,
    y_label: &str,
    stem: &Path,
) -> Result<()> {
    let finite = |p: &&(f64, f64)| p.0.is_finite() && p.1.is_finite();
    let range = |of: fn(&(f64, f64)) -> f64| {
        let values = series.iter().flat_map(|(_, points)| points.iter().filter(finite).map(of));
        values.fold(None, |range, v| {
            let (low, high) = range.unwrap_or((v, v));
            Some((v.min(low), v.max(high)))
        })
    };
    let (Some(x), Some(y)) = (range(|p| p.0), range(|p| p.1)) else { return Err(nothing_to_show(stem)) };
    let entries: Vec<Entry> = series
        .iter()
        .enumerate()
        .map(|(i, (name, _))| Entry {
            name: name.as_ref().to_string(),
            color: TABLEAU10[i % TABLEAU10.len()].into_array(),
            dash: DASHES[i / TABLEAU10.len() % DASHES.len()],
        })
        .collect();
    let right = frame::right_of(&entries);
    let (x, y) = (Axis::linear(x.0, x.1, (LEFT, right)), Axis::linear(y.0, y.1, (BOTTOM, TOP)));

    let mut drawing = Drawing::new(SIZE);
    frame::title(&mut drawing, text);
    frame::names(&mut drawing, right, x_label, y_label);
    frame::axes(&mut drawing, right, &x, &y);
    for ((_, points), entry) in series.iter().zip(&entries) {
        for part in points.split(|p| !finite(&p)) {
            let part: Vec<(f32, f32)> = part.iter().map(|p| (x.place(p.0), y.place(p.1))).collect();
            if points.len() <= MARKED || part.len() == 1 {
                for &(x, y) in &part {
                    drawing.add(Shape::Circle { x, y, radius: 5.0, color: entry.color });
                }
            }
            if part.len() > 1 {
                drawing.add(Shape::Line { points: part, width: 3.0, dash: entry.dash, color: entry.color });
            }
        }
    }
    frame::legend(&mut drawing, right, &entries);
    save(&drawing, stem)
}

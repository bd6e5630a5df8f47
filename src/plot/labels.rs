//! Labels of points: where each of them is free.

use crate::plot::drawing::{Anchor, Drawing, INK, Text};
use crate::plot::font;
use crate::plot::frame::{BOTTOM, LEFT, NUMBER, TOP};

/// A rectangle: its middle, and half of its width and height.
#[derive(Clone, Copy)]
struct Area {
    middle: (f32, f32),
    half: (f32, f32),
}

impl Area {
    fn covers(&self, (x, y): (f32, f32)) -> bool {
        (x - self.middle.0).abs() < self.half.0 && (y - self.middle.1).abs() < self.half.1
    }

    fn meets(&self, other: &Self) -> bool {
        let apart = (self.middle.0 - other.middle.0, self.middle.1 - other.middle.1);
        apart.0.abs() < self.half.0 + other.half.0 && apart.1.abs() < self.half.1 + other.half.1
    }

    /// Its point that is nearest to another.
    fn nearest(&self, (x, y): (f32, f32)) -> (f32, f32) {
        let within = |v: f32, middle: f32, half: f32| v.clamp(middle - half, middle + half);
        (within(x, self.middle.0, self.half.0), within(y, self.middle.1, self.half.1))
    }
}

/// Pixels between the places that are tried for a label.
const STEP: f32 = 10.0;
/// How far off its point a label may be without a line to it.
const NEAR: f32 = 16.0;
/// What it costs to cover a point, in pixels of distance.
const COVERED: f32 = 30.0;

/// The labels of points, each where it is free.
pub struct Labels {
    points: Vec<(f32, f32)>,
    right: f32,
    taken: Vec<Area>,
}

impl Labels {
    /// Labels in the area between the left edge and `right`, of which these points are.
    pub fn new(points: Vec<(f32, f32)>, right: f32) -> Self {
        Self { points, right, taken: Vec::new() }
    }

    /// Adds the label of the point `at`: of the places within the area that no label has, the nearest, where those
    /// count as further off that cover points. Where all is full there is none.
    pub fn add(&mut self, drawing: &mut Drawing, at: (f32, f32), words: &str) {
        let words = font::shortened(words, NUMBER, self.right - LEFT - 24.0);
        let half = (font::width(&words, NUMBER) / 2.0 + 6.0, NUMBER / 2.0 + 5.0);
        let steps = |low: f32, high: f32| {
            let count = ((high - low) / STEP).max(0.0) as usize;
            (0..=count).map(move |i| low + i as f32 * STEP)
        };
        let columns = steps(LEFT + half.0 + 2.0, self.right - half.0 - 2.0);
        let places = columns.flat_map(|x| {
            steps(TOP + half.1 + 2.0, BOTTOM - half.1 - 2.0).map(move |y| Area { middle: (x, y), half })
        });
        let cost = |area: &Area| {
            let covered = self.points.iter().filter(|point| area.covers(**point)).count();
            distance(area.nearest(at), at) + COVERED * covered as f32
        };
        // the point itself stays free, with the ring around it
        let free = |area: &Area| {
            distance(area.nearest(at), at) >= 11.0 && !self.taken.iter().any(|label| label.meets(area))
        };
        let best = places.filter(free).map(|area| (cost(&area), area)).min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, area)) = best else { return };
        if distance(area.nearest(at), at) > NEAR {
            drawing.line(at, area.nearest(at), 1.5, INK);
        }
        let mut text = Text::new(words, area.middle.0, area.middle.1, NUMBER, Anchor::Middle);
        text.rim = true;
        drawing.text(text);
        self.taken.push(area);
    }
}

fn distance(a: (f32, f32), b: (f32, f32)) -> f32 {
    (a.0 - b.0).hypot(a.1 - b.1)
}

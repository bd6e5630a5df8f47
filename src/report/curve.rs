//! A curve of any length in bounded memory: buckets of neighbouring points, of each the lowest and the highest.

use serde_json::{Value, json};

/// Buckets of a curve; each is drawn by two points, so a curve has at most twice as many, and its gaps.
const BUCKETS: usize = 1000;

/// A point: step and value.
type Point = (f64, f64);

/// Neighbouring points.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// The lowest and the highest point; none where no value was finite.
    ends: Option<(Point, Point)>,
    /// Where the last value stood that was not finite.
    gap: Option<f64>,
    /// The step of the first point.
    from: f64,
    points: usize,
}

/// What is kept of a curve. Points come in the order of their steps; one at an earlier step says that the run went back
/// there, and what was behind it is dropped.
#[derive(Clone, Debug)]
pub struct Curve {
    buckets: Vec<Bucket>,
    /// Points that make up a bucket.
    each: usize,
    last: Option<Point>,
}

impl Default for Curve {
    fn default() -> Self {
        Self { buckets: Vec::new(), each: 1, last: None }
    }
}

impl Curve {
    /// Adds a point. A value that is not finite is a gap.
    pub fn add(&mut self, step: f64, value: f64) {
        while self.buckets.last().is_some_and(|bucket| bucket.from >= step) {
            self.buckets.pop();
        }
        let point = (step, value);
        let finite = value.is_finite();
        let new = Bucket {
            ends: finite.then_some((point, point)),
            gap: (!finite).then_some(step),
            from: step,
            points: 1,
        };
        self.last = finite.then_some(point);
        match self.buckets.last_mut() {
            Some(bucket) if bucket.points < self.each => *bucket = joined(*bucket, new),
            _ => self.buckets.push(new),
        }
        if self.buckets.len() > BUCKETS {
            self.buckets =
                self.buckets.chunks(2).filter_map(|pair| pair.iter().copied().reduce(joined)).collect();
            self.each *= 2;
        }
    }

    /// The value that was added last, where it is finite.
    pub fn last(&self) -> Option<f64> {
        self.last.map(|(_, value)| value)
    }

    /// The points that are kept, in the order of their steps; `None` where there is a gap.
    pub fn points(&self) -> Vec<(f64, Option<f64>)> {
        let mut all: Vec<(f64, Option<f64>)> = Vec::new();
        for bucket in &self.buckets {
            let ends = bucket.ends.into_iter().flat_map(|(low, high)| [low, high]);
            all.extend(ends.map(|(step, value)| (step, Some(value))));
            all.extend(bucket.gap.map(|step| (step, None)));
        }
        all.extend(self.last.map(|(step, value)| (step, Some(value))));
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.dedup();
        all
    }

    /// The points as `[[steps], [values]]`, values in six digits and gaps as null.
    pub fn to_json(&self) -> Value {
        let (steps, values): (Vec<f64>, Vec<Option<f64>>) = self.points().into_iter().unzip();
        let steps: Vec<Value> = steps.into_iter().map(whole).collect();
        json!([steps, values.into_iter().map(|value| value.map(short)).collect::<Vec<_>>()])
    }
}

/// Two neighbouring buckets as one.
fn joined(a: Bucket, b: Bucket) -> Bucket {
    let ends = match (a.ends, b.ends) {
        (Some((low, high)), Some((other_low, other_high))) => Some((
            if other_low.1 < low.1 { other_low } else { low },
            if other_high.1 > high.1 { other_high } else { high },
        )),
        (ends, other) => ends.or(other),
    };
    Bucket { ends, gap: b.gap.or(a.gap), from: a.from, points: a.points + b.points }
}

/// A whole number without its `.0`.
fn whole(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 9e15 { json!(x as i64) } else { json!(x) }
}

/// A number in six digits: more cannot be seen.
pub fn short(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_curve_keeps_its_extremes_in_few_points() {
        let mut curve = Curve::default();
        for step in 0..1_000_000 {
            let spike = match step {
                123_457 => 50.0,
                777_777 => -50.0,
                _ => (step as f64 * 1e-3).sin(),
            };
            curve.add(step as f64, spike);
        }
        let points = curve.points();
        assert!((900..=2001).contains(&points.len()), "{}", points.len());
        assert!(points.contains(&(123_457.0, Some(50.0))) && points.contains(&(777_777.0, Some(-50.0))));
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        assert_eq!(points.last().map(|point| point.0), Some(999_999.0));
    }

    #[test]
    fn gaps_stay_and_a_run_that_went_back_begins_there() {
        let mut curve = Curve::default();
        for (step, value) in [(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0), (3.0, 4.0)] {
            curve.add(step, value);
        }
        assert_eq!(curve.points(), [(0.0, Some(1.0)), (1.0, None), (2.0, Some(3.0)), (3.0, Some(4.0))]);
        curve.add(2.0, 7.0);
        assert_eq!(curve.points(), [(0.0, Some(1.0)), (1.0, None), (2.0, Some(7.0))]);
        assert_eq!(curve.to_json(), json!([[0, 1, 2], [1.0, null, 7.0]]));
        let mut long = Curve::default();
        (0..100_000)
            .for_each(|step| long.add(f64::from(step), if step == 500 { f64::INFINITY } else { 1.0 }));
        assert!(long.points().contains(&(500.0, None)));
    }
}

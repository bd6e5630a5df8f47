//! Axes of numbers: where a value lies, which values get a mark, and what stands at it.

/// A range of values laid over a range of pixels.
pub struct Axis {
    /// The values at both ends; `from` < `to`.
    range: (f64, f64),
    /// The pixels at both ends.
    pixels: (f32, f32),
    log: bool,
}

impl Axis {
    /// A linear axis that holds finite values from `low` to `high` with a little room at both ends.
    pub fn linear(low: f64, high: f64, pixels: (f32, f32)) -> Self {
        let room = match high > low {
            true => 0.05 * (high - low),
            // One value alone stands in the middle of a range that its rounding errors do not fill.
            false => (0.05 * high.abs()).max(0.5),
        };
        Self { range: (low - room, high + room), pixels, log: false }
    }

    /// A linear axis that ends at `low` and `high`, which differ.
    pub fn exact(low: f64, high: f64, pixels: (f32, f32)) -> Self {
        Self { range: (low, high), pixels, log: false }
    }

    /// As [`Axis::linear`] for positive values, logarithmic if they span more than a factor of ten.
    pub fn of_sizes(low: f64, high: f64, pixels: (f32, f32)) -> Self {
        if high <= 10.0 * low {
            return Self::linear(low, high, pixels);
        }
        let room = (high / low).powf(0.05);
        Self { range: (low / room, high * room), pixels, log: true }
    }

    /// The pixel of a value.
    pub fn place(&self, value: f64) -> f32 {
        let scale = |v: f64| if self.log { v.ln() } else { v };
        let (from, to) = (scale(self.range.0), scale(self.range.1));
        let share = (scale(value) - from) / (to - from);
        self.pixels.0 + (self.pixels.1 - self.pixels.0) * share as f32
    }

    /// Round values within the range with their texts, about `count` of them.
    pub fn marks(&self, count: usize) -> Vec<(f64, String)> {
        if self.log { self.log_marks() } else { self.linear_marks(count) }
    }

    fn linear_marks(&self, count: usize) -> Vec<(f64, String)> {
        let (from, to) = self.range;
        let rough = (to - from) / count.max(1) as f64;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0].map(|m| m * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * power);
        let first = (from / step).ceil();
        // The count is bounded by construction; the limit keeps ranges beyond the precision of f64 from
        // running on.
        let values = (0..3 * count).map(|i| (first + i as f64) * step).take_while(|v| *v <= to);
        values.map(|v| (v, short(v, step))).collect()
    }

    /// 1, 2 and 5 in every power of ten, or over many of them only 1.
    fn log_marks(&self) -> Vec<(f64, String)> {
        let (from, to) = self.range;
        let (first, last) = (from.log10().floor() as i32, to.log10().ceil() as i32);
        let steps: &[f64] = if last - first > 5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let values = (first..=last).flat_map(|e| steps.iter().map(move |m| m * 10_f64.powi(e)));
        values.filter(|v| (from..=to).contains(v)).map(|v| (v, short(v, v))).collect()
    }
}

/// A value with as many digits as neighbours `step` apart need; thousands as k, millions as M.
pub fn short(value: f64, step: f64) -> String {
    let (scale, unit) = match value.abs().max(step) {
        v if v >= 1e6 && step >= 1e4 => (1e6, "M"),
        v if v >= 1e3 && step >= 1e1 && v >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    let digits = (-(step / scale).log10().floor()).clamp(0.0, 9.0) as usize;
    // Zero has no sign.
    let value = if value == 0.0 { 0.0 } else { value / scale };
    match value == 0.0 {
        true => "0".into(),
        false => format!("{value:.digits$}{unit}"),
    }
}

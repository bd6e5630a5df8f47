//! A profile as a table: kernels (on the CPU: operations) by their share of the time, with rates and how near
//! they are to what the device can do.

use std::collections::HashMap;

use super::{Kind, Profile, Work};

/// The best a device does, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// Floating-point operations per second, single precision.
    pub flops: f64,
    /// Bytes per second of a large copy, read and written.
    pub bytes: f64,
}

impl Ceiling {
    /// The share of the ceiling that `work` in `seconds` is: the time that it needs at least over the time it
    /// took. More than 1 where operands stayed in caches.
    pub fn share(&self, work: Work, seconds: f64) -> f64 {
        (work.flops / self.flops).max(work.bytes / self.bytes) / seconds
    }
}

/// All calls of a kernel, or of an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Kernel; on the CPU the operation, with ` ′` where it is the gradient.
    pub name: String,
    /// Calls.
    pub calls: usize,
    /// Seconds of all.
    pub seconds: f64,
    /// Work of all.
    pub work: Work,
}

impl Profile {
    /// The lines of the table, most seconds first: of the adapter's kernels where they were timed, else of
    /// the host.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines: HashMap<String, Line> = HashMap::new();
        let mut add = |name: String, seconds: f64, work: Work| {
            let line = lines.entry(name.clone()).or_insert_with(|| Line {
                name,
                calls: 0,
                seconds: 0.0,
                work: Work::default(),
            });
            line.calls += 1;
            line.seconds += seconds;
            line.work.flops += work.flops;
            line.work.bytes += work.bytes;
        };
        for kernel in &self.kernels {
            add(kernel.name.clone(), kernel.seconds, kernel.work);
        }
        if self.kernels.is_empty() {
            for span in &self.spans {
                let name = match span.kind {
                    Kind::Phase => format!("({})", span.name),
                    Kind::Forward => span.name.to_string(),
                    Kind::Backward => format!("{} ′", span.name),
                };
                add(name, span.own_seconds, span.work);
            }
        }
        let mut lines: Vec<Line> = lines.into_values().collect();
        lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then_with(|| a.name.cmp(&b.name)));
        lines
    }

    /// The table: what took at least a thousandth of the time, and the rest in one line.
    pub fn table(&self, ceiling: &Ceiling, steps: usize) -> String {
        let lines = self.lines();
        let total: f64 = lines.iter().map(|l| l.seconds).sum();
        let mut text = format!(
            "{} steps, {:.1} ms each; {} {:.1} ms of it. Ceilings: {:.0} GFLOP/s, {:.1} GB/s\n",
            steps,
            1e3 * self.seconds / steps.max(1) as f64,
            if self.kernels.is_empty() { "operations" } else { "kernels" },
            1e3 * total / steps.max(1) as f64,
            ceiling.flops / 1e9,
            ceiling.bytes / 1e9,
        );
        text += &format!(
            "{:<44} {:>7} {:>9} {:>6} {:>9} {:>8} {:>8}\n",
            "", "calls", "ms", "share", "GFLOP/s", "GB/s", "ceiling"
        );
        let (shown, rest): (Vec<_>, Vec<_>) = lines.into_iter().partition(|l| l.seconds >= 1e-3 * total);
        for line in &shown {
            text += &row(line, total, steps, Some(ceiling));
        }
        if !rest.is_empty() {
            let others = Line {
                name: format!("{} others", rest.len()),
                calls: rest.iter().map(|l| l.calls).sum(),
                seconds: rest.iter().map(|l| l.seconds).sum(),
                work: Work::default(),
            };
            text += &row(&others, total, steps, None);
        }
        text
    }
}

fn row(line: &Line, total: f64, steps: usize, ceiling: Option<&Ceiling>) -> String {
    let rate = |amount: f64| match amount > 0.0 && line.seconds > 0.0 {
        true => format!("{:.1}", amount / line.seconds / 1e9),
        false => "–".to_string(),
    };
    let share = match ceiling {
        Some(ceiling) if line.work != Work::default() && line.seconds > 0.0 => {
            format!("{:.0}%", 100.0 * ceiling.share(line.work, line.seconds))
        }
        _ => "–".to_string(),
    };
    let per_step = |x: f64| x / steps.max(1) as f64;
    format!(
        "{:<44} {:>7.0} {:>9.2} {:>5.1}% {:>9} {:>8} {:>8}\n",
        line.name,
        per_step(line.calls as f64),
        1e3 * per_step(line.seconds),
        100.0 * line.seconds / total.max(f64::MIN_POSITIVE),
        rate(line.work.flops),
        rate(line.work.bytes),
        share
    )
}

#[cfg(test)]
mod tests {
    use super::super::KernelRecord;
    use super::*;

    #[test]
    fn kernels_are_summed_by_name_and_held_against_the_ceiling() {
        let kernel = |name: &str, seconds, flops| KernelRecord {
            name: name.into(),
            detail: String::new(),
            start: 0.0,
            seconds,
            work: Work { flops, bytes: 1e6 },
        };
        let profile = Profile {
            seconds: 4e-3,
            spans: vec![],
            kernels: vec![kernel("a", 1e-3, 0.0), kernel("b", 2e-3, 2e7), kernel("a", 1e-3, 0.0)],
        };
        let lines = profile.lines();
        assert_eq!(
            lines.iter().map(|l| (l.name.as_str(), l.calls)).collect::<Vec<_>>(),
            [("a", 2), ("b", 1)]
        );
        let ceiling = Ceiling { flops: 20e9, bytes: 2e9 };
        assert!((ceiling.share(lines[0].work, lines[0].seconds) - 0.5).abs() < 1e-12);
        assert!((ceiling.share(lines[1].work, lines[1].seconds) - 0.5).abs() < 1e-12);
        let table = profile.table(&ceiling, 1);
        assert!(table.contains("4.0 ms each") && table.contains("50%"), "{table}");
    }
}

//! The progress of a run on the terminal: a bar, or plain lines where there is no terminal.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::logging::console::Bar;
use crate::logging::{self, Level};

/// Weight of the newest step in the moving average behind the speed and the time left.
const NEWEST: f64 = 0.1;

/// The numbers of a step whose losses were read back.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// The loss.
    pub loss: f64,
    /// Share of the time so far that was spent waiting for images.
    pub waiting: f64,
}

/// Shows how far a run is, with loss, learning rate, images a second and the time left.
pub struct Progress {
    bar: Option<Bar>,
    /// Whether nothing is shown.
    silent: bool,
    total: usize,
    images: usize,
    last: Instant,
    pace: Pace,
    /// Seconds of the last pause of each kind, by the steps after which it comes again.
    pauses: BTreeMap<usize, f64>,
    summary: String,
    /// Steps done when its numbers were those of the last step; 0 before any.
    summary_of: usize,
}

impl Progress {
    /// A run of `total` steps of `images` images each, `done` of them done before. Without a terminal a line is
    /// shown for every step whose numbers are.
    pub fn new(total: usize, done: usize, images: usize) -> Self {
        let bar = Bar::open();
        if let Some(bar) = &bar {
            bar.set(done, total, String::new());
        }
        Self { bar, silent: false, ..Self::silent(total, images) }
    }

    /// The progress of a rank that shows none.
    pub fn silent(total: usize, images: usize) -> Self {
        Self {
            bar: None,
            silent: true,
            total,
            images,
            last: Instant::now(),
            pace: Pace::default(),
            pauses: BTreeMap::new(),
            summary: String::new(),
            summary_of: 0,
        }
    }

    /// A step is done: `done` steps are now, and these were its numbers (`None` when they were not read back)
    /// and its learning rate.
    pub fn step(&mut self, done: usize, shown: Option<Shown>, lr: f64) {
        let took = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        self.pace.add(took);
        if let Some(Shown { loss, waiting }) = shown {
            let waiting = 100.0 * waiting;
            let pace = self.images_per_second();
            self.summary = format!("loss {loss:.4}  lr {lr:.2e}  {pace:.1} images/s  {waiting:.0}% waiting");
            self.summary_of = done;
        }
        let left = readable(self.left(done));
        match &self.bar {
            // between reports no loss is read back
            Some(bar) if self.summary_of != done && self.summary_of > 0 => {
                bar.set(done, self.total, format!("step {}: {}  {left} left", self.summary_of, self.summary));
            }
            Some(bar) => bar.set(done, self.total, format!("{}  {left} left", self.summary)),
            // the run's log has lines of its own, which are not shown beside these
            None if shown.is_some() && !self.silent => {
                let text = format_args!("step {done}/{}  {}  {left} left", self.total, self.summary);
                logging::show(Level::Info, text);
            }
            None => {}
        }
    }

    /// Whether steps are shown as lines, where there is no bar.
    pub fn has_lines(&self) -> bool {
        self.bar.is_none() && !self.silent
    }

    /// Images a second of late; 0 before the first step.
    pub fn images_per_second(&self) -> f64 {
        self.pace.seconds().map_or(0.0, |seconds| self.images as f64 / seconds.max(1e-9))
    }

    /// What was done since the last step, and is done again every so many steps (0: never again), is not
    /// counted as part of the next one, but in the time left.
    pub fn pause_over(&mut self, every: usize) {
        if every > 0 {
            self.pauses.insert(every, self.last.elapsed().as_secs_f64());
        }
        self.last = Instant::now();
    }

    /// Removes the bar, at the end or before an error is shown.
    pub fn finish(&mut self) {
        self.bar = None;
    }

    /// Time left after `done` steps, with the pauses to come.
    pub fn left(&self, done: usize) -> Duration {
        let steps = self.total.saturating_sub(done);
        let pauses: f64 = self.pauses.iter().map(|(every, seconds)| (steps / every) as f64 * seconds).sum();
        let seconds = steps as f64 * self.pace.seconds().unwrap_or(0.0) + pauses;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// Moving average of the duration of a step.
///
/// Single durations mean little: a step is settled while the next one is under way, so the first of a process is told
/// after the time of two and the last one at once. Sums of several are right.
#[derive(Default)]
struct Pace {
    /// Seconds, and steps that took them; both fade.
    sum: (f64, f64),
    /// The share of the first step of this process in them, in which pipelines are built and memory is taken: it
    /// counts until there are two more.
    first: (f64, f64),
    steps: usize,
}

impl Pace {
    fn add(&mut self, seconds: f64) {
        let keep = 1.0 - NEWEST;
        self.sum = (keep * self.sum.0 + seconds, keep * self.sum.1 + 1.0);
        self.first = if self.steps == 0 { self.sum } else { (keep * self.first.0, keep * self.first.1) };
        self.steps += 1;
        if self.steps == 3 {
            self.sum = (self.sum.0 - self.first.0, self.sum.1 - self.first.1);
        }
    }

    /// Seconds of a step, once there was one.
    fn seconds(&self) -> Option<f64> {
        (self.steps > 0).then(|| self.sum.0.max(0.0) / self.sum.1)
    }
}

/// A duration such as `2d 03h`, `1h 05m`, `3m 20s` or `12s`.
pub fn readable(duration: Duration) -> String {
    let s = duration.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d {:02}h", s / 86_400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_settled_at_once_is_no_fast_one() {
        let rate = |seconds: &[f64]| {
            let mut pace = Pace::default();
            seconds.iter().for_each(|seconds| pace.add(*seconds));
            pace.seconds()
        };
        assert_eq!(rate(&[]), None);
        // two steps of a process, settled after the second
        let two = rate(&[2.0, 0.0]).unwrap();
        assert!((0.8..1.2).contains(&two), "{two}");
        // the first one, which is slow, counts until there are two others
        let three = rate(&[30.0, 1.0, 1.0]).unwrap();
        assert!((three - 1.0).abs() < 1e-9, "{three}");
        let later = rate(&[30.0, 1.0, 1.0, 1.0, 1.0, 0.0, 2.0, 1.0]).unwrap();
        assert!((0.9..1.2).contains(&later), "{later}");
    }
}

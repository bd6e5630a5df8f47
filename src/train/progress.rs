//! The progress of a run on the terminal: a bar, or plain lines where there is no terminal.

use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Weight of the newest step in the moving average behind the speed and the time left.
const NEWEST: f64 = 0.1;

/// Shows how far a run is, with loss, learning rate, images a second and the time left.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: usize,
    every: usize,
    images: usize,
    last: Instant,
    /// Moving average of the duration of a step, in seconds.
    pace: Option<f64>,
    summary: String,
}

impl Progress {
    /// A run of `total` steps of `images` images each, `done` of them done before; without a terminal a line is
    /// printed every `every` steps.
    pub fn new(total: usize, done: usize, images: usize, every: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr_with_hz(10));
            bar.set_style(style());
            bar.set_position(done as u64);
            bar
        });
        Self {
            bar,
            total,
            every: every.max(1),
            images,
            last: Instant::now(),
            pace: None,
            summary: String::new(),
        }
    }

    /// A step is done: `done` steps are now, and this was its loss and learning rate (`None` when the loss was not
    /// read back).
    pub fn step(&mut self, done: usize, loss: Option<f64>, lr: f64) {
        let took = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        self.pace = Some(self.pace.map_or(took, |pace| pace + NEWEST * (took - pace)));
        if let Some(loss) = loss {
            self.summary = format!("loss {loss:.4}  lr {lr:.2e}  {:.1} images/s", self.images_per_second());
        }
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("{}  {} left", self.summary, readable(self.left(done))));
                bar.set_position(done as u64);
            }
            None if done.is_multiple_of(self.every) || done == self.total => {
                let left = readable(self.left(done));
                eprintln!("step {done}/{}  {}  {left} left", self.total, self.summary);
            }
            None => {}
        }
    }

    /// Images a second of late; 0 before the first step.
    pub fn images_per_second(&self) -> f64 {
        self.pace.map_or(0.0, |pace| self.images as f64 / pace.max(1e-9))
    }

    /// What was done since the last step is not counted as part of the next one.
    pub fn pause_over(&mut self) {
        self.last = Instant::now();
    }

    /// Prints a line above the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// Removes the bar, at the end or before an error is shown.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn left(&self, done: usize) -> Duration {
        let seconds = self.total.saturating_sub(done) as f64 * self.pace.unwrap_or(0.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {share}  {msg}");
    let share = |state: &ProgressState, out: &mut dyn Write| {
        // A full disk or closed terminal shows elsewhere; a bar may miss a number.
        let _ = write!(out, "{:3.0}%", 100.0 * state.fraction());
    };
    style.map_or_else(|_| ProgressStyle::default_bar(), |style| style.with_key("share", share))
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

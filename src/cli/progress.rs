//! The progress of evaluations on the terminal.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Seconds between lines where there is no terminal.
const LINE_EVERY: f64 = 10.0;

/// Shows (what, done, of how many): a bar on a terminal, a line now and then elsewhere, nothing where `quiet`.
pub(super) fn bar(quiet: bool) -> impl FnMut(&str, usize, usize) {
    let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}  {eta} left");
        bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let mut last = Instant::now();
    move |what, done, total| match &bar {
        Some(bar) => {
            bar.set_length(total as u64);
            bar.set_message(what.to_string());
            bar.set_position(done as u64);
            if done == total {
                bar.finish_and_clear();
            }
        }
        None if !quiet && last.elapsed().as_secs_f64() > LINE_EVERY => {
            last = Instant::now();
            eprintln!("{what}: {done} of {total}");
        }
        None => {}
    }
}

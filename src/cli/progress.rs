//! The progress of evaluations on the terminal.

use std::time::Instant;

use crate::logging;
use crate::logging::console::Bar;
use crate::train::progress::readable;

/// Seconds between lines where there is no terminal.
const LINE_EVERY: f64 = 10.0;

/// Shows (what, done, of how many): a bar on a terminal, a line now and then elsewhere.
pub(super) fn bar() -> impl FnMut(&str, usize, usize) {
    let bar = Bar::open();
    let (mut began, mut last) = (Instant::now(), Instant::now());
    let mut before = (String::new(), 0);
    move |what, done, total| match &bar {
        Some(bar) => {
            // a new part has a pace of its own
            if before.0 != what || done < before.1 {
                (began, before.0) = (Instant::now(), what.to_string());
            }
            before.1 = done;
            let left = began.elapsed().mul_f64(total.saturating_sub(done) as f64 / done.max(1) as f64);
            bar.set(done, total, format!("{what}  {} left", readable(left)));
        }
        None if last.elapsed().as_secs_f64() > LINE_EVERY => {
            last = Instant::now();
            logging::info(format_args!("{what}: {done} of {total}"));
        }
        None => {}
    }
}

//! The threads of this device's kernels: rayon's global pool, which is built once in a process.

use std::error::Error as _;
use std::io;
use std::sync::OnceLock;

use crate::error::{Error, Result};
use crate::logging;

/// The variable that says how many threads there are.
const VARIABLE: &str = "RAYON_NUM_THREADS";
/// Threads a core at most, and threads in any case.
const MOST: (usize, usize) = (8, 16);

/// Starts the threads, if they do not run yet: as many as the machine has cores, or as the variable
/// `RAYON_NUM_THREADS` says within reason. Without this rayon would start them when the first work comes, and
/// panic where it cannot.
pub fn start_threads() -> Result<()> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let wish = std::env::var_os(VARIABLE).map(|text| text.to_string_lossy().into_owned());
        let (count, warning) = count(wish.as_deref(), cores);
        if let Some(warning) = warning {
            logging::warn(warning);
        }
        match rayon::ThreadPoolBuilder::new().num_threads(count).build_global() {
            Ok(()) => Ok(()),
            Err(e) => match e.source().and_then(|e| e.downcast_ref::<io::Error>()) {
                Some(e) => Err(format!("{count} threads {}, or set {VARIABLE} to fewer", why_not(e))),
                // an application has a pool of its own, which serves as well
                None => Ok(()),
            },
        }
    });
    started.clone().map_err(Error::Device)
}

/// The error of a thread that the system does not start.
pub fn no_thread(e: &io::Error) -> Error {
    Error::Device(format!("a thread {}", why_not(e)))
}

fn why_not(e: &io::Error) -> String {
    format!(
        "cannot be started: {e}; raise the limits of this process (ulimit -u: processes, ulimit -v: memory)"
    )
}

/// How many threads to start on so many cores, and what is wrong with what was asked for.
fn count(wish: Option<&str>, cores: usize) -> (usize, Option<String>) {
    let most = (MOST.0 * cores).max(MOST.1);
    match wish.map(str::trim).filter(|text| !text.is_empty()) {
        None => (cores, None),
        Some(text) => match text.parse::<usize>() {
            Ok(0) => (cores, None),
            Ok(n) if n <= most => (n, None),
            Ok(_) => {
                (most, Some(format!("{VARIABLE}={text} is far more than the {cores} cores; {most} are used")))
            }
            Err(_) => (
                cores,
                Some(format!(
                    "{VARIABLE}=\"{}\" is no number of threads; {cores} are used",
                    text.escape_debug()
                )),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_followed_within_reason() {
        for (wish, threads, warns) in [
            (None, 4, false),
            (Some(""), 4, false),
            (Some("0"), 4, false),
            (Some("3"), 3, false),
            (Some("32"), 32, false),
            (Some("100000"), 32, true),
            (Some("-1"), 4, true),
            (Some("many"), 4, true),
            (Some("99999999999999999999999"), 4, true),
        ] {
            let (n, warning) = count(wish, 4);
            assert_eq!((n, warning.is_some()), (threads, warns), "{wish:?}");
        }
        assert_eq!(count(Some("16"), 1), (16, None));
    }
}

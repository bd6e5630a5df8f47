//! Ctrl-C and its like. A signal that was ignored when the program was started (`nohup`, `&` in a script) stays
//! ignored. The others end the program at once, with the exit status that shells report for them, but for
//! commands with something to save: there the first one is a wish, and the second ends at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Interruption, Result};
use crate::logging;
use crate::stop::Stop;

/// What signals do.
pub(super) struct Signals {
    stop: Stop,
    /// Whether the next one ends the program at once.
    at_once: Arc<AtomicBool>,
}

impl Signals {
    /// From now on signals end the program with a status of their own.
    pub(super) fn catch() -> Result<Self> {
        let signals = Self { stop: Stop::new(), at_once: Arc::new(AtomicBool::new(true)) };
        match signals.register() {
            Ok(()) => Ok(signals),
            Err(problem) => Err(Error::Usage(format!("signals cannot be caught: {problem}"))),
        }
    }

    /// The wish to end that signals make.
    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// From now on the first signal is a wish alone, which the caller has to look at.
    pub(super) fn orderly(&self) -> &Stop {
        self.at_once.store(false, Ordering::Relaxed);
        &self.stop
    }

    #[cfg(unix)]
    fn register(&self) -> std::io::Result<()> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        use signal_hook::low_level;

        let all = [
            (SIGINT, Interruption::Interrupt),
            (SIGTERM, Interruption::Terminate),
            (SIGHUP, Interruption::Hangup),
        ];
        let mut caught = Vec::new();
        for (signal, why) in all {
            if is_ignored(signal)? {
                continue;
            }
            let (stop, at_once) = (self.stop.clone(), self.at_once.clone());
            // in the handler itself: the second one ends even a program that hangs. Two may be handled by two threads at
            // the same moment: one swap says which is the second
            let handler = move || {
                if at_once.swap(true, Ordering::SeqCst) {
                    low_level::exit(why.exit_status().into());
                }
                stop.ask(why);
            };
            // SAFETY: the handler exchanges and stores atomic numbers and may end the process, all of which a handler may.
            unsafe { low_level::register(signal, handler) }?;
            caught.push(signal);
        }
        let mut news = signal_hook::iterator::Signals::new(caught)?;
        let watcher = std::thread::Builder::new().name("signals".into());
        // where no thread can be had nothing is said
        let _ = watcher.spawn(move || {
            if news.forever().next().is_some() {
                acknowledge();
            }
        });
        Ok(())
    }

    #[cfg(not(unix))]
    fn register(&self) -> Result<(), ctrlc::Error> {
        let (stop, at_once) = (self.stop.clone(), self.at_once.clone());
        ctrlc::set_handler(move || {
            if at_once.swap(true, Ordering::Relaxed) {
                std::process::exit(Interruption::Interrupt.exit_status().into());
            }
            stop.ask(Interruption::Interrupt);
            acknowledge();
        })
    }
}

fn acknowledge() {
    logging::info("\nending, what is done is kept; once more ends at once");
}

/// Whether a signal was ignored when the program was started.
#[cfg(unix)]
fn is_ignored(signal: i32) -> std::io::Result<bool> {
    let mut before = std::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action nothing is changed; the old one is written to a place of its type.
    if unsafe { libc::sigaction(signal, std::ptr::null(), before.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded and written it.
    Ok(unsafe { before.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

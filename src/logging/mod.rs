//! Messages: all that the library and the program say to a person goes one way.
//!
//! ```text
//! warn("...") on a run's thread ──> the run's sinks (train.log) ──┐
//! warn("...") elsewhere ──────────────────────────────────────────┴─> the `log` crate ──> the program's console
//! ```
//! The library installs nothing: its messages are records of the `log` crate with the target `poa_gpu`, for
//! whatever logger an application has, or none. The program installs the [`console`]. What is told with which
//! level:
//!
//! | level | what |
//! |---|---|
//! | error | why something ended |
//! | warn | what a person should look at; quiet programs show it too |
//! | info | what a person who watches wants to know |
//! | debug | what `train.log` keeps beside that: devices, numbers of each report |
//! | trace | the single steps of the engine |

pub mod console;

use std::cell::RefCell;
use std::fmt::Display;
use std::rc::{Rc, Weak};

pub use log::Level;

/// The target of this library's records.
pub const TARGET: &str = "poa_gpu";

/// Takes the messages of a thread before they are shown: a run, for its log.
pub trait Listener {
    /// A message, which the listener passes on to [`show`].
    fn message(&self, level: Level, text: &str);
}

thread_local! {
    /// The runs of this thread, the newest last.
    static LISTENERS: RefCell<Vec<Weak<dyn Listener>>> = const { RefCell::new(Vec::new()) };
}

/// Hands this thread's messages to a listener for as long as it lives, or until another one is attached.
pub fn attach<L: Listener + 'static>(listener: &Rc<L>) {
    let listener: Rc<dyn Listener> = listener.clone();
    LISTENERS.with_borrow_mut(|all| {
        all.retain(|known| known.strong_count() > 0);
        all.push(Rc::downgrade(&listener));
    });
}

/// Something that a person should look at.
pub fn warn(text: impl Display) {
    message(Level::Warn, text);
}

/// Something that a person who watches wants to know.
pub fn info(text: impl Display) {
    message(Level::Info, text);
}

/// Something for the log of a run.
pub fn debug(text: impl Display) {
    message(Level::Debug, text);
}

/// A message: to the thread's listener, or else to whatever logger there is.
pub fn message(level: Level, text: impl Display) {
    let listener = LISTENERS.with_borrow(|all| all.iter().rev().find_map(Weak::upgrade));
    match listener {
        Some(listener) => listener.message(level, &text.to_string()),
        None => show(level, text),
    }
}

/// A message to whatever logger there is, past the thread's listener.
pub fn show(level: Level, text: impl Display) {
    log::log!(target: TARGET, level, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard(RefCell<Vec<String>>);

    impl Listener for Heard {
        fn message(&self, level: Level, text: &str) {
            self.0.borrow_mut().push(format!("{level} {text}"));
        }
    }

    #[test]
    fn the_newest_listener_of_the_thread_gets_its_messages_while_it_lives() {
        warn("nobody listens");
        let outer = Rc::new(Heard::default());
        attach(&outer);
        warn("one");
        let inner = Rc::new(Heard::default());
        attach(&inner);
        info("two");
        std::thread::spawn(|| warn("another thread's")).join().unwrap();
        drop(inner);
        debug("three");
        assert_eq!(*outer.0.borrow(), ["WARN one", "DEBUG three"]);
    }
}

//! Panics of libraries that are foreseen, as those of decoders that hostile files cause and that of a graphics
//! library whose adapter is gone: a fault of what was asked, not the end of a run.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What a call returns; nothing where it panics. What the call was changing is not to be used after that.
pub fn guarded<T>(call: impl FnOnce() -> T) -> Option<T> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(before);
    result.ok()
}

/// Whether a panic of this thread would be a foreseen one, which is caught and told as an error. A program's
/// panic hook has nothing to say of it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreseen_panic_is_known_for_one_and_ends_nothing() {
        assert!(!is_guarded());
        assert_eq!(guarded(is_guarded), Some(true));
        // without the message that a test's hook would print
        assert_eq!(guarded(|| std::panic::resume_unwind(Box::new(()))), None::<()>);
        assert!(!is_guarded());
    }
}

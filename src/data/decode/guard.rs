//! Panics of the decoders, which hostile files have been known to cause: a damaged file, not the end of a run.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What a decoder returns; nothing where it panics.
pub(super) fn guarded<T>(decoder: impl FnOnce() -> T) -> Option<T> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(decoder));
    GUARDED.set(before);
    result.ok()
}

/// Whether a panic of this thread would be a decoder's, which is caught and told as a fault of its file. A
/// program's panic hook has nothing to say of it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_a_decoder_is_known_for_one_and_ends_nothing() {
        assert!(!is_guarded());
        assert_eq!(guarded(is_guarded), Some(true));
        // without the message that a test's hook would print
        assert_eq!(guarded(|| std::panic::resume_unwind(Box::new(()))), None::<()>);
        assert!(!is_guarded());
    }
}

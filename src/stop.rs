//! The wish that something long ends: of a signal, or of the program. What takes long looks at it between its
//! pieces, and leaves with what [`Stop::check`] returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::{Error, Interruption, Result};

/// How long to wait for something that may never come before the wish is looked at again.
pub const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whether, and why, to end. Copies share the wish; once there, it stays.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// No wish yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wishes for an end.
    pub fn ask(&self, why: Interruption) {
        self.0.store(why.signal(), Ordering::Relaxed);
    }

    /// Why to end; none to go on.
    pub fn asked(&self) -> Option<Interruption> {
        let signal = self.0.load(Ordering::Relaxed);
        Interruption::ALL.into_iter().find(|why| why.signal() == signal)
    }

    /// An error where an end is wished for.
    pub fn check(&self) -> Result<()> {
        self.asked().map_or(Ok(()), |why| Err(Error::Interrupted(why)))
    }

    /// Where a signal's handler stores [`Interruption::signal`].
    pub fn flag(&self) -> &Arc<AtomicUsize> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_the_wish() {
        let stop = Stop::new();
        let copy = stop.clone();
        assert!(copy.check().is_ok());
        stop.ask(Interruption::Terminate);
        assert!(matches!(copy.check(), Err(Error::Interrupted(Interruption::Terminate))));
        assert_eq!(copy.check().unwrap_err().exit_status(), 143);
        for why in Interruption::ALL {
            stop.ask(why);
            assert_eq!(copy.asked(), Some(why));
            assert!(why == Interruption::Asked || why.exit_status() as usize == 128 + why.signal());
        }
    }
}

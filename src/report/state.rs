//! Whether a run is on.

use std::fs::{File, TryLockError};
use std::io::Read;
use std::path::Path;

use crate::files::regular::open_regular;

/// Whether a process trains in a run's folder now. The lock is looked at where a note says that somebody may have it,
/// and so a run that begins meanwhile is not in anybody's way.
pub fn is_running(dir: &Path) -> bool {
    let Ok(mut file) = open_regular(dir.join("run.lock")) else { return false };
    let mut note = [0; 8];
    file.read_exact(&mut note).is_ok() && note == *b"process " && is_held(&file)
}

fn is_held(file: &File) -> bool {
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => true,
        // it was nobody's: a process that was killed left its note
        Ok(()) => {
            let _ = file.unlock();
            false
        }
        Err(TryLockError::Error(_)) => false,
    }
}

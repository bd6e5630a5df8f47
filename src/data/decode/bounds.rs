//! What an image may take: pixels, bytes, and the memory of one large one at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::data::bad_samples::{BadKind, Fault};
use crate::data::reading::Reading;

/// Bytes that a file of so many pixels may have for each of them, and beside them.
const FILE_BYTES: (u64, u64) = (8, 64 << 20);

/// Pixels from which on images are decoded one at a time.
const LARGE: u64 = 1 << 26;

/// Checks that a file is not larger than any image that is allowed, before it is read.
pub fn check_bytes(bytes: u64, reading: &Reading) -> Result<(), Fault> {
    if bytes > reading.max_pixels.saturating_mul(FILE_BYTES.0).saturating_add(FILE_BYTES.1) {
        let most = reading.max_pixels;
        let reason = format!("has {bytes} bytes, more than an image of data.max_pixels = {most} needs");
        return Err(Fault::new(BadKind::TooLarge, reason));
    }
    Ok(())
}

/// Checks that an image has pixels, and not more than are allowed.
pub(super) fn check_size(width: u32, height: u32, reading: &Reading) -> Result<(), Fault> {
    if width == 0 || height == 0 {
        return Err(Fault::new(BadKind::Empty, "has no pixels"));
    }
    if u64::from(width) * u64::from(height) > reading.max_pixels {
        let limit = reading.max_pixels;
        let reason = format!("is {width}×{height}, and data.max_pixels is {limit}");
        return Err(Fault::new(BadKind::TooLarge, reason));
    }
    Ok(())
}

/// Waits for a large image's turn, so that several threads do not take the memory for several at once.
pub(super) fn turn(width: u32, height: u32) -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let large = u64::from(width) * u64::from(height) >= LARGE;
    large.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

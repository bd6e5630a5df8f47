//! Images in the making while the device is busy with the ones before.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};

use crate::cpu::no_thread;
use crate::error::{Error, Result};
use crate::stop::{LOOK_EVERY, Stop};

/// Makes `count` parts in a thread of its own, at most `waiting` of which wait to be taken, and hands them
/// over in order. Ends with an error as soon as `stop` wishes for it, even while a part does not come. `of` is
/// what the parts are made of, in messages.
pub(crate) fn ahead<T: Send + 'static>(
    (count, waiting): (usize, usize),
    stop: &Stop,
    of: &str,
    make: impl Fn(usize) -> T + Send + 'static,
    mut take: impl FnMut(T) -> Result<()>,
) -> Result<()> {
    let failed = |problem: String| Error::file(of, problem);
    let (sender, receiver) = sync_channel(waiting);
    let maker = std::thread::Builder::new().name("images".into()).spawn(move || {
        for i in 0..count {
            if sender.send(make(i)).is_err() {
                return; // the other side has failed
            }
        }
    });
    let maker = maker.map_err(|e| no_thread(&e))?;
    let taken = loop {
        let received = receiver.recv_timeout(LOOK_EVERY);
        // the thread is left behind then: it may wait for a disk that does not answer
        stop.check()?;
        match received.map(&mut take) {
            Ok(Ok(())) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Err(e)) => break Err(e),
            Err(RecvTimeoutError::Disconnected) => break Ok(()),
        }
    };
    drop(receiver);
    if matches!(taken, Err(Error::Interrupted(_))) {
        return taken;
    }
    match maker.join() {
        Ok(()) => taken,
        Err(_) => Err(failed("decoding stopped on an internal error (see above)".into())),
    }
}

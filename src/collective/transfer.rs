//! Bytes on their way by MPI: the calls that send, receive and ask.

use std::collections::VecDeque;
use std::ffi::{c_char, c_int, c_void};

use mpi::ffi;

use crate::error::{Error, Result};
use crate::memory::attempt;

/// Bytes of a piece at most. MPI counts in `int`; each piece that is done shows that there is progress; and smaller ones
/// stay in a processor's cache from sender to receiver.
const PIECE: usize = 512 << 10;

/// What a call of MPI returned: an error says what MPI says of it.
pub(super) fn check(code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // longer than any MPI's longest text
    let mut text = [0u8; 8192];
    let mut length: c_int = 0;
    // SAFETY: both places are there to be written to, and MPI is initialised, as it has returned the code.
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast::<c_char>(), &raw mut length) };
    let text = text.split(|b| *b == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    Err(Error::Ranks(format!(
        "MPI reports error {code}: {}; all ranks end, go on with --resume",
        text.trim()
    )))
}

/// A message in pieces on their way to or from one rank.
#[derive(Default)]
pub(super) struct Transfer {
    /// The pieces that are not done, in their order.
    requests: VecDeque<ffi::MPI_Request>,
}

impl Transfer {
    /// Begins to send bytes to a rank.
    ///
    /// # Safety
    /// The bytes stay where they are and as they are until the transfer is done. MPI is initialised, and called
    /// by this thread alone.
    pub(super) unsafe fn send(&mut self, bytes: &[u8], to: usize, tag: c_int) -> Result<()> {
        for piece in bytes.chunks(PIECE) {
            // SAFETY: a constant of the library.
            let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
            // SAFETY: the caller keeps the bytes, of which a piece is within the range of an `int`.
            let code = unsafe {
                ffi::MPI_Isend(
                    piece.as_ptr().cast::<c_void>(),
                    piece.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    to as c_int,
                    tag,
                    ffi::RSMPI_COMM_WORLD,
                    &raw mut request,
                )
            };
            check(code)?;
            self.requests.push_back(request);
        }
        Ok(())
    }

    /// Begins to receive so many bytes of a rank into the room behind what `bytes` holds, which is made first.
    ///
    /// # Safety
    /// The vector's memory stays where it is, and nobody else uses this room, until the transfer is done. MPI is
    /// initialised, and called by this thread alone.
    pub(super) unsafe fn receive(
        &mut self,
        bytes: &mut Vec<u8>,
        length: usize,
        from: usize,
        tag: c_int,
    ) -> Result<()> {
        attempt(|| bytes.try_reserve_exact(length)).map_err(|_| {
            Error::Ranks(format!("there is no memory for a message of {length} bytes from rank {from}"))
        })?;
        for piece in bytes.spare_capacity_mut()[..length].chunks_mut(PIECE) {
            // SAFETY: a constant of the library.
            let mut request = unsafe { ffi::RSMPI_REQUEST_NULL };
            // SAFETY: the caller keeps the room, of which a piece is within the range of an `int`.
            let code = unsafe {
                ffi::MPI_Irecv(
                    piece.as_mut_ptr().cast::<c_void>(),
                    piece.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    from as c_int,
                    tag,
                    ffi::RSMPI_COMM_WORLD,
                    &raw mut request,
                )
            };
            check(code)?;
            self.requests.push_back(request);
        }
        Ok(())
    }

    /// Whether all of it is done.
    pub(super) fn is_done(&self) -> bool {
        self.requests.is_empty()
    }

    /// Asks MPI, which works while it is asked; true where a piece more is done.
    pub(super) fn advance(&mut self) -> Result<bool> {
        let before = self.requests.len();
        while let Some(request) = self.requests.front_mut() {
            let mut done: c_int = 0;
            // SAFETY: the request is one that was begun, and both places are there to be written to.
            let code = unsafe { ffi::MPI_Test(&raw mut *request, &raw mut done, ffi::RSMPI_STATUS_IGNORE) };
            check(code)?;
            if done == 0 {
                break;
            }
            self.requests.pop_front();
        }
        Ok(self.requests.len() < before)
    }
}

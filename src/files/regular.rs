//! Files that are opened for reading: regular ones alone. A pipe would be waited for without end, and a device
//! such as `/dev/zero` never ends.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// Opens a file; what is no regular file (or a link to one) is an error that says what it is.
pub fn open_regular(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    // looked at before it is opened, since opening a pipe waits for its writer
    demand_regular(path)?;
    File::open(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))
}

/// The size of a regular file (or of what a link leads to), in bytes; anything else is an error that says what
/// it is.
pub fn demand_regular(path: impl AsRef<Path>) -> Result<u64> {
    let path = path.as_ref();
    let found = std::fs::metadata(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    match found.is_file() {
        true => Ok(found.len()),
        false => Err(Error::file(path, format!("is {}, not a file", kind(&found)))),
    }
}

/// The text of a regular file of at most `most` bytes.
pub fn read_text(path: impl AsRef<Path>, most: u64) -> Result<String> {
    let path = path.as_ref();
    let mut bytes = Vec::new();
    let read = open_regular(path)?.take(most + 1).read_to_end(&mut bytes);
    read.map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > most {
        return Err(Error::file(path, format!("is longer than {most} bytes, which makes no sense for it")));
    }
    String::from_utf8(bytes).map_err(|_| Error::file(path, "is no text (not valid UTF-8)"))
}

/// What something is that is no regular file.
fn kind(found: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = found.file_type();
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
        if kind.is_socket() {
            return "a socket";
        }
    }
    if found.is_dir() { "a folder" } else { "something special" }
}

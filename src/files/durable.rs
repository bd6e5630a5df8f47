//! Files that are whole or not there: durable writes, atomic replacement, checksums.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::own::{create_own, tell_replaced};
use super::regular::open_regular;
use crate::error::{Error, Result};

/// Size and checksum of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Bytes.
    pub bytes: u64,
    /// CRC-32C of the content.
    pub crc32c: u32,
}

/// Writes a file and forces it to disk.
pub(super) fn write_durably(path: &Path, content: &[u8]) -> Result<()> {
    let written = create_own(path).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    written.map_err(|e| Error::file(path, format!("cannot be written: {e}")))
}

/// Writes a file so that a reader finds the old content or the new, whole, whenever the program ends.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    let partial = beside(path, ".partial");
    write_durably(&partial, content)?;
    tell_replaced(path);
    fs::rename(&partial, path).map_err(|e| Error::file(path, format!("cannot be replaced: {e}")))?;
    let parent = folder_of(path);
    sync_dir(parent).map_err(|e| Error::file(parent, format!("cannot be synchronised: {e}")))
}

/// The folder that a path lies in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path with something added to its last name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_os_string();
    path.push(suffix);
    path.into()
}

/// Makes the entries of a folder durable; only Unix can.
pub(super) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Size and checksum of a file on disk, of at most its first `most` bytes.
pub(super) fn sum_of(path: &Path, most: u64) -> Result<FileSum> {
    let mut file = open_regular(path)?.take(most);
    let mut buffer = vec![0; 1 << 20];
    let mut sum = FileSum { bytes: 0, crc32c: 0 };
    loop {
        let read = file.read(&mut buffer);
        match read.map_err(|e| Error::file(path, format!("cannot be read: {e}")))? {
            0 => return Ok(sum),
            n => {
                sum.crc32c = crc32c::crc32c_append(sum.crc32c, &buffer[..n]);
                sum.bytes += n as u64;
            }
        }
    }
}

/// A writer that keeps the size and checksum of what went through it.
pub(super) struct Summed<W> {
    inner: W,
    sum: FileSum,
}

impl<W: Write> Summed<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, sum: FileSum { bytes: 0, crc32c: 0 } }
    }

    pub(super) fn into_parts(self) -> (W, FileSum) {
        (self.inner, self.sum)
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(buffer)?;
        self.sum.crc32c = crc32c::crc32c_append(self.sum.crc32c, &buffer[..n]);
        self.sum.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

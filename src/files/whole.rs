//! Results of commands: files that appear under their names when they are whole. Until then, and where writing fails
//! or the program is killed, the name keeps what it had; what was begun is called `NAME.partial`, and is replaced the
//! next time.

use std::fs;
use std::path::{Path, PathBuf};

use super::durable::{beside, folder_of, sync_dir};
use super::own::target;
use crate::error::{Error, Result};
use crate::shown::shown;

/// What a file is called until it is whole.
pub fn partial_of(path: &Path) -> PathBuf {
    // without a slash at its end
    beside(path.components().as_path(), ".partial")
}

/// Writes a file under another name, which `write` gets, and gives it its own when it is whole.
pub fn write_whole<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let path = &destination(path)?;
    let partial = partial_of(path);
    let done = write(&partial).and_then(|done| put_in_place(&partial, path).map(|()| done));
    if done.is_err() {
        // where this fails too it is replaced the next time
        let _ = fs::remove_file(&partial);
    }
    done
}

/// Gives a file that is whole its own name.
pub fn put_in_place(partial: &Path, path: &Path) -> Result<()> {
    fs::rename(partial, path).map_err(|e| Error::file(path, format!("cannot be written: {e}")))?;
    // the file is whole; not every file system lets its folder be forced to disk
    let _ = sync_dir(folder_of(path));
    Ok(())
}

/// Where a file that is to be called `path` belongs. A link, a folder, a device or a pipe is no place for it, nor is a
/// folder that does not exist.
pub fn destination(path: &Path) -> Result<PathBuf> {
    let folder = folder_of(path);
    if !folder.is_dir() {
        return Err(Error::file(path, format!("cannot be written: there is no folder {}", shown(folder))));
    }
    if path.is_symlink() {
        let problem =
            format!("is a link{}, and links are not written through; give another name", target(path));
        return Err(Error::file(path, problem));
    }
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            Err(Error::file(path, "is a folder, and a file is to be written; give a name in it"))
        }
        Ok(meta) if !meta.is_file() => Err(Error::file(
            path,
            "is no file but a device or a pipe; the result is written to a file and renamed",
        )),
        _ => Ok(path.to_path_buf()),
    }
}

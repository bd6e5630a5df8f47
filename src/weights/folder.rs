//! The folder of a network: its files are whole or not there, and belong together.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::files::own::create_own;
use crate::files::whole::{partial_of, put_in_place};

/// Writes the files `names` to the folder `dir`: `write` gets the folder where each of them is to be written under the name
/// [`partial_of`] gives. A folder that is new appears under its name when all are whole; one that exists keeps what it has
/// until then, and other files in any case, but for `outdated` ones, which would not fit the new.
pub(super) fn write_folder(
    dir: &Path,
    names: &[&str],
    outdated: &[&str],
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let failed = |e: std::io::Error| Error::file(dir, format!("cannot be created: {e}"));
    if fs::symlink_metadata(dir).is_ok() {
        if !dir.is_dir() {
            return Err(Error::file(dir, "is no folder; give --out a new one"));
        }
        let done = write(dir).and_then(|()| replace(dir, names, outdated));
        if done.is_err() {
            names.iter().for_each(|name| drop(fs::remove_file(partial_of(&dir.join(name)))));
        }
        return done;
    }
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let partial = partial_of(dir);
    fs::create_dir_all(&partial).map_err(failed)?;
    let done = write(&partial)
        .and_then(|()| replace(&partial, names, outdated))
        .and_then(|()| put_in_place(&partial, dir));
    if done.is_err() {
        // what cannot be removed is replaced the next time
        let all = names.iter().map(|name| partial.join(name));
        all.flat_map(|path| [path.clone(), partial_of(&path)]).for_each(|path| drop(fs::remove_file(path)));
        let _ = fs::remove_dir(&partial);
    }
    done
}

/// Writes a text where [`write_folder`] wants the file `name` of the folder `to`.
pub(super) fn write_text(to: &Path, name: &str, text: &str) -> Result<()> {
    let path = partial_of(&to.join(name));
    let written =
        create_own(&path).and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|e| Error::file(&path, format!("cannot be written: {e}")))
}

/// Gives files that are whole their names, in order, after those that would not fit them are gone.
fn replace(dir: &Path, names: &[&str], outdated: &[&str]) -> Result<()> {
    for name in outdated {
        match fs::remove_file(dir.join(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(Error::file(dir.join(name), format!("cannot be replaced: {e}")));
            }
            _ => {}
        }
    }
    names.iter().try_for_each(|name| {
        let path = dir.join(name);
        put_in_place(&partial_of(&path), &path)
    })
}

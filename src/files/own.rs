//! Files under names that the program chooses itself, in folders that others write to as well: what is found
//! there in their place (a link, a pipe, a folder) is never written through.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::logging;
use crate::shown::shown;

/// Opens a file to go on with it. A link is not followed, and what is no file is refused.
pub fn open_own(path: &Path, options: &mut OpenOptions) -> Result<File> {
    if let Ok(found) = path.symlink_metadata() {
        let problem = match () {
            () if found.is_symlink() => format!(
                "is a link{}, and links are not written through; remove it (what it points at stays as it is)",
                target(path)
            ),
            () if found.is_dir() => "is a folder, where a file belongs; move it away".to_string(),
            () if !found.is_file() => "is a device or a pipe, where a file belongs; remove it".to_string(),
            () => String::new(),
        };
        if !problem.is_empty() {
            return Err(Error::file(path, problem));
        }
    }
    // a link that someone puts there now is not followed either
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW);
    options.open(path).map_err(|e| Error::file(path, format!("cannot be opened: {e}")))
}

/// Makes a file anew. A file or a link in its place is removed first, so that neither a link's target nor
/// another name of the same file changes.
pub fn create_own(path: &Path) -> io::Result<File> {
    tell_replaced(path);
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    File::create_new(path)
}

/// Says that a link is about to be replaced by a file.
pub(super) fn tell_replaced(path: &Path) {
    if path.is_symlink() {
        logging::warn(format_args!(
            "{} is a link{}; it is replaced by a file, and what it points at stays as it is",
            shown(path),
            target(path)
        ));
    }
}

/// What a link points at, as ` to PATH`.
pub(super) fn target(link: &Path) -> String {
    fs::read_link(link).map_or_else(|_| String::new(), |to| format!(" to {}", shown(&to)))
}

/// Removes a file, a link (never what it points at) or a folder with all that is in it. What is not there is
/// no error.
pub fn remove(path: &Path) -> io::Result<()> {
    let gone = match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match gone {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Whether a path leads to an open file or folder; also true where that cannot be told, as on systems without
/// such numbers or where a disk does not answer.
pub fn is_at(open: &File, path: &Path) -> bool {
    match (open.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(found)) => number(&open) == number(&found),
        (_, Err(e)) => e.kind() != ErrorKind::NotFound,
        (Err(_), _) => true,
    }
}

/// What tells files apart, whatever they are called.
#[cfg(unix)]
fn number(of: &Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (of.dev(), of.ino())
}

#[cfg(not(unix))]
fn number(_: &Metadata) -> (u64, u64) {
    (0, 0)
}

/// Where an open folder is now, on systems that tell.
pub fn path_of(open: &File) -> Option<PathBuf> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let path = fs::read_link(format!("/proc/self/fd/{}", open.as_raw_fd())).ok()?;
        (path.is_dir() && is_at(open, &path)).then_some(path)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = open;
        None
    }
}

/// The name of this machine, where the system tells it.
pub fn host() -> Option<String> {
    let name =
        fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok())?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_string())
}

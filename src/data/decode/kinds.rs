//! What is taken for an image: by extension whether a file is looked at (its content then decides what it
//! is), and by name what is never one.

use std::ffi::OsStr;
use std::path::{Component, Path};

/// The extensions of the files that are read, in lower case.
pub const EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "webp", "bmp", "tiff", "tif"];

/// Files and folders that systems leave beside images, in lower case, besides hidden ones.
const JUNK: [&str; 8] = [
    "thumbs.db",
    "desktop.ini",
    "@eadir",
    "#recycle",
    "__macosx",
    "lost+found",
    "$recycle.bin",
    "system volume information",
];

/// Whether a file with this extension (without the dot, in any case) is taken for an image.
pub fn is_image_extension(extension: &OsStr) -> bool {
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// Whether this path, relative to a data set's root, is never an image and never a class: hidden, or what a
/// system left there (`._a.jpg`, `.ipynb_checkpoints`, `__MACOSX`, `@eaDir`, ...), or within such a folder.
pub fn is_junk(path: &Path) -> bool {
    path.components().any(|part| match part {
        Component::Normal(name) => is_junk_name(name),
        _ => false,
    })
}

/// The same of a single name.
pub(in crate::data) fn is_junk_name(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || JUNK.iter().any(|junk| name.eq_ignore_ascii_case(junk))
}

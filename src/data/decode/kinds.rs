//! What is taken for an image: by extension whether a file is looked at (its content then decides what it
//! is), and by name what is never one.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path};

/// The extensions of the files that are read, in lower case.
pub const EXTENSIONS: [&str; 21] = [
    "jpg", "jpeg", "jpe", "jfif", "jif", "png", "apng", "webp", "bmp", "dib", "tiff", "tif", "tf8", "btf",
    "gif", "ppm", "pgm", "pbm", "pnm", "pam", "qoi",
];

/// The extensions of images that are not read, in lower case, with what they are called.
const FOREIGN: [(&str, &[&str]); 16] = [
    ("heic", &["heic", "heif", "hif"]),
    ("avif", &["avif", "avifs"]),
    ("jpeg xl", &["jxl"]),
    ("jpeg 2000", &["jp2", "j2k", "jpf", "jpx", "jpm", "j2c"]),
    ("svg", &["svg", "svgz"]),
    ("photoshop", &["psd", "psb"]),
    (
        "camera raw",
        &["cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "dng", "orf", "rw2", "raf", "pef", "srw"],
    ),
    ("openexr", &["exr"]),
    ("radiance", &["hdr"]),
    ("tga", &["tga"]),
    ("dicom", &["dcm", "dicom"]),
    ("dds", &["dds"]),
    ("pcx", &["pcx"]),
    ("pfm", &["pfm"]),
    ("nifti", &["nii"]),
    ("icon", &["ico", "cur"]),
];

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

/// What kind of image a file with this extension is that is not read; none for others.
pub(in crate::data) fn unread_kind(extension: &OsStr) -> Option<&'static str> {
    let of_kind = |all: &[&str]| all.iter().any(|known| extension.eq_ignore_ascii_case(known));
    FOREIGN.iter().find(|(_, all)| of_kind(all)).map(|(kind, _)| *kind)
}

/// The files of a data set that are images of kinds that are not read.
#[derive(Default)]
pub struct Unread(BTreeMap<&'static str, usize>);

impl Unread {
    /// Counts a file, if it is one by its extension.
    pub fn note(&mut self, path: &Path) {
        if let Some(kind) = path.extension().and_then(unread_kind) {
            *self.0.entry(kind).or_default() += 1;
        }
    }

    /// What a person should know of them, in one line, the most frequent kind first; none where there are none.
    pub fn told(&self) -> Option<String> {
        let mut kinds: Vec<_> = self.0.iter().collect();
        kinds.sort_by_key(|(_, count)| Reverse(**count));
        let total: usize = self.0.values().sum();
        let files = if total == 1 { "file of a kind that is" } else { "files of kinds that are" };
        let each: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        (total > 0)
            .then(|| format!("{total} {files} not read: {}; convert them to jpeg or png", each.join(", ")))
    }
}

/// What this content is, if it is of a known kind that is not read.
pub(super) fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let at = |start: usize, what: &[u8]| bytes.get(start..).is_some_and(|rest| rest.starts_with(what));
    let brand = |names: &[&[u8; 4]]| at(4, b"ftyp") && names.iter().any(|name| at(8, *name));
    let text = bytes.trim_ascii_start().get(..5).unwrap_or_default();
    Some(match () {
        () if brand(&[b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"]) => "a HEIC",
        () if brand(&[b"avif", b"avis"]) => "an AVIF",
        () if brand(&[b"crx "]) => "a camera's raw file",
        () if at(0, b"\xff\x0a") || at(0, b"\0\0\0\x0cJXL ") => "a JPEG XL",
        () if at(0, b"\0\0\0\x0cjP  ") || at(0, b"\xff\x4f\xff\x51") => "a JPEG 2000",
        () if at(0, b"8BPS") => "a Photoshop file",
        () if at(0, b"\x76\x2f\x31\x01") => "an OpenEXR",
        () if at(0, b"#?RADIANCE") || at(0, b"#?RGBE") => "a Radiance HDR",
        () if at(128, b"DICM") => "a DICOM",
        () if at(0, b"DDS ") => "a DDS",
        () if at(0, b"%PDF") => "a PDF",
        () if text.eq_ignore_ascii_case(b"<svg ") => "an SVG",
        () => return None,
    })
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
fn is_junk_name(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || JUNK.iter().any(|junk| name.eq_ignore_ascii_case(junk))
}

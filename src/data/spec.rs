//! Names of data sets with paths that are no text.
//!
//! A name (`folder:DIR`) is text, so that a recipe can hold it. On Unix a path can be any bytes: such a name
//! begins with `escaped:`, and holds `%XX` for every byte that is no text and `%25` for `%`.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::error::{Error, Result};

/// What a name with escaped paths begins with.
pub(super) const ESCAPED: &str = "escaped:";

/// The name of a data set, as it was given on the command line, as text.
pub fn spec_text(given: &OsStr) -> String {
    if let Some(text) = given.to_str() {
        return text.into();
    }
    let mut escaped = ESCAPED.to_string();
    for chunk in given.as_encoded_bytes().utf8_chunks() {
        escaped.push_str(&chunk.valid().replace('%', "%25"));
        chunk.invalid().iter().for_each(|byte| escaped.push_str(&format!("%{byte:02X}")));
    }
    escaped
}

/// A path without escapes.
pub(super) fn plain(text: &str) -> Result<PathBuf> {
    Ok(text.into())
}

/// The path that is meant by one with `%XX`.
pub(super) fn escaped(text: &str) -> Result<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let byte = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = byte.filter(|digits| !digits.starts_with('+'));
        let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let wrong = || {
            Error::Usage(format!(
                "data set `{ESCAPED}...{text}` has a `%` without two hexadecimal digits behind it; write %25 for `%`"
            ))
        };
        bytes.push(byte.ok_or_else(wrong)?);
        rest = &after[2..];
    }
    path_of(bytes).ok_or_else(|| {
        Error::Usage(format!(
            "data set `{ESCAPED}...{text}` is not UTF-8, which paths of this system have to be"
        ))
    })
}

#[cfg(unix)]
fn path_of(bytes: Vec<u8>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    Some(OsString::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn path_of(bytes: Vec<u8>) -> Option<PathBuf> {
    String::from_utf8(bytes).ok().map(OsString::from).map(PathBuf::from)
}

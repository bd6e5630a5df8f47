//! The kinds of data sets, and how each is named on the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checks::nearest;
use crate::data::cifar::{Cifar, Version};
use crate::data::folder::Folder;
use crate::data::list::List;
use crate::data::reading::Reading;
use crate::data::shapes::Shapes;
use crate::data::source::Source;
use crate::data::spec::{ESCAPED, escaped, plain};
use crate::data::webdataset::WebDataset;
use crate::error::{Error, Result};
use crate::shown::shown;

/// The kinds of data sets and how each is named.
const KINDS: &str = "`folder:DIR` (images under DIR, any depth), `list:FILE` (a path and, if wanted, a label a line), \
    `webdataset:PATTERN` (tar shards, as in `train-{000..146}.tar`; several patterns with `::` between), \
    `cifar10:DIR` or `cifar100:DIR` (their binary versions), `shapes` (the embedded data set), `shapes:N` (N images \
    of it, 1 to 4294967295), `shapes:NxSIZE` (SIZE pixels a side, 16 to 1024) or `shapes:NxSIZExCHANNELS`";

/// What stands before the colon.
const NAMES: [&str; 6] = ["folder", "list", "webdataset", "cifar10", "cifar100", "shapes"];

/// Opens the data set that `spec` names: `folder:DIR`, `list:FILE`, `webdataset:PATTERN`, `cifar10:DIR`,
/// `cifar100:DIR`, `shapes`, `shapes:N`, `shapes:NxSIZE` or `shapes:NxSIZExCHANNELS`. Image files are read as
/// `reading` says.
/// With `escaped:` before it, `%XX` in its paths stands for a byte.
pub fn open(spec: &str, reading: &Reading) -> Result<Arc<dyn Source>> {
    let (path_of, spec): (fn(&str) -> Result<PathBuf>, _) = match spec.strip_prefix(ESCAPED) {
        Some(rest) => (escaped, rest),
        None => (plain, spec),
    };
    let (kind, rest) = match spec.split_once(':') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (spec, None),
    };
    Ok(match (kind, rest) {
        ("shapes", rest) => Arc::new(
            Shapes::from_spec(rest)
                .map_err(|problem| Error::Usage(format!("data set `{}` {problem}", shown(spec))))?,
        ),
        (_, None | Some("")) => return Err(unknown(spec)),
        ("folder", Some(dir)) => Arc::new(Folder::open(path_of(dir)?, reading)?),
        ("list", Some(file)) => Arc::new(List::open(path_of(file)?, reading)?),
        ("webdataset", Some(pattern)) => Arc::new(WebDataset::open(pattern, path_of, reading)?),
        ("cifar10", Some(dir)) => Arc::new(Cifar::open(path_of(dir)?, Version::Cifar10)?),
        ("cifar100", Some(dir)) => Arc::new(Cifar::open(path_of(dir)?, Version::Cifar100)?),
        _ => return Err(unknown(spec)),
    })
}

/// Opens the data set that the setting `key` names. What is wrong with a file or folder is told with the key and, of a
/// relative path, with the folder that it is relative to: a run may go on from another one.
pub fn open_setting(key: &str, spec: &str, reading: &Reading) -> Result<Arc<dyn Source>> {
    open(spec, reading).map_err(|e| {
        let path = spec.strip_prefix(ESCAPED).unwrap_or(spec).split_once(':').map_or("", |(_, path)| path);
        let current = std::env::current_dir().ok().filter(|_| Path::new(path).is_relative());
        match (&e, current) {
            (Error::File { .. }, Some(folder)) => e.and(format!(
                "{key} is `{}`, a path relative to the current folder, {}",
                shown(spec),
                shown(&folder)
            )),
            (Error::File { .. }, None) => e.and(format!("{key} is `{}`", shown(spec))),
            _ => e,
        }
    })
}

/// The message for a spec that names no data set.
fn unknown(spec: &str) -> Error {
    let (path, spec) = (Path::new(spec), shown(spec));
    let hint = if path.is_dir() {
        format!(" (did you mean `folder:{spec}`?)")
    } else if path.is_file() {
        let kind = if spec.ends_with(".tar") { "webdataset" } else { "list" };
        format!(" (did you mean `{kind}:{spec}`?)")
    } else {
        let kind = spec.split_once(':').map_or(&*spec, |(kind, _)| kind);
        nearest(kind, NAMES.into_iter()).map_or_else(String::new, |kind| format!(" (did you mean `{kind}`?)"))
    };
    Error::Usage(format!("unknown data set `{spec}`{hint}: use {KINDS}"))
}

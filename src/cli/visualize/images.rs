//! Images on the command line: as they are loaded and shown, and where their pictures go.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use crate::cli::subject::Subject;
use crate::data::Image;
use crate::data::decode::decode_file;
use crate::error::{Error, Result};
use crate::shown::shown;

/// An image file with the network's channels.
pub(super) fn loaded(path: &Path, subject: &Subject, channels: usize) -> Result<Image> {
    let reading = subject.teacher.config.data.reading();
    let image = decode_file(path, &reading).map_err(|fault| Error::file(path, fault.reason))?;
    let image = Image::from(image).in_channels(channels);
    image.ok_or_else(|| Error::file(path, format!("has 3 channels, and the network takes {channels}")))
}

/// What the pictures of an image are called, but for their kind.
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn with(&self, kind: &str) -> PathBuf {
        let mut path = self.0.clone().into_os_string();
        path.push(format!(".{kind}.png"));
        path.into()
    }
}

/// A place in `out` for every image, each image once: it is called as the image with the folders before it, so that
/// images of one name in several folders do not meet.
pub(super) fn places<'a>(images: &'a [PathBuf], out: &Path) -> Result<Vec<(&'a Path, Place)>> {
    let mut taken: HashMap<OsString, &Path> = HashMap::new();
    let mut all = Vec::new();
    for image in images {
        let names = image.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            Component::ParentDir => Some(OsStr::new("__")),
            _ => None,
        });
        let name = names.collect::<Vec<_>>().join(OsStr::new("-"));
        match taken.insert(name.clone(), image) {
            None => all.push((image.as_path(), Place(out.join(name)))),
            Some(other) if other == image => {}
            Some(other) => {
                let problem =
                    format!("has the pictures' names of {} too; draw them into two folders", shown(other));
                return Err(Error::file(image, problem));
            }
        }
    }
    Ok(all)
}

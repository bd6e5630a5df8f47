//! The index of one tar shard: where its images lie. Only headers (and labels) are read.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use tar::Archive;

use crate::data::decode::is_image_extension;
use crate::data::labels::Labels;
use crate::error::{Error, Result};

/// The longest text of a label, bytes.
const LONGEST_LABEL: u64 = 64;

/// One image of a shard.
pub(super) struct Sample {
    /// Where its bytes start.
    pub offset: u64,
    /// How many they are.
    pub size: u64,
    /// The number of its shard.
    pub shard: u32,
    /// Its class; 0 without labels.
    pub class: u32,
}

/// What a shard holds.
#[derive(Default)]
pub(super) struct ShardIndex {
    /// Its images in order, their classes numbers of `labels`.
    pub samples: Vec<Sample>,
    /// The labels of its images.
    pub labels: Labels,
    /// The key of the first sample without one.
    pub unlabelled: Option<String>,
}

/// The members with one key, as far as they matter.
#[derive(Default)]
struct Group {
    key: String,
    /// Offset and size.
    image: Option<(u64, u64)>,
    /// The class as a number written in the shortest way.
    label: Option<String>,
}

impl ShardIndex {
    /// Reads the headers of the shard numbered `shard`. Long names of GNU tar and pax are understood.
    pub fn read(path: &Path, shard: u32) -> Result<Self> {
        let open = || -> std::io::Result<_> {
            let file = File::open(path)?;
            Ok((file.metadata()?, file))
        };
        let (meta, file) = open().map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::file(path, "no such shard; check the pattern"),
            _ => Error::file(path, format!("cannot be opened: {e}; check its permissions")),
        })?;
        if !meta.is_file() {
            return Err(Error::file(path, "is not a file; give tar shards, as in `DIR/{000..146}.tar`"));
        }
        let damaged = |e: std::io::Error| {
            Error::file(path, format!("is not a whole, uncompressed tar file ({e}); copy or unpack it again"))
        };
        let mut archive = Archive::new(file);
        let (mut index, mut group) = (Self::default(), Group::default());
        let mut members = 0;
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            members += 1;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.saturating_add(size) > meta.len() {
                return Err(Error::file(path, format!("ends within its member `{name}`; copy it again")));
            }
            let parts = if entry.header().entry_type().is_file() { split_key(&name) } else { None };
            let Some((key, extension)) = parts else { continue };
            if key != group.key {
                index.close(std::mem::take(&mut group), shard);
                group.key = key.into();
            }
            if is_image_extension(extension.as_ref()) {
                group.image.get_or_insert((offset, size));
            } else if extension.eq_ignore_ascii_case("cls") {
                let mut text = String::new();
                let read = entry.by_ref().take(LONGEST_LABEL).read_to_string(&mut text);
                let number = read.ok().and_then(|_| text.trim().parse::<i64>().ok());
                let wrong =
                    || Error::file(path, format!("`{name}` holds no whole number; write the class as one"));
                group.label = Some(number.ok_or_else(wrong)?.to_string());
            }
        }
        index.close(group, shard);
        if members == 0 {
            return Err(Error::file(path, "is an empty shard; copy it again"));
        }
        Ok(index)
    }

    /// Adds the image of a complete group, if it has one.
    fn close(&mut self, group: Group, shard: u32) {
        let Some((offset, size)) = group.image else { return };
        let class = group.label.map(|label| self.labels.number(&label));
        if class.is_none() {
            self.unlabelled.get_or_insert(group.key);
        }
        self.samples.push(Sample { offset, size, shard, class: class.unwrap_or(0) });
    }
}

/// The key and the extension of a member: the first dot of the file name parts them. None for hidden files
/// and names without a dot.
fn split_key(name: &str) -> Option<(&str, &str)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.')?;
    (dot > file).then(|| (&name[..dot], &name[dot + 1..]))
}

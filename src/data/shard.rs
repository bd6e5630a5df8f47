//! The index of one tar shard: where its images lie. Only headers (and labels) are read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use crate::data::decode::{is_image_extension, is_junk, unread_kind};
use crate::data::labels::{Labels, written};
use crate::data::tar::{Kind, Member, Members};
use crate::error::{Error, Result};
use crate::shown::shown;

/// The longest text of a label, bytes.
const LONGEST_LABEL: u64 = 256;
/// Bytes behind the end of a tar file that programs fill up with zeros.
const FILLED: u64 = 1 << 20;

/// One image of a shard.
pub(super) struct Sample {
    /// Where its bytes start.
    pub offset: u64,
    /// How many they are.
    pub size: u64,
    /// Where its key ends among those of its shard; that of the sample before it ends where it starts.
    pub key_end: usize,
    /// The number of its shard.
    pub shard: u32,
    /// Its class, or [`UNLABELLED`].
    pub class: u32,
}

/// The class of an image without a label.
pub(super) const UNLABELLED: u32 = u32::MAX;

/// Members that are left out, counted by why, with one of them.
#[derive(Default)]
pub(super) struct LeftOut(Vec<(&'static str, usize, String)>);

impl LeftOut {
    fn count(&mut self, why: &'static str, name: &str) {
        self.add(why, 1, name);
    }

    fn add(&mut self, why: &'static str, more: usize, name: &str) {
        match self.0.iter_mut().find(|(known, ..)| *known == why) {
            Some((_, count, _)) => *count += more,
            None => self.0.push((why, more, name.into())),
        }
    }

    /// Adds what another shard leaves out.
    pub fn extend(&mut self, other: Self) {
        other.0.into_iter().for_each(|(why, count, name)| self.add(why, count, &name));
    }

    /// As `2 links (such as `a.png`), 1 ...`; none where there is nothing.
    pub fn told(&self) -> Option<String> {
        let told: Vec<String> =
            self.0.iter().map(|(why, count, name)| format!("{count} {why} (such as `{name}`)")).collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

/// What a shard holds.
#[derive(Default)]
pub(super) struct ShardIndex {
    /// Its images in order, their classes numbers of `labels`.
    pub samples: Vec<Sample>,
    /// Their keys, one after the other.
    pub keys: String,
    /// The labels of its images.
    pub labels: Labels,
    /// The keys of the first images without one.
    pub unlabelled: Vec<String>,
    /// Members that might have been meant as images or labels.
    pub left_out: LeftOut,
    /// What a person should know of it.
    pub remarks: Vec<String>,
}

/// The members with one key, as far as they matter.
#[derive(Default)]
struct Group {
    key: String,
    /// Offset and size.
    image: Option<(u64, u64)>,
    label: Option<String>,
}

/// A shard as it is read.
struct Reader<'a> {
    path: &'a Path,
    shard: u32,
    index: ShardIndex,
    group: Group,
    /// Images without a label and labels without an image so far, which others of their key may complete.
    images: HashMap<String, usize>,
    labels: HashMap<String, String>,
    /// Where members lie, by name, once there is a link to one.
    places: Option<HashMap<String, (u64, u64)>>,
    /// Labels that cannot be read: the first, and how many.
    bad: (Vec<String>, usize),
}

impl ShardIndex {
    /// Reads the headers of the shard numbered `shard`.
    pub fn read(path: &Path, shard: u32) -> Result<Self> {
        let open = || -> std::io::Result<_> {
            let file = File::open(path)?;
            Ok((file.metadata()?, file))
        };
        let is_file = std::fs::metadata(path).map_or(true, |meta| meta.is_file());
        if !is_file {
            return Err(Error::file(path, "is not a file; give tar shards, as in `DIR/{000..146}.tar`"));
        }
        let (meta, mut file) = open().map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                let star = path.as_os_str().as_encoded_bytes().contains(&b'*');
                let hint = if star { ": `*` does not stand for names here, write {000..146}" } else { "" };
                Error::file(path, format!("no such shard; check the pattern{hint}"))
            }
            _ => Error::file(path, format!("cannot be opened: {e}; check its permissions")),
        })?;
        if meta.len() == 0 {
            return Err(Error::file(path, "is an empty shard; copy it again"));
        }
        let damaged = |e: String| {
            Error::file(path, format!("is not a whole, uncompressed tar file ({e}); copy or unpack it again"))
        };
        let mut head = [0; 6];
        let known = file.read(&mut head).ok().and_then(|_| other_kind(&head));
        if let Some((kind, how)) = known {
            return Err(Error::file(path, format!("is {kind}, and shards are read in place: {how}")));
        }
        let mut scan = |linked| -> Result<Option<Self>> {
            file.seek(SeekFrom::Start(0)).map_err(|e| damaged(e.to_string()))?;
            let members = Members::new(&file, meta.len());
            Reader::new(path, shard, linked).read(members, &damaged)
        };
        // the places of all members are only kept where a link needs them
        match scan(false)? {
            Some(index) => Ok(index),
            None => scan(true).map(Option::unwrap_or_default),
        }
    }
}

impl<'a> Reader<'a> {
    fn new(path: &'a Path, shard: u32, linked: bool) -> Self {
        Self {
            path,
            shard,
            index: ShardIndex::default(),
            group: Group::default(),
            images: HashMap::new(),
            labels: HashMap::new(),
            places: linked.then(HashMap::new),
            bad: (Vec::new(), 0),
        }
    }

    /// The index; none where there is a link and places were not kept.
    fn read<R: Read + Seek>(
        mut self,
        mut members: Members<R>,
        damaged: &dyn Fn(String) -> Error,
    ) -> Result<Option<ShardIndex>> {
        let mut count = 0;
        loop {
            let member = match members.next() {
                Ok(Some(member)) => member,
                Ok(None) => break,
                Err(e) if e.starts_with("ends within its") => return Err(Error::file(self.path, e)),
                Err(e) => return Err(damaged(e)),
            };
            count += 1;
            if !self.take(member, &mut members).map_err(damaged)? {
                return Ok(None);
            }
        }
        self.close();
        if let (first, count @ 1..) = &self.bad {
            let problem = format!("{count} of its labels cannot be read: {}", first.join("; "));
            return Err(Error::file(self.path, problem));
        }
        let rest = members.rest();
        if rest == 0 {
            self.remark("has no mark at its end: it may be cut off");
        } else if rest > FILLED {
            self.remark(&format!("is read up to its end mark; {rest} bytes behind that are not"));
        }
        if count == 0 {
            self.remark("is an empty shard");
        }
        for label in self.labels.keys().take(1) {
            self.index.left_out.add("labels without an image", self.labels.len(), &format!("{label}.cls"));
        }
        let mut unlabelled: Vec<(usize, String)> = self.images.into_iter().map(|(key, i)| (i, key)).collect();
        unlabelled.sort_unstable();
        self.index.unlabelled = unlabelled.into_iter().take(3).map(|(_, key)| key).collect();
        Ok(Some(self.index))
    }

    fn remark(&mut self, text: &str) {
        self.index.remarks.push(format!("{} {text}", shown(self.path)));
    }

    /// Takes in a member; false where it is a link and places were not kept.
    fn take<R: Read + Seek>(
        &mut self,
        mut member: Member,
        members: &mut Members<R>,
    ) -> std::result::Result<bool, String> {
        let Some((key, extension)) = split_key(&member.name) else { return Ok(true) };
        if is_junk(Path::new(&member.name)) {
            return Ok(true);
        }
        let (is_image, is_label) =
            (is_image_extension(extension.as_ref()), extension.eq_ignore_ascii_case("cls"));
        if !is_image && !is_label {
            let last = extension.rsplit('.').next().unwrap_or_default();
            if last.len() < extension.len() && is_image_extension(last.as_ref()) {
                self.index.left_out.count("images with an ending of several parts", &member.name);
            } else if unread_kind(last.as_ref()).is_some() {
                self.index.left_out.count("images of kinds that are not read", &member.name);
            }
            return Ok(true);
        }
        match &member.kind {
            Kind::File => {}
            Kind::HardLink(to) => {
                let Some(places) = &self.places else { return Ok(false) };
                match places.get(to) {
                    Some((offset, size)) => (member.offset, member.size) = (*offset, *size),
                    None => {
                        self.index.left_out.count("links to what is not there", &member.name);
                        return Ok(true);
                    }
                }
            }
            kind => {
                let why = match kind {
                    Kind::SymbolicLink => "symbolic links",
                    Kind::Sparse => "sparse files",
                    _ => return Ok(true),
                };
                self.index.left_out.count(why, &member.name);
                return Ok(true);
            }
        }
        if let Some(places) = &mut self.places {
            places.insert(member.name.clone(), (member.offset, member.size));
        }
        if key != self.group.key {
            let key = key.to_string();
            self.close();
            self.group.key = key;
        }
        if is_image {
            match self.group.image {
                None => self.group.image = Some((member.offset, member.size)),
                Some(_) => self.index.left_out.count("second images of a sample", &member.name),
            }
        } else {
            match label_of(&members.read(&member, LONGEST_LABEL + 1)?) {
                Ok(label) => self.group.label = label,
                Err(problem) => {
                    self.bad.1 += 1;
                    if self.bad.0.len() < 3 {
                        self.bad.0.push(format!("`{}` {problem}", member.name));
                    }
                }
            }
        }
        Ok(true)
    }

    /// Adds what the members of a key are. Where they do not stand together, a label and an image that miss each
    /// other are put together still.
    fn close(&mut self) {
        let Group { key, image, label } = std::mem::take(&mut self.group);
        let Some((offset, size)) = image else {
            let Some(label) = label else { return };
            match self.images.remove(&key) {
                Some(i) => self.index.samples[i].class = self.index.labels.number(&label),
                None => drop(self.labels.insert(key, label)),
            }
            return;
        };
        let label = label.or_else(|| self.labels.remove(&key));
        self.index.keys.push_str(key.trim_start_matches("./"));
        let key_end = self.index.keys.len();
        let class = match label {
            Some(label) => self.index.labels.number(&label),
            None => {
                self.images.insert(key, self.index.samples.len());
                UNLABELLED
            }
        };
        self.index.samples.push(Sample { offset, size, key_end, shard: self.shard, class });
    }
}

/// The label in the content of a `.cls` member: none where it is empty or `-1`.
fn label_of(bytes: &[u8]) -> std::result::Result<Option<String>, String> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| "is not UTF-8 text: write the class as a number or a name")?;
    let label = text.trim();
    if label.lines().count() > 1 || bytes.len() as u64 > LONGEST_LABEL {
        return Err(format!(
            "is more than a line of {LONGEST_LABEL} bytes: write the class as a number or a name"
        ));
    }
    Ok(written(label).map(str::to_string))
}

/// What a file is that begins so, if it is known to be no tar file, and what to do about it.
fn other_kind(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let kinds: [(&[u8], _, _); 6] = [
        (b"\x1f\x8b", "compressed with gzip", "unpack it with `gunzip`"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it with `unzstd`"),
        (b"BZh", "compressed with bzip2", "unpack it with `bunzip2`"),
        (b"\xfd7zXZ", "compressed with xz", "unpack it with `unxz`"),
        (b"PK\x03\x04", "a zip file", "unpack it and give `folder:DIR`, or make a tar file of it"),
        (b"Rar!", "a rar file", "unpack it and give `folder:DIR`, or make a tar file of it"),
    ];
    kinds.into_iter().find(|(start, ..)| head.starts_with(start)).map(|(_, kind, how)| (kind, how))
}

/// The key and the extension of a member: the first dot of the file name parts them. None for hidden files
/// and names without a dot.
fn split_key(name: &str) -> Option<(&str, &str)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.')?;
    (dot > file).then(|| (&name[..dot], &name[dot + 1..]))
}

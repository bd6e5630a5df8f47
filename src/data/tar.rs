//! The members of a tar file, from their headers alone: POSIX (ustar, pax), GNU and the oldest kind. No member's
//! name is ever opened, and no size is believed beyond the end of the file.

use std::io::{BufReader, ErrorKind, Read, Seek};

use crate::shown::shown_bytes;

/// Bytes of a header, and what everything is rounded up to.
const BLOCK: u64 = 512;
/// The most bytes of a long name or of pax records.
const LONGEST: u64 = 1 << 20;
/// Bytes read at once: small members are passed over without a call of the system.
const BUFFER: usize = 4096;

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file whose bytes lie in the tar file as they are.
    File,
    /// Another name for an earlier member.
    HardLink(String),
    /// A name for something that need not be in the tar file.
    SymbolicLink,
    /// A file of which the zeros are left out.
    Sparse,
    /// A folder, a device, or of a kind of its own.
    Other,
}

/// A member of a tar file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name, without `./` before it. Bytes that are no text are written as `\xE9`.
    pub name: String,
    pub kind: Kind,
    /// Where its bytes start.
    pub offset: u64,
    /// How many they are.
    pub size: u64,
}

/// What headers before a member say of it.
#[derive(Default)]
struct Said {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

/// The members of a tar file, one after the other.
pub(super) struct Members<R> {
    file: BufReader<R>,
    /// Bytes of the whole file.
    len: u64,
    /// Where the reader stands.
    at: u64,
    /// Where the next header is.
    next: u64,
}

impl<R: Read + Seek> Members<R> {
    /// The members of a file of `len` bytes that is at its start.
    pub fn new(file: R, len: u64) -> Self {
        Self { file: BufReader::with_capacity(BUFFER, file), len, at: 0, next: 0 }
    }

    /// The next member; none at the end. An error says what is wrong with the file.
    pub fn next(&mut self) -> Result<Option<Member>, String> {
        let mut said = Said::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header[156];
            let own_size = number(&header[124..136]).ok_or("has a member whose size is no number")?;
            // what a member's records say holds for the member itself, not for other headers before it
            let size = match kind {
                b'L' | b'K' | b'x' | b'X' | b'g' => own_size,
                b'1'..=b'6' => 0, // links, folders and devices have no bytes, whatever is said
                _ => said.size.unwrap_or(own_size),
            };
            if kind == b'S' {
                self.pass_sparse_maps(&header)?;
            }
            let offset = self.next;
            let name = text(&said.name.clone().unwrap_or_else(|| name_of(&header)));
            let end = offset.checked_add(size).filter(|end| *end <= self.len);
            let end = end.ok_or_else(|| format!("ends within its member `{name}`; copy it again"))?;
            // the last member need not be filled up
            self.next = end.next_multiple_of(BLOCK);
            match kind {
                b'L' => said.name = Some(self.long(size)?),
                b'K' => said.link = Some(self.long(size)?),
                b'x' | b'X' => records(&self.long(size)?, &mut said)?,
                b'g' => {}
                _ => {
                    let link = said.link.unwrap_or_else(|| until_zero(&header[157..257]).to_vec());
                    let kind = match kind {
                        b'S' => Kind::Sparse,
                        _ if said.sparse => Kind::Sparse,
                        0 | b'0' | b'7' if !name.ends_with('/') => Kind::File,
                        b'1' => Kind::HardLink(text(&link)),
                        b'2' => Kind::SymbolicLink,
                        _ => Kind::Other,
                    };
                    return Ok(Some(Member { name, kind, offset, size }));
                }
            }
        }
    }

    /// The first bytes of a member, `most` at most.
    pub fn read(&mut self, member: &Member, most: u64) -> Result<Vec<u8>, String> {
        self.seek(member.offset)?;
        self.bytes(member.size.min(most))
    }

    /// Bytes that follow the last header.
    pub fn rest(&self) -> u64 {
        self.len.saturating_sub(self.next)
    }

    /// The next header; none at the end, which is a block of zeros or, cut off, the end of the file.
    fn header(&mut self) -> Result<Option<Vec<u8>>, String> {
        if self.next >= self.len {
            return Ok(None);
        }
        self.seek(self.next)?;
        let header = self.bytes(BLOCK)?;
        if (header.len() as u64) < BLOCK {
            return Err("ends within a header".into());
        }
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |value: fn(u8) -> i64| -> i64 {
            let counted = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { 32 } else { value(*byte) };
            header.iter().enumerate().map(counted).sum()
        };
        let said = number(&header[148..156]).and_then(|sum| i64::try_from(sum).ok());
        // some old programs took bytes to have a sign
        if said != Some(sum(i64::from)) && said != Some(sum(|byte| i64::from(byte as i8))) {
            return Err("has a header whose checksum is wrong".into());
        }
        self.next += BLOCK;
        Ok(Some(header))
    }

    /// Passes over the blocks that go on with the map of a sparse file.
    fn pass_sparse_maps(&mut self, header: &[u8]) -> Result<(), String> {
        let mut more = header[482] != 0;
        while more {
            self.seek(self.next)?;
            let block = self.bytes(BLOCK)?;
            more = *block.get(504).ok_or("ends within a header")? != 0;
            self.next += BLOCK;
        }
        Ok(())
    }

    /// A long name or pax records.
    fn long(&mut self, size: u64) -> Result<Vec<u8>, String> {
        if size > LONGEST {
            return Err(format!("has a name or records of {size} bytes, over {LONGEST}"));
        }
        self.bytes(size)
    }

    fn seek(&mut self, to: u64) -> Result<(), String> {
        let by = to as i64 - self.at as i64;
        self.at = to;
        self.file.seek_relative(by).map_err(|e| e.to_string())
    }

    /// The next `count` bytes, or as many as there are.
    fn bytes(&mut self, count: u64) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        match self.file.by_ref().take(count).read_to_end(&mut bytes) {
            Err(e) if e.kind() != ErrorKind::UnexpectedEof => return Err(e.to_string()),
            _ => self.at += bytes.len() as u64,
        }
        Ok(bytes)
    }
}

/// The text before the first zero byte.
fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A name as text, without `./` before it.
fn text(name: &[u8]) -> String {
    let name = shown_bytes(until_zero(name));
    let mut rest = &*name;
    while let Some(inner) = rest.strip_prefix("./") {
        rest = inner;
    }
    rest.into()
}

/// The name that a header has in itself.
fn name_of(header: &[u8]) -> Vec<u8> {
    let name = until_zero(&header[..100]);
    // GNU puts times where POSIX has the beginning of a long name
    let prefix = if &header[257..263] == b"ustar\0" { until_zero(&header[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// A number in octal digits, or in GNU's binary form.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (0x80, rest) => {
            let (high, low) = rest.split_at(rest.len().saturating_sub(8));
            let value = low.iter().fold(0, |value: u64, byte| value << 8 | u64::from(*byte));
            high.iter().all(|byte| *byte == 0).then_some(value)
        }
        _ => {
            let digits = until_zero(field).trim_ascii();
            if digits.is_empty() {
                return Some(0);
            }
            let right = digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
            right.then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok())?
        }
    }
}

/// Reads pax records, `LENGTH KEY=VALUE\n` each.
fn records(bytes: &[u8], said: &mut Said) -> Result<(), String> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let record = || -> Option<(&[u8], &[u8], &[u8])> {
            let space = rest.iter().position(|byte| *byte == b' ')?;
            let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
            let body = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = body.iter().position(|byte| *byte == b'=')?;
            Some((&body[..equals], &body[equals + 1..], &rest[length..]))
        };
        let (key, value, after) = record().ok_or("has pax records that cannot be read")?;
        match key {
            b"path" => said.name = Some(value.to_vec()),
            b"linkpath" => said.link = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                said.size = Some(size.ok_or("has a member whose size is no number")?);
            }
            key if key.starts_with(b"GNU.sparse.") => {
                said.sparse = true;
                if key == b"GNU.sparse.name" {
                    said.name = Some(value.to_vec());
                }
            }
            _ => {}
        }
        rest = after;
    }
    Ok(())
}

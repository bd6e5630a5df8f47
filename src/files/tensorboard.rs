//! TensorBoard event files: scalars of a run, to be watched with `tensorboard --logdir`.
//!
//! A file is a sequence of records (TFRecord framing, masked CRC-32C), each a protocol buffer `Event`. The
//! few fields that scalars need are written by hand, in the order of their numbers, as TensorBoard's own
//! writer does.
//! Source: TensorFlow `core/lib/io/record_writer.h`, `core/util/event.proto`, `core/framework/summary.proto`.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// What the name of every event file starts with; the time in seconds and a number follow.
const PREFIX: &str = "events.out.tfevents.";
/// `SessionLog.SessionStatus.START`.
const SESSION_START: u64 = 1;

/// The event file of one stretch of a run.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl EventLog {
    /// Starts a new file in `dir`, which is made if it is missing. Its name sorts after those of the files
    /// there.
    ///
    /// `start_step` is the step at which a resumed run goes on: TensorBoard drops what earlier files say of
    /// that step and later ones. Where there are earlier files, a run that is not resumed begins at step 0, and
    /// all they say is dropped.
    pub fn create(dir: &Path, start_step: Option<u64>) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|e| Error::file(dir, format!("cannot be created: {e}")))?;
        let (path, file, others) = new_file(dir)?;
        let mut log = Self { path, file: BufWriter::new(file) };
        log.write(&version_event(now()))?;
        if let Some(step) = start_step.or(others.then_some(0)) {
            log.write(&start_event(now(), step))?;
        }
        log.flush()?;
        Ok(log)
    }

    /// Adds the values of a step (from 0), given as (name, value); names with a slash are grouped by what
    /// stands before it. They are kept as f32.
    pub fn scalars(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        self.write(&scalars_event(now(), step, values))
    }

    /// Hands all that was added to the system, so that TensorBoard sees it. Dropping the log does so too.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| cannot_write(&self.path, &e))
    }

    fn write(&mut self, event: &[u8]) -> Result<()> {
        self.file.write_all(&record(event)).map_err(|e| cannot_write(&self.path, &e))
    }
}

fn cannot_write(path: &Path, e: &io::Error) -> Error {
    Error::file(path, format!("cannot be written: {e}; is the disk full?"))
}

/// Makes the first free file that sorts after all event files of `dir`, even if the clock was set back since;
/// tells whether there were any.
fn new_file(dir: &Path) -> Result<(PathBuf, File, bool)> {
    let failed = |e: io::Error| Error::file(dir, format!("cannot be read: {e}"));
    let mut latest = None;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        latest = latest.max(name.to_str().and_then(stamp));
    }
    let others = latest.is_some();
    let mut stamp = (now() as u64, 0);
    if let Some((second, number)) = latest.filter(|latest| *latest >= stamp) {
        stamp = (second, number + 1);
    }
    loop {
        let path = dir.join(format!("{PREFIX}{:010}.{:06}.poa", stamp.0, stamp.1));
        match File::create_new(&path) {
            Ok(file) => return Ok((path, file, others)),
            // Another process took the name in the meantime.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => stamp.1 += 1,
            Err(e) => return Err(Error::file(&path, format!("cannot be created: {e}"))),
        }
    }
}

/// The second and the number in the name of an event file. A name of another program has no number; what it
/// has instead may sort after ours, so that its second counts as full.
fn stamp(name: &str) -> Option<(u64, u64)> {
    let (second, rest) = name.strip_prefix(PREFIX)?.split_once('.')?;
    // Ten digits at most, or the names would not sort as their numbers do.
    let second = second.parse().ok().filter(|second| *second < 9_999_999_999)?;
    match rest.strip_suffix(".poa").and_then(|number| number.parse::<u32>().ok()) {
        Some(number) => Some((second, u64::from(number))),
        None => Some((second + 1, 0)),
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The first event of a file.
pub fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = wall_time_and_step(wall_time, 0);
    bytes_field(&mut event, 3, b"brain.Event:2");
    event
}

/// The event of a run that starts again at `step`.
pub fn start_event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut session = Vec::new();
    number_field(&mut session, 1, SESSION_START);
    let mut event = wall_time_and_step(wall_time, step);
    bytes_field(&mut event, 7, &session);
    event
}

/// The event with the values of a step; `wall_time` in seconds since 1970.
pub fn scalars_event(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut scalar = Vec::new();
        bytes_field(&mut scalar, 1, tag.as_bytes());
        key(&mut scalar, 2, 5);
        scalar.extend((*value as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &scalar);
    }
    let mut event = wall_time_and_step(wall_time, step);
    bytes_field(&mut event, 5, &summary);
    event
}

/// The record of an event: its length, its bytes, and the checksums of both.
pub fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(event.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(event);
    out.extend(masked_crc(event).to_le_bytes());
    out
}

/// CRC-32C, changed so that the checksum of bytes that hold checksums keeps its worth.
pub fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn wall_time_and_step(wall_time: f64, step: u64) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, 1);
    event.extend(wall_time.to_le_bytes());
    // Zero is what a field that is not there means.
    if step > 0 {
        number_field(&mut event, 2, step);
    }
    event
}

/// What precedes a field: its number and wire type (0 number, 1 eight bytes, 2 counted bytes, 5 four bytes).
fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn number_field(out: &mut Vec<u8>, field: u64, value: u64) {
    key(out, field, 0);
    varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    key(out, field, 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Seven bits a byte, lowest first; the eighth says that more follow.
fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

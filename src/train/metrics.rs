//! What a run reports: `metrics.jsonl` for programs, `train.log` for people.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::own::{is_at, open_own};
use crate::logging;
use crate::shown::{lines, shown};

/// A float as JSON that reads back to the same bits; what JSON has no number for becomes text such as `NaN`.
pub fn number(x: f64) -> Value {
    serde_json::Number::from_f64(x).map_or_else(|| Value::String(x.to_string()), Value::Number)
}

/// `metrics.jsonl`: one JSON object a line.
///
/// Whatever depends on the clock stands under the key `time`, so that two equal runs write equal lines but
/// for it.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl MetricsLog {
    /// Opens the file and drops everything beyond its first `keep` bytes: 0 for a new run, for a resumed one
    /// what there was when the checkpoint was taken.
    pub fn open(path: impl AsRef<Path>, keep: u64) -> Result<Self> {
        let path = path.as_ref();
        let failed = |e: std::io::Error| Error::file(path, format!("cannot be continued: {e}"));
        let mut file = open_own(path, File::options().read(true).write(true).create(true).truncate(false))?;
        let there = file.metadata().map_err(failed)?.len();
        // half a line, which a crash leaves, is dropped too
        let bytes = whole_lines(&mut file, there.min(keep)).map_err(failed)?;
        if bytes < keep && keep != u64::MAX {
            logging::warn(format_args!(
                "{} is shorter than the checkpoint says ({bytes} bytes of {keep}): its last lines are lost",
                shown(path)
            ));
        }
        let mut log = Self { path: path.to_path_buf(), file, bytes };
        log.cut().map_err(failed)?;
        Ok(log)
    }

    /// Begins a new file where the old one was removed or replaced in the meantime; true where it was.
    pub fn reopen(&mut self, path: &Path) -> Result<bool> {
        let lost = !is_at(&self.file, path);
        if lost {
            *self = Self::open(path, u64::MAX)?;
        }
        Ok(lost)
    }

    /// Lets the file end after the last whole line.
    fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.seek(SeekFrom::Start(self.bytes)).map(|_| ())
    }

    /// Length of the file, in bytes, which is forced to disk.
    pub fn synced_bytes(&self) -> Result<u64> {
        let failed = |e: std::io::Error| Error::file(&self.path, format!("cannot be written: {e}"));
        self.file.sync_all().map_err(failed)?;
        Ok(self.bytes)
    }

    /// Appends the line of a step (from 0). `values` are deterministic; `time` holds what depends on the
    /// clock, such as images a second, and may be empty.
    pub fn write<N: AsRef<str>>(
        &mut self,
        step: usize,
        values: &[(N, Value)],
        time: &[(&str, f64)],
    ) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        line.extend(values.iter().map(|(key, value)| (key.as_ref().into(), value.clone())));
        if !time.is_empty() {
            let time: Map<_, _> = time.iter().map(|(key, x)| ((*key).into(), number(*x))).collect();
            line.insert("time".into(), Value::Object(time));
        }
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        if let Err(e) = self.file.write_all(text.as_bytes()) {
            // half a line would make the file unreadable; if even this fails, the next write starts over it
            let _ = self.cut();
            return Err(Error::file(&self.path, format!("cannot be written: {e}; is the disk full?")));
        }
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// How many of the first `bytes` bytes of a file are whole lines.
fn whole_lines(file: &mut File, bytes: u64) -> std::io::Result<u64> {
    let (mut end, mut block) = (bytes, [0; 4096]);
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Whether what is written to a file next begins a line.
pub fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    let bytes = file.metadata()?.len();
    Ok(whole_lines(file, bytes)? == bytes)
}

/// The values of all lines of a `metrics.jsonl` whose key starts with `prefix`, as (step, key, value). A file
/// that does not exist has none, and lines that cannot be read are left out.
pub fn history(path: impl AsRef<Path>, prefix: &str) -> Vec<(usize, String, f64)> {
    let of_line = |(step, line): (usize, Map<String, Value>)| {
        let values = line.into_iter().filter(|(key, _)| key.starts_with(prefix));
        values.filter_map(move |(key, v)| Some((step, key, v.as_f64()?))).collect::<Vec<_>>()
    };
    steps_of(path.as_ref()).flat_map(of_line).collect()
}

/// The texts under a key, as (step, text), in the same way.
pub fn texts(path: impl AsRef<Path>, key: &str) -> Vec<(usize, String)> {
    let of_line =
        |(step, line): (usize, Map<String, Value>)| Some((step, line.get(key)?.as_str()?.to_string()));
    steps_of(path.as_ref()).filter_map(of_line).collect()
}

/// The lines of a `metrics.jsonl` that can be read, with their steps.
fn steps_of(path: &Path) -> impl Iterator<Item = (usize, Map<String, Value>)> {
    let lines = File::open(path).into_iter().flat_map(|file| BufReader::new(file).split(b'\n'));
    lines.map_while(std::io::Result::ok).filter_map(|line| {
        let line: Map<String, Value> = serde_json::from_slice(&line).ok()?;
        let step = line.get("step")?.as_u64()?;
        Some((step as usize, line))
    })
}

/// What stands before a warning in `train.log`.
pub const WARNING: &str = "warning: ";

/// `train.log`: readable lines, each with the time (UTC).
#[derive(Debug)]
pub struct TrainLog {
    path: PathBuf,
    file: File,
}

impl TrainLog {
    /// Opens the log, at its end if there is one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut file = open_own(path, File::options().read(true).append(true).create(true))?;
        // the last line may have been cut off by a crash
        let begun =
            ends_a_line(&mut file).and_then(|whole| if whole { Ok(()) } else { file.write_all(b"\n") });
        begun.map_err(|e| Error::file(path, format!("cannot be continued: {e}")))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Begins a new file where the old one was removed or replaced in the meantime; true where it was.
    pub fn reopen(&mut self, path: &Path) -> Result<bool> {
        let lost = !is_at(&self.file, path);
        if lost {
            *self = Self::open(path)?;
        }
        Ok(lost)
    }

    /// Appends a text; each of its lines gets the time.
    pub fn line(&mut self, text: &str) -> Result<()> {
        let now = timestamp(SystemTime::now());
        let text: String = lines(text).lines().map(|line| format!("{now}  {line}\n")).collect();
        self.file
            .write_all(text.as_bytes())
            .map_err(|e| Error::file(&self.path, format!("cannot be written: {e}; is the disk full?")))
    }
}

/// A time as `2026-01-31 12:34:56Z`.
pub fn timestamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 1970 to a date of the Gregorian calendar, in years that start in March, so that a leap day
    // is the last of its year, and eras of 400 years; day 0 of an era is 1 March.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

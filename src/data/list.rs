//! Images named in a text file, with or without labels.
//!
//! A line is `PATH` or `PATH LABEL`; paths are relative to the folder the file lies in. The separator is a
//! tab; in a line without one, the white space or comma behind the last image extension (`.jpg`, ...), so
//! that paths and labels may hold spaces; in a line without an image extension, the white space or comma
//! before a whole number at its end. Labels are whole numbers or names. Empty lines and lines that start with
//! `#` are skipped.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::data::bad_samples::BadSample;
use crate::data::decode::{decode_file, is_image_extension};
use crate::data::labels::Labels;
use crate::data::pixels::Image;
use crate::data::reading::Reading;
use crate::data::source::{Source, check_count};
use crate::error::{Error, Result};

/// The images of a list, in its order.
pub struct List {
    file: PathBuf,
    /// The folder that paths are relative to.
    root: PathBuf,
    text: String,
    /// Per image 16 bytes beside the text.
    lines: Vec<Line>,
    /// Empty where no line has a label.
    classes: Vec<String>,
    reading: Reading,
}

/// Where the path of an image stands in the text, bytes, and its class.
struct Line {
    start: usize,
    len: u32,
    class: u32,
}

impl List {
    /// Reads the list `file`; the images themselves are not looked at.
    pub fn open(file: impl AsRef<Path>, reading: &Reading) -> Result<Self> {
        let file = file.as_ref();
        let text = std::fs::read_to_string(file).map_err(|e| {
            let problem = match e.kind() {
                ErrorKind::NotFound => {
                    "no such list; give a text file with the path of an image a line".into()
                }
                ErrorKind::InvalidData => {
                    "is not UTF-8 text; give a text file with the path of an image a line".into()
                }
                _ => format!("cannot be read: {e}; give a text file with the path of an image a line"),
            };
            Error::file(file, problem)
        })?;
        let (mut lines, mut labels) = (Vec::new(), Labels::default());
        let (mut labelled, mut unlabelled) = (None, None);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start_matches('\u{feff}').trim_ascii();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (path, label) = split_label(line);
            let class = match label {
                Some(label) => labels.number(label),
                None => 0,
            };
            let seen = if label.is_some() { &mut labelled } else { &mut unlabelled };
            seen.get_or_insert(number + 1);
            // Lines are parts of the text, so the distance of the two is where the path starts.
            let start = path.as_ptr() as usize - text.as_ptr() as usize;
            lines.push(Line { start, len: path.len() as u32, class });
        }
        if let (Some(with), Some(without)) = (labelled, unlabelled) {
            let problem =
                format!("line {without} has no label, but line {with} has one; label all lines or none");
            return Err(Error::file(file, problem));
        }
        if lines.is_empty() {
            return Err(Error::file(file, "names no images; give the path of an image a line"));
        }
        check_count(lines.len(), file)?;
        lines.shrink_to_fit();
        let (classes, class_of) = labels.into_classes();
        if labelled.is_some() {
            lines.iter_mut().for_each(|line| line.class = class_of[line.class as usize]);
        }
        let root = file.parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(Self { file: file.to_path_buf(), root, text, lines, classes, reading: *reading })
    }

    /// The path of image `i` as it is written.
    fn path(&self, i: usize) -> &str {
        let line = &self.lines[i];
        &self.text[line.start..line.start + line.len as usize]
    }
}

/// The path and the label of a line, as the head of this file says.
fn split_label(line: &str) -> (&str, Option<&str>) {
    let separates = |c: char| c == ',' || c.is_ascii_whitespace();
    let is_image = |path: &str| Path::new(path).extension().is_some_and(is_image_extension);
    if let Some((path, label)) = line.rsplit_once('\t') {
        return (path.trim_ascii_end(), Some(label.trim_ascii()));
    }
    if is_image(line) {
        return (line, None);
    }
    for (at, _) in line.rmatch_indices(separates) {
        let path = line[..at].trim_ascii_end();
        if is_image(path) {
            let label = line[at + 1..].trim_ascii();
            return (path, (!label.is_empty()).then_some(label));
        }
    }
    match line.rsplit_once(separates) {
        Some((path, label)) if label.parse::<i64>().is_ok() => {
            (path.trim_end_matches(separates), Some(label))
        }
        _ => (line, None),
    }
}

impl Source for List {
    fn len(&self) -> usize {
        self.lines.len()
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        let image = decode_file(&self.root.join(self.path(i)), &self.reading);
        image.map(Image::from).map_err(|fault| fault.of(self.name(i)))
    }
    fn label(&self, i: usize) -> Option<u32> {
        (!self.classes.is_empty()).then(|| self.lines[i].class)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn name(&self, i: usize) -> String {
        self.path(i).into()
    }
    fn describe(&self) -> String {
        format!("list:{}", self.file.display())
    }
}

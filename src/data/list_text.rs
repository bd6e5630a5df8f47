//! The lines of an image list: which part of each is a path, which a label.
//!
//! A first line that names its columns (`path,label`, `image_path<TAB>class`, in any order and beside others)
//! makes the list a table: fields between tabs, commas or semicolons, quoted where they hold one, with `""` for
//! a quote. Without such a line, a line is `PATH` or `PATH LABEL`. The separator is then a tab; in a line without
//! one, the white space or comma behind the last image extension (`.jpg`, ...), so that paths and labels may hold
//! spaces; in a line without an image extension, the white space or comma before a whole number at its end. A
//! path in quotes is taken out of them. The label `-1` says that there is none. Empty lines and lines that start with `#`
//! are skipped.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::ops::Range;

use crate::data::decode::is_image_extension;
use crate::data::labels::{Labels, written};

/// What a column of paths is called, best first: in lower case, without `_`, `-` and spaces.
const PATHS: &[&str] = &[
    "path",
    "filepath",
    "imagepath",
    "imgpath",
    "relativepath",
    "relpath",
    "absolutepath",
    "fullpath",
    "filename",
    "file",
    "imagefilename",
    "imagefile",
    "imgfile",
    "imagename",
    "imgname",
    "fname",
    "image",
    "img",
];
/// What a column of labels is called, best first.
const LABELS: &[&str] = &[
    "label",
    "class",
    "target",
    "category",
    "labelname",
    "classname",
    "categoryname",
    "labelid",
    "classid",
    "categoryid",
    "labels",
    "y",
];
/// Bytes between the fields of a table.
const DELIMITERS: &[u8] = b"\t,;";
/// The separator of a table with one column: a byte that no list has.
const NONE: u8 = 0;

/// The images of a list.
#[derive(Default)]
pub(super) struct Lines {
    /// All paths, one after the other.
    paths: Vec<u8>,
    /// Where each path ends.
    ends: Vec<usize>,
    /// The provisional number of each label.
    pub labels_of: Vec<Option<u32>>,
    /// The labels.
    pub labels: Labels,
    /// The numbers of the first lines without a label, from 1.
    pub unlabelled: Vec<usize>,
    /// What a person should know.
    pub remarks: Vec<String>,
}

impl Lines {
    /// The number of images.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The path of image `i` as it is written.
    pub fn path(&self, i: usize) -> &[u8] {
        &self.paths[self.range(i)]
    }

    fn range(&self, i: usize) -> Range<usize> {
        i.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[i]
    }

    /// Reads a whole list; an error says what is wrong with it.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let text = plain_text(text)?;
        let end = if text.contains(&b'\n') { b'\n' } else { b'\r' };
        let is_read = |line: &[u8]| !matches!(line.trim_ascii().first(), None | Some(b'#'));
        let lines = text.split(|byte| *byte == end).map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut lines = lines.enumerate().filter(|(_, line)| is_read(line)).peekable();
        let mut all = Self::default();
        let table = match lines.next_if(|(_, line)| Table::named(line).is_some()) {
            Some((_, line)) => Table::named(line),
            None => {
                let mut ahead = lines.clone();
                if let (Some((number, first)), Some((_, second))) = (ahead.next(), ahead.next()) {
                    other_names(number, first, second)?;
                }
                None
            }
        };
        if let Some(table) = &table
            && table.label.is_none()
            && table.columns > 1
        {
            all.remarks.push(format!(
                "the list's first line names no column of labels ({}): its images have none",
                LABELS[..4].join(", ")
            ));
        }
        let (mut count, mut wrong, mut failed) = (0, Vec::new(), 0);
        for (number, line) in lines {
            count += 1;
            let read = match &table {
                Some(table) => table.read(line),
                None => read_line(line.trim_ascii()),
            };
            if let Err(problem) = read.and_then(|(path, label)| all.add(number + 1, &path, label.as_deref()))
            {
                failed += 1;
                if wrong.len() < 3 {
                    wrong.push(format!("line {} (`{}`) {problem}", number + 1, shown(line)));
                }
            }
        }
        match failed {
            0 => Ok(all),
            _ => Err(format!("{failed} of its {count} lines cannot be read: {}", wrong.join("; "))),
        }
    }

    fn add(&mut self, line: usize, path: &[u8], label: Option<&[u8]>) -> Result<(), String> {
        if path.is_empty() {
            return Err("names no image".into());
        }
        if cfg!(not(unix)) && std::str::from_utf8(path).is_err() {
            return Err("is not UTF-8 text".into());
        }
        let class = match label {
            None => None,
            Some(label) => {
                let text = std::str::from_utf8(label).map_err(|_| "has a label that is not UTF-8 text")?;
                written(text).map(|text| self.labels.number(text))
            }
        };
        if class.is_none() && self.unlabelled.len() < 3 {
            self.unlabelled.push(line);
        }
        self.paths.extend(path);
        self.ends.push(self.paths.len());
        self.labels_of.push(class);
        Ok(())
    }
}

/// A path and its label, if it has one.
type Parts<'a> = (Cow<'a, [u8]>, Option<Cow<'a, [u8]>>);

/// The text without a byte order mark; refuses what is none.
fn plain_text(text: &[u8]) -> Result<&[u8], String> {
    let wide = text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]);
    if wide || text.contains(&0) {
        let what = if wide { "is UTF-16 text" } else { "holds zero bytes: it is no plain text" };
        return Err(format!("{what}; save it as UTF-8, with the path of an image a line"));
    }
    Ok(text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text))
}

/// A list whose first line names its columns.
struct Table {
    delimiter: u8,
    columns: usize,
    path: usize,
    label: Option<usize>,
}

impl Table {
    /// The table whose columns `line` names, if it does.
    fn named(line: &[u8]) -> Option<Self> {
        let delimiter = DELIMITERS.iter().copied().find(|byte| line.contains(byte)).unwrap_or(NONE);
        let names: Vec<String> = fields(line, delimiter).ok()?.iter().map(|name| plain_name(name)).collect();
        let find =
            |known: &[&str]| known.iter().find_map(|known| names.iter().position(|name| name == known));
        let label = find(LABELS);
        Some(Self { delimiter, columns: names.len(), path: find(PATHS)?, label })
    }

    fn read<'a>(&self, line: &'a [u8]) -> Result<Parts<'a>, String> {
        let mut fields = fields(line, self.delimiter)?;
        if fields.len() > self.columns {
            return Err(format!(
                "has {} fields, and the first line names {} columns: put \" around a field that holds a separator",
                fields.len(),
                self.columns
            ));
        }
        let mut field = |column: usize| fields.get_mut(column).map(std::mem::take).unwrap_or_default();
        let label = self.label.map(&mut field).filter(|label| !label.is_empty());
        Ok((field(self.path), label))
    }
}

/// The name of a column in lower case, without what people put between its words.
fn plain_name(name: &[u8]) -> String {
    let kept = name.iter().filter(|byte| !b"_- ".contains(byte));
    kept.map(|byte| byte.to_ascii_lowercase() as char).collect()
}

/// Refuses a first line that seems to name columns, but none that is known.
fn other_names(number: usize, first: &[u8], second: &[u8]) -> Result<(), String> {
    let Some(delimiter) = DELIMITERS.iter().copied().find(|byte| first.contains(byte)) else { return Ok(()) };
    let (Ok(names), Ok(values)) = (fields(first, delimiter), fields(second, delimiter)) else {
        return Ok(());
    };
    let is_name = |text: &[u8]| {
        let number = std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok());
        !number && !is_image(text) && !text.contains(&b'/') && !text.contains(&b'\\')
    };
    let images = values.iter().filter(|value| is_image(value)).count();
    if names.len() != values.len() || images != 1 || !names.iter().all(|name| is_name(name)) {
        return Ok(());
    }
    Err(format!(
        "line {} (`{}`) seems to name columns, but none that is known: call that of the paths `path` and that of the \
         labels `label`",
        number + 1,
        shown(first)
    ))
}

/// The fields of a line of a table, without white space and quotes around them.
fn fields(line: &[u8], delimiter: u8) -> Result<Vec<Cow<'_, [u8]>>, String> {
    let (mut all, mut rest) = (Vec::new(), line);
    loop {
        let (field, after) = match without_spaces(rest).strip_prefix(b"\"") {
            Some(quoted) => {
                let (field, after) = unquote(quoted)?;
                let after = without_spaces(after);
                if after.first().is_some_and(|byte| *byte != delimiter) {
                    return Err("has text behind a closing quote".into());
                }
                (field, after)
            }
            None => {
                let end = rest.iter().position(|byte| *byte == delimiter).unwrap_or(rest.len());
                (Cow::Borrowed(rest[..end].trim_ascii()), &rest[end..])
            }
        };
        all.push(field);
        match after.split_first() {
            None => return Ok(all),
            Some((_, next)) => rest = next,
        }
    }
}

/// The text behind spaces that it may begin with: a tab can be a separator.
fn without_spaces(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|byte| **byte == b' ').count()..]
}

/// The text up to the closing quote, and what follows it; two quotes stand for one.
fn unquote(text: &[u8]) -> Result<(Cow<'_, [u8]>, &[u8]), String> {
    let mut field: Cow<[u8]> = Cow::Borrowed(b"");
    let mut rest = text;
    loop {
        let end = rest.iter().position(|byte| *byte == b'"').ok_or("has a quote that is not closed")?;
        match field.is_empty() {
            true => field = Cow::Borrowed(&rest[..end]),
            false => field.to_mut().extend(&rest[..end]),
        }
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"\"") {
            Some(more) => {
                field.to_mut().push(b'"');
                rest = more;
            }
            None => return Ok((field, rest)),
        }
    }
}

/// The path and the label of a line of a list that is no table.
fn read_line(line: &[u8]) -> Result<Parts<'_>, String> {
    if let Some(quoted) = line.strip_prefix(b"\"") {
        let (path, rest) = unquote(quoted)?;
        let rest = rest.trim_ascii();
        let label =
            DELIMITERS.iter().find_map(|byte| rest.strip_prefix(&[*byte])).unwrap_or(rest).trim_ascii();
        let label = match label.strip_prefix(b"\"") {
            Some(quoted) => unquote(quoted)?.0,
            None => Cow::Borrowed(label),
        };
        return Ok((path, (!label.is_empty()).then_some(label)));
    }
    let (path, label) = split_label(line)?;
    Ok((path.into(), label.map(Cow::Borrowed)))
}

fn split_label(line: &[u8]) -> Result<(&[u8], Option<&[u8]>), String> {
    let separates = |byte: &u8| *byte == b',' || byte.is_ascii_whitespace();
    if let Some(tab) = line.iter().position(|byte| *byte == b'\t') {
        let (path, label) = (line[..tab].trim_ascii_end(), line[tab + 1..].trim_ascii());
        let columns = 2 + label.iter().filter(|byte| **byte == b'\t').count();
        if columns > 2 {
            return Err(format!(
                "has {columns} columns, and no first line says which is the `path`, which the `label`"
            ));
        }
        if is_image(label) && !is_image(path) {
            return Err(
                "has the path behind the label: let the first line be `label`, a tab and `path`".into()
            );
        }
        return Ok((path, (!label.is_empty()).then_some(label)));
    }
    if is_image(line) {
        return Ok((line, None));
    }
    let separators = (0..line.len()).rev().filter(|at| separates(&line[*at]));
    for at in separators {
        let path = line[..at].trim_ascii_end();
        if is_image(path) {
            let label = line[at + 1..].trim_ascii();
            return Ok((path, (!label.is_empty()).then_some(label)));
        }
    }
    if let Some(at) = line.iter().rposition(separates) {
        let (path, label) = (&line[..at], &line[at + 1..]);
        if std::str::from_utf8(label).is_ok_and(|label| label.parse::<i64>().is_ok()) {
            let end = path.iter().rposition(|byte| !separates(byte)).map_or(0, |last| last + 1);
            return Ok((&path[..end], Some(label)));
        }
    }
    Ok((line, None))
}

/// Whether a path ends as that of an image.
fn is_image(path: &[u8]) -> bool {
    let Some(dot) = path.iter().rposition(|byte| *byte == b'.') else { return false };
    std::str::from_utf8(&path[dot + 1..]).is_ok_and(|extension| is_image_extension(OsStr::new(extension)))
}

/// The beginning of a line, for a message.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        shown.push_str("...");
    }
    shown
}

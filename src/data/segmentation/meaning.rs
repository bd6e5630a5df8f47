//! What the values of mask files mean.

use std::collections::BTreeMap;
use std::path::Path;

use crate::data::pixels::IGNORED;
use crate::error::{Error, Result};
use crate::shown::shown;

/// Most classes: a byte holds a class or [`IGNORED`].
pub const MOST_CLASSES: usize = IGNORED as usize;

/// What the values of masks mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Meaning {
    /// The names of the classes.
    pub classes: Vec<String>,
    /// Classes by colour; empty where masks hold indices.
    pub palette: BTreeMap<[u8; 3], u8>,
    /// The index of pixels that are not looked at, where masks hold indices.
    pub ignore: Option<u16>,
    /// Whether index 0 is not looked at and class 0 has index 1, as ADE20K counts.
    pub from_one: bool,
}

impl Meaning {
    /// So many classes, named by their number.
    pub fn numbered(classes: usize) -> Self {
        let classes = (0..classes).map(|class| class.to_string()).collect();
        Self { classes, palette: BTreeMap::new(), ignore: Some(u16::from(IGNORED)), from_one: false }
    }

    /// Names of classes, a line each, that a text file holds; where lines begin with a colour (`#rrggbb`, or three numbers), masks
    /// are pictures in these colours. Empty lines and those that begin with `# ` are passed over. What is no such file is
    /// an error that names the line.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let wrong = |line: usize, what: String| Error::file(path, format!("line {}: {what}", line + 1));
        let (mut classes, mut palette, mut first_name) = (Vec::new(), BTreeMap::new(), None);
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line == "#" || line.starts_with("# ") {
                continue;
            }
            if classes.len() == MOST_CLASSES {
                return Err(wrong(i, format!("there are more than {MOST_CLASSES} classes")));
            }
            let class = classes.len() as u8;
            match colour(line) {
                Some((colour, name)) => {
                    if palette.insert(colour, class).is_some() {
                        return Err(wrong(i, format!("colour {colour:?} is that of another class already")));
                    }
                    classes.push(if name.is_empty() { class.to_string() } else { name.to_string() });
                }
                None => {
                    first_name.get_or_insert(i);
                    classes.push(line.to_string());
                }
            }
        }
        if let (Some(line), false) = (first_name, palette.is_empty()) {
            return Err(wrong(line, "has no colour, and other lines have: give one to each class".into()));
        }
        if classes.is_empty() {
            return Err(Error::file(path, "names no classes; it must have a line for each"));
        }
        let mut sorted = classes.clone();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::file(path, format!("names class `{}` twice", shown(&twice[0]))));
        }
        Ok(Self { classes, palette, ignore: Some(u16::from(IGNORED)), from_one: false })
    }

    /// The class of an index, or [`IGNORED`]; `None` where it means nothing.
    pub fn of_index(&self, index: u16) -> Option<u8> {
        if self.ignore == Some(index) {
            return Some(IGNORED);
        }
        let class = match (self.from_one, index) {
            (true, 0) => return Some(IGNORED),
            (true, index) => index - 1,
            (false, index) => index,
        };
        (usize::from(class) < self.classes.len()).then_some(class as u8)
    }
}

/// The colour that a line begins with, and what follows it.
fn colour(line: &str) -> Option<([u8; 3], &str)> {
    if let Some(rest) = line.strip_prefix('#') {
        let digits = rest.get(..6).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let value = u32::from_str_radix(digits, 16).ok()?;
        let [_, r, g, b] = value.to_be_bytes();
        return Some(([r, g, b], rest[6..].trim()));
    }
    let mut rest = line;
    let mut colour = [0; 3];
    for value in &mut colour {
        let end = rest.find([' ', '\t', ',']).unwrap_or(rest.len());
        *value = rest[..end].parse().ok()?;
        rest = rest[end..].trim_start_matches([' ', '\t', ',']);
    }
    Some((colour, rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_colours() {
        assert_eq!(colour("#ff8001 road"), Some(([255, 128, 1], "road")));
        assert_eq!(colour("128 64, 0"), Some(([128, 64, 0], "")));
        assert_eq!(colour("128\t64\t0\ttraffic light"), Some(([128, 64, 0], "traffic light")));
        for line in ["road", "12 sheep", "#12", "300 0 0 x", "#gggggg x"] {
            assert_eq!(colour(line), None, "{line}");
        }
    }

    #[test]
    fn indices() {
        let plain = Meaning::numbered(3);
        assert_eq!([0, 2, 3, 255].map(|i| plain.of_index(i)), [Some(0), Some(2), None, Some(IGNORED)]);
        let ade = Meaning { from_one: true, ignore: None, ..Meaning::numbered(3) };
        assert_eq!([0, 1, 3, 4, 255].map(|i| ade.of_index(i)), [Some(IGNORED), Some(0), Some(2), None, None]);
    }
}

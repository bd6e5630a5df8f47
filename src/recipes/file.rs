//! A recipe's file: read with bounds, and told from what people give in its place.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::Table;
use toml::de::DeTable;

use crate::error::{Error, Result};
use crate::shown::shown;

/// Bytes that no recipe exceeds; what is larger is something else.
const MOST_BYTES: u64 = 16 << 20;
/// Mistakes that are named of a file that is not TOML: later ones often follow from earlier ones.
const NAMED: usize = 5;

/// The text of a recipe's file, which may be a pipe.
pub(crate) fn read(path: &Path) -> Result<String> {
    if path.is_dir() {
        let inside = path.join("config.toml");
        let problem = match inside.is_file() {
            true => format!("is a folder; give the recipe in it, {}", shown(&inside)),
            false => "is a folder; give the TOML file itself".to_string(),
        };
        return Err(Error::file(path, problem));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::file(path, format!("cannot read this recipe: {e}")))?;
    if bytes.len() as u64 > MOST_BYTES {
        let problem = format!("has more than {} MiB, so it is no recipe; give a TOML file", MOST_BYTES >> 20);
        return Err(Error::file(path, problem));
    }
    decoded(bytes).map_err(|problem| Error::file(path, problem))
}

/// Bytes as text; Windows editors put a mark in front of it. The error is what is wrong with them.
fn decoded(bytes: Vec<u8>) -> std::result::Result<String, String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        return Err("is no UTF-8 text but perhaps UTF-16; save it as UTF-8".into());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_string)),
        Err(e) => {
            let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
            Err(format!("is not UTF-8 text: line {line} holds other bytes; save it as UTF-8"))
        }
    }
}

/// Reads TOML; `path` is what an error calls it, which names the places of all mistakes.
pub(super) fn parse(text: &str, path: &Path) -> Result<Table> {
    let errors = match text.parse::<Table>() {
        Ok(table) => return Ok(table),
        Err(e) => match DeTable::parse_recoverable(text).1 {
            all if all.is_empty() => vec![e],
            all => all,
        },
    };
    if let Some(problem) = another_format(text, path) {
        return Err(Error::file(path, problem));
    }
    // of a line the first is enough: others follow from it
    let mut lines = BTreeMap::new();
    for e in &errors {
        let (line, column) = place(text, e);
        let first = lines.entry(line).or_insert((column, e));
        if column < first.0 {
            *first = (column, e);
        }
    }
    let mistake = |(line, (column, e)): (usize, (usize, &toml::de::Error))| {
        format!("line {line}, column {column}: {}", e.message().trim().replace('\n', ", "))
    };
    let more = lines.len().saturating_sub(NAMED);
    let mut places: Vec<String> = lines.into_iter().take(NAMED).map(mistake).collect();
    if more > 0 {
        places.push(format!("and {more} more"));
    }
    Err(Error::file(path, format!("is not TOML: {}", places.join("; "))))
}

/// Line and column of a mistake.
fn place(text: &str, e: &toml::de::Error) -> (usize, usize) {
    let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    (1 + before.matches('\n').count(), 1 + before.rsplit('\n').next().unwrap_or_default().chars().count())
}

/// What to say of a text that is not TOML but looks like one of its relatives.
fn another_format(text: &str, path: &Path) -> Option<String> {
    let named = |names: &[&str]| {
        path.extension()
            .is_some_and(|extension| names.iter().any(|name| extension.eq_ignore_ascii_case(name)))
    };
    let how = "`poa-gpu config --print-default > my.toml` writes a recipe to start from, with the sections and keys \
               of the official YAML";
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    if named(&["json"]) || text.trim_start().starts_with('{') {
        return Some(format!(
            "is JSON, and recipes are TOML: write `[student]` and below it `patch_size = 16`, a key a line; {how}"
        ));
    }
    let pair = |line: &str| {
        let name = line.trim_start_matches("- ").split_once(':').map(|(name, rest)| (name.trim(), rest));
        name.is_some_and(|(name, rest)| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            !name.is_empty() && name.chars().all(plain) && (rest.is_empty() || rest.starts_with(' '))
        })
    };
    let looks = lines().next().is_some_and(|first| first == "---" || pair(first))
        && !lines().any(|line| line.starts_with('['));
    (named(&["yaml", "yml"]) || looks).then(|| {
        format!(
            "is YAML, and recipes are TOML: write `[student]` for `student:` and `patch_size = 16` for `patch_size: \
             16`; {how}"
        )
    })
}

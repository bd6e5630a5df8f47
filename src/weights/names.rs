//! Which tensor of a file is which parameter.

use std::collections::BTreeMap;

use crate::files::tensor_file::TensorFile;

/// What wrappers and checkpoints put before a parameter's name.
const PREFIXES: [&str; 5] = ["module.", "model.", "teacher.", "student.", "backbone."];

/// A tensor's name without what stands before it, and without the level of block chunks: of two numbers in a
/// row the first is a chunk's (`blocks.0.3.` is the block 3).
pub fn bare_name(name: &str) -> String {
    let mut rest = name;
    while let Some(shorter) = PREFIXES.iter().find_map(|p| rest.strip_prefix(p)) {
        rest = shorter;
    }
    let number = |level: &str| !level.is_empty() && level.bytes().all(|b| b.is_ascii_digit());
    let mut levels: Vec<&str> = rest.split('.').collect();
    if let Some(chunk) = levels.windows(2).position(|pair| number(pair[0]) && number(pair[1])) {
        levels.remove(chunk);
    }
    levels.join(".")
}

/// The tensors of a file by their bare names.
#[derive(Debug)]
pub struct Catalog {
    by_bare: BTreeMap<String, String>,
}

impl Catalog {
    /// The catalog of a file. Where student and teacher are both in it, the teacher's tensors count.
    pub fn of(file: &TensorFile) -> Self {
        let mut by_bare = BTreeMap::new();
        for name in file.names() {
            let place = by_bare.entry(bare_name(name)).or_insert_with(|| name.to_string());
            if name.contains("teacher.") {
                *place = name.to_string();
            }
        }
        Self { by_bare }
    }

    /// What the file calls the parameter that has this name, official or of a plain network.
    pub fn find(&self, name: &str) -> Option<&str> {
        self.by_bare.get(name.strip_prefix("backbone.").unwrap_or(name)).map(String::as_str)
    }

    /// All pairs of bare name and name in the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.by_bare.iter().map(|(bare, name)| (bare.as_str(), name.as_str()))
    }
}

//! Which tensor of a file is which parameter.

use std::collections::{BTreeMap, HashMap, HashSet};

/// A name without the level of block chunks: of two numbers in a row the first is a chunk's (`blocks.0.3.` is
/// the block 3).
pub fn unchunked(name: &str) -> String {
    let number = |level: &str| !level.is_empty() && level.bytes().all(|b| b.is_ascii_digit());
    let mut levels: Vec<&str> = name.split('.').collect();
    if let Some(chunk) = levels.windows(2).position(|pair| number(pair[0]) && number(pair[1])) {
        levels.remove(chunk);
    }
    levels.join(".")
}

/// The tensors of a file, with what wrappers and checkpoints put before a backbone's names (`module.`,
/// `teacher.backbone.`, `_orig_mod.`, ...): whatever most of the wanted names are found behind.
#[derive(Debug)]
pub struct Catalog {
    /// By their names without chunks.
    names: BTreeMap<String, String>,
    prefix: String,
    others: Vec<String>,
}

impl Catalog {
    /// The catalog of a file with these names for the parameters of these names, official or of a plain network. Where a teacher
    /// (or an average of the weights) and others are in it, the teacher's tensors count.
    pub fn of<'a, 'b>(
        names: impl Iterator<Item = &'b str>,
        wanted: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let wanted: HashSet<&str> =
            wanted.into_iter().map(|name| name.strip_prefix("backbone.").unwrap_or(name)).collect();
        let names: BTreeMap<String, String> = names.map(|name| (unchunked(name), name.to_string())).collect();
        let mut found: HashMap<&str, usize> = HashMap::new();
        for name in names.keys() {
            let starts = std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1));
            for start in starts.filter(|start| wanted.contains(&name[*start..])) {
                *found.entry(&name[..start]).or_default() += 1;
            }
        }
        let most = found.values().copied().max().unwrap_or(0);
        let mut near: Vec<(&str, usize)> = found.into_iter().filter(|(_, count)| 2 * count > most).collect();
        // the teacher, then the most, then the shortest
        near.sort_by_key(|(prefix, count)| {
            (!is_teacher(prefix), std::cmp::Reverse(*count), prefix.len(), prefix.to_string())
        });
        let mut near = near.into_iter().map(|(prefix, _)| prefix.to_string());
        let prefix = near.next().unwrap_or_default();
        // inside of one another they are ways to read the same tensors
        let others = near.filter(|other| !other.starts_with(&prefix)).collect();
        Self { names, prefix, others }
    }

    /// What the file calls the parameter that has this name, official or of a plain network.
    pub fn find(&self, name: &str) -> Option<&str> {
        let bare = name.strip_prefix("backbone.").unwrap_or(name);
        // heads stand beside the backbone
        let beside = self.prefix.strip_suffix("backbone.").unwrap_or(&self.prefix);
        let at = |prefix: &str| self.names.get(&format!("{prefix}{bare}")).map(String::as_str);
        at(&self.prefix).or_else(|| at(beside))
    }

    /// What stands before the names of the backbone that is taken.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What stands before the names of other backbones in the file.
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// All pairs of name without chunks and prefix, and name in the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let bare = |name| str::strip_prefix(name, &self.prefix).unwrap_or(name);
        self.names.iter().map(move |(name, source)| (bare(name.as_str()), source.as_str()))
    }
}

fn is_teacher(prefix: &str) -> bool {
    prefix.split('.').any(|level| {
        level.contains("teacher") || level == "ema" || level.ends_with("_ema") || level.starts_with("ema_")
    })
}

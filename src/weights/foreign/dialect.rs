//! How a library calls the tensors of a ViT.

use std::collections::BTreeSet;

/// The names of one library, beside timm's. Layers are given without `.weight` and `.bias`.
pub(super) struct Dialect {
    /// Whose they are.
    pub whose: &'static str,
    /// What stands before a block's number, the longest first.
    pub blocks: &'static [&'static str],
    /// Layers and tensors of a block: their name and timm's.
    pub inside: &'static [(&'static str, &'static str)],
    /// Layers of queries, keys and values, where they are three.
    pub qkv: Option<[&'static str; 3]>,
    /// Layers and tensors beside the blocks.
    pub outside: &'static [(&'static str, &'static str)],
    /// Tensors that our networks have no place for, and what is said where a file has one.
    pub dropped: &'static [(&'static str, &'static str)],
}

/// What a tensor is in timm's names.
#[derive(Debug, PartialEq)]
pub(super) struct Meaning {
    /// timm's name, behind the prefix that the file has.
    pub name: String,
    /// Which third of it: queries, keys or values.
    pub third: Option<usize>,
}

impl Dialect {
    /// What a tensor of this name is; none where these are not its words.
    pub fn meaning(&self, name: &str) -> Option<Meaning> {
        if let Some((prefix, number, part)) = self.in_block(name) {
            let of_third = |third: usize| stem(part, self.qkv?[third]).map(|end| (third, end));
            if let Some((third, end)) = (0..3).find_map(of_third) {
                let name = format!("{prefix}blocks.{number}.attn.qkv{end}");
                return Some(Meaning { name, third: Some(third) });
            }
            let known = self.inside.iter().find_map(|(theirs, ours)| Some((stem(part, theirs)?, ours)));
            return known.map(|(end, ours)| Meaning {
                name: format!("{prefix}blocks.{number}.{ours}{end}"),
                third: None,
            });
        }
        self.outside.iter().find_map(|(theirs, ours)| {
            let at = starts(name).find(|at| stem(&name[*at..], theirs).is_some())?;
            let end = stem(&name[at..], theirs)?;
            Some(Meaning { name: format!("{}{ours}{end}", &name[..at]), third: None })
        })
    }

    /// How many tensors of blocks these names know.
    pub fn known<'a>(&self, names: impl Iterator<Item = &'a str>) -> usize {
        names.filter(|name| self.in_block(name).is_some() && self.meaning(name).is_some()).count()
    }

    /// What is to be said of tensors without a place.
    pub fn notes<'a>(&self, names: impl Iterator<Item = &'a str>) -> BTreeSet<&'static str> {
        let note = |name: &str| {
            let of = |(theirs, note): &(&str, &'static str)| {
                starts(name).any(|at| stem(&name[at..], theirs).is_some()).then_some(*note)
            };
            self.dropped.iter().find_map(of)
        };
        names.filter_map(note).collect()
    }

    /// Prefix, number and rest of a name of a block's.
    fn in_block<'a>(&self, name: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
        self.blocks.iter().find_map(|word| {
            let at = starts(name).find(|at| name[*at..].starts_with(word))?;
            let (number, part) = name[at + word.len()..].split_once('.')?;
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            digits.then_some((&name[..at], number, part))
        })
    }
}

/// The places where levels of a name begin.
fn starts(name: &str) -> impl Iterator<Item = usize> {
    std::iter::once(0).chain(name.match_indices('.').map(|(dot, _)| dot + 1))
}

/// What is left of a name behind that of a layer: nothing, `.weight` or `.bias`.
fn stem<'a>(name: &'a str, layer: &str) -> Option<&'a str> {
    name.strip_prefix(layer).filter(|end| ["", ".weight", ".bias"].contains(end))
}

//! What every floor's settings are made of: the macro that declares their keys, and the checks of their
//! values.
//!
//! A struct of settings is a section of a recipe, or part of one. `settings!` writes it down once: each key
//! with its comment, type and default. What it says is what a recipe can hold, what `poa-gpu config
//! --print-default` prints and what the documentation shows. Checks go through [`Problems`], which collects
//! whatever is wrong, so that all of it is named at once.

use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::shown::shown;

/// A key of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// As it is written in a recipe.
    pub name: &'static str,
    /// What it means, one line after the other.
    pub comment: &'static [&'static str],
}

/// A struct of settings that `settings!` declared.
pub trait Settings: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned {
    /// Its keys, in the order of the declaration.
    fn keys() -> Vec<Key>;
}

/// Declares a struct of settings: its keys with comment, type and default. A key whose name is no Rust name
/// is given by `as "NAME"`. Structs named after the colon become part of it, under the field of that name,
/// with all their keys.
///
/// ```text
/// settings! {
///     /// Section `teacher`.
///     pub struct Teacher: shared: Shared {
///         /// Temperature of the targets.
///         pub teacher_temp: f64 = 0.07,
///         /// Steps of an epoch.
///         pub epoch_length as "OFFICIAL_EPOCH_LENGTH": usize = 800,
///     }
/// }
/// ```
macro_rules! settings {
    (
        $(#[$meta:meta])*
        pub struct $name:ident $(: $($base:ident: $Base:ty),+)? {
            $($(#[doc = $doc:literal])* pub $field:ident $(as $key:literal)?: $type:ty = $default:expr),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(
                #[doc = concat!("The keys of [`", stringify!($Base), "`].")]
                #[serde(flatten)]
                pub $base: $Base,
            )+)?
            $($(#[doc = $doc])* $(#[serde(rename = $key)])? pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($($base: Default::default(),)+)? $($field: $default,)* }
            }
        }

        impl $crate::checks::Settings for $name {
            fn keys() -> Vec<$crate::checks::Key> {
                #[allow(unused_mut)]
                let mut all: Vec<$crate::checks::Key> = Vec::new();
                $($(all.extend(<$Base as $crate::checks::Settings>::keys());)+)?
                all.extend([$($crate::checks::Key {
                    name: [$($key,)? stringify!($field)][0],
                    comment: &[$($doc),*],
                }),*]);
                all
            }
        }
    };
}
pub(crate) use settings;

/// The candidate nearest to `name`, if one is near at all: in spelling, or in that it goes on where `name`
/// ends.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    let likeness = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase();
        let goes_on = name.len() >= 3 && candidate.starts_with(&name);
        strsim::normalized_damerau_levenshtein(&name, &candidate).max(if goes_on { 0.5 } else { 0.0 })
    };
    candidates
        .map(|c| (likeness(c), c))
        .filter(|(score, _)| *score >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, c)| c)
}

/// What is said of a name that is none of those that are `known`: which one may be meant, and all of them.
pub fn unknown(kind: &str, name: &str, known: &[&str]) -> String {
    let meant = nearest(name, known.iter().copied()).map(|n| format!("did you mean `{n}`? "));
    let (name, meant) = (shown(name), meant.unwrap_or_default());
    match known.split_last() {
        Some((last, rest)) if !rest.is_empty() => {
            format!("there is no {kind} `{name}`; {meant}there are {} and {last}", rest.join(", "))
        }
        _ => format!("there is no {kind} `{name}`; {meant}there is {} alone", known.concat()),
    }
}

/// What is wrong with some settings, each with its key and a value that would work.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<(String, String)>,
}

impl Problems {
    /// Nothing wrong yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that a key is wrong.
    pub fn add(&mut self, key: impl Into<String>, problem: impl Into<String>) {
        let (key, problem) = (key.into(), problem.into());
        self.found.push((shown(&key).into_owned(), shown(&problem).into_owned()));
    }

    /// All of them: the keys with what is wrong with them.
    pub fn into_found(self) -> Vec<(String, String)> {
        self.found
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Changes what is said of all but the first `known`.
    pub fn amend(&mut self, known: usize, change: impl Fn(&str) -> String) {
        for (_, problem) in self.found.iter_mut().skip(known) {
            *problem = change(problem);
        }
    }

    /// An error that names everything that was found, if anything was.
    pub fn result(mut self) -> Result<()> {
        match self.found.len() {
            0 => Ok(()),
            1 => {
                let (key, problem) = self.found.remove(0);
                Err(Error::config(key, problem))
            }
            count => {
                let lines = self.found.iter().map(|(key, problem)| format!("\n  `{key}` {problem}"));
                Err(Error::Usage(format!("{count} settings are wrong:{}", lines.collect::<String>())))
            }
        }
    }

    /// Whether `holds`; where not, `key` has the problem.
    pub fn demand(&mut self, holds: bool, key: &str, problem: impl FnOnce() -> String) -> bool {
        if !holds {
            self.add(key, problem());
        }
        holds
    }

    /// Whether a number is in a range.
    pub fn within<T: PartialOrd + Display>(
        &mut self,
        key: &str,
        value: T,
        range: RangeInclusive<T>,
        example: T,
    ) -> bool {
        self.demand(range.contains(&value), key, || {
            let (low, high) = (range.start(), range.end());
            format!("is {value}; it must be {low} to {high}, for example {example}")
        })
    }

    /// Whether a number is finite and more than 0.
    pub fn positive(&mut self, key: &str, value: f64, example: f64) -> bool {
        self.demand(value > 0.0 && value.is_finite(), key, || {
            format!("is {value}; it must be more than 0, for example {example}")
        })
    }

    /// Whether two numbers are a range, smallest first, both within another.
    pub fn range(
        &mut self,
        key: &str,
        [a, b]: [f64; 2],
        within: RangeInclusive<f64>,
        example: [f64; 2],
    ) -> bool {
        self.demand(within.contains(&a) && within.contains(&b) && a <= b, key, || {
            let (low, high) = (within.start(), within.end());
            format!("is [{a}, {b}]; smallest first, both {low} to {high}, for example {example:?}")
        })
    }
}

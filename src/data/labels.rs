//! From labels as they are written to classes, and from the classes of one data set to another's.

use std::collections::{BTreeSet, HashMap};

use crate::shown::shown;

/// The distinct labels of a data set, in the order they are met.
#[derive(Default)]
pub struct Labels {
    numbers: HashMap<String, u32>,
}

impl Labels {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// The provisional number of the label `text`.
    pub fn number(&mut self, text: &str) -> u32 {
        let next = self.numbers.len() as u32;
        match self.numbers.get(text) {
            Some(&known) => known,
            None => *self.numbers.entry(text.into()).or_insert(next),
        }
    }

    /// The labels, by their provisional numbers.
    pub fn into_texts(self) -> Vec<String> {
        let mut texts: Vec<(u32, String)> = self.numbers.into_iter().map(|(text, n)| (n, text)).collect();
        texts.sort_unstable();
        texts.into_iter().map(|(_, text)| text).collect()
    }

    /// The names of the classes, and the class of every provisional number. Whole numbers are put in their
    /// order (and `07` is the same class as `7`), other names in that of the alphabet.
    pub fn into_classes(self) -> (Vec<String>, Vec<u32>) {
        let texts = self.into_texts();
        match texts.iter().map(|text| text.parse::<i64>()).collect::<Result<Vec<_>, _>>() {
            Ok(numbers) => classes(&numbers),
            Err(_) => classes(&texts),
        }
    }
}

fn classes<T: Ord + ToString>(labels: &[T]) -> (Vec<String>, Vec<u32>) {
    let distinct: Vec<&T> = labels.iter().collect::<BTreeSet<_>>().into_iter().collect();
    let class_of = |label| distinct.partition_point(|known| *known < label) as u32;
    (distinct.iter().map(|label| label.to_string()).collect(), labels.iter().map(class_of).collect())
}

/// The class among `theirs` of every class of `ours`: the one with the same name, or else with the same whole
/// number (`007` is `7`). An error holds those that are not there.
pub fn join<'a>(ours: &'a [String], theirs: &[String]) -> Result<Vec<u32>, Vec<&'a str>> {
    let mut by_name: HashMap<&str, u32> = HashMap::new();
    let mut by_number: HashMap<i64, u32> = HashMap::new();
    for (class, name) in theirs.iter().enumerate() {
        by_name.entry(name).or_insert(class as u32);
        if let Ok(number) = name.parse() {
            by_number.entry(number).or_insert(class as u32);
        }
    }
    let find = |name: &str| {
        let same_number = || name.parse().ok().and_then(|number: i64| by_number.get(&number));
        by_name.get(name).or_else(same_number).copied()
    };
    let unknown: Vec<&str> = ours.iter().map(String::as_str).filter(|name| find(name).is_none()).collect();
    match unknown.is_empty() {
        true => Ok(ours.iter().filter_map(|name| find(name)).collect()),
        false => Err(unknown),
    }
}

/// The first three of some names, as `a`, `b`, `c`, ...
pub fn first_three<S: AsRef<str>>(names: &[S]) -> String {
    let mut first: Vec<String> =
        names.iter().take(3).map(|name| format!("`{}`", shown(name.as_ref()))).collect();
    first.extend((names.len() > 3).then(|| "...".into()));
    first.join(", ")
}

/// A label as it is written in a list or a shard: none where there is no text, or `-1`, which says so in many data sets.
pub(super) fn written(text: &str) -> Option<&str> {
    (!text.is_empty() && text != "-1").then_some(text)
}

/// What a person should know of a data set of which some images have no label; `first` are the first of them.
pub(super) fn unlabelled_remark(count: usize, of: usize, first: &[String]) -> Option<String> {
    let some = (1..of).contains(&count);
    some.then(|| {
        format!(
            "{count} of {of} images have no label ({}{}): training takes them too, what needs labels leaves them out",
            first.join(", "),
            if count > first.len() { ", ..." } else { "" }
        )
    })
}

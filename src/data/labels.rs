//! From labels as they are written to classes.

use std::collections::{BTreeSet, HashMap};

/// The distinct labels of a data set, in the order they are met.
#[derive(Default)]
pub(super) struct Labels {
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

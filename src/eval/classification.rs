//! How good a classifier is: top-1 and top-5, every class by itself, and which classes it takes for which. Filled batch
//! by batch.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ops::top_k::TopK;
use crate::plot;
use crate::tensor::Tensor;

/// How many of the first guesses count for top-5.
const FIVE: usize = 5;

/// What a classifier said of images so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Classification {
    classes: usize,
    /// Images of whose first five guesses one is right.
    within_five: u64,
    /// Images by true class and first guess, where there are some: with many classes most pairs never occur.
    #[serde(with = "pairs")]
    confusion: BTreeMap<(u32, u32), u64>,
}

impl Classification {
    /// Nothing seen yet of so many classes.
    pub fn new(classes: usize) -> Self {
        Self { classes, within_five: 0, confusion: BTreeMap::new() }
    }

    /// Takes in logits `[n, classes]` of images with these classes. Of equal logits the first class is the guess; NaN
    /// counts as −∞.
    pub fn add_logits(&mut self, logits: &Tensor, labels: &[u32]) -> Result<()> {
        let rows = logits.rows("classification")?;
        if rows.cols != self.classes {
            let problem = format!("logits {logits:?} of {} classes", self.classes);
            return Err(Error::shape("classification", problem));
        }
        let mut largest = TopK::new(logits.device(), rows.rows, FIVE.min(self.classes))?;
        largest.add(logits, 0)?;
        let guesses: Vec<Vec<u32>> =
            largest.sorted()?.iter().map(|row| row.iter().map(|s| s.column).collect()).collect();
        self.add(&guesses, labels)
    }

    /// Takes in the guesses for images with these classes, the best first; those after the fifth do not matter.
    pub fn add(&mut self, guesses: &[Vec<u32>], labels: &[u32]) -> Result<()> {
        if guesses.len() != labels.len() {
            let problem = format!("guesses for {} images and {} labels", guesses.len(), labels.len());
            return Err(Error::shape("classification", problem));
        }
        // all or nothing is taken in
        for (guesses, label) in guesses.iter().zip(labels) {
            let outside = guesses.iter().chain([label]).find(|class| **class as usize >= self.classes);
            if guesses.is_empty() || outside.is_some() {
                let problem =
                    format!("class {label}, taken for {guesses:?}, of {} classes from 0 on", self.classes);
                return Err(Error::shape("classification", problem));
            }
        }
        for (guesses, label) in guesses.iter().zip(labels) {
            *self.confusion.entry((*label, guesses[0])).or_insert(0) += 1;
            self.within_five += u64::from(guesses.iter().take(FIVE).any(|guess| guess == label));
        }
        Ok(())
    }

    /// Takes in what others saw, as of another rank's images.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if other.classes != self.classes {
            let problem = format!("{} classes and {}", self.classes, other.classes);
            return Err(Error::shape("classification", problem));
        }
        self.within_five += other.within_five;
        other.confusion.iter().for_each(|(pair, count)| *self.confusion.entry(*pair).or_insert(0) += count);
        Ok(())
    }

    /// Number of images.
    pub fn images(&self) -> u64 {
        self.confusion.values().sum()
    }

    /// Share of the images whose first guess is right; none before there are any.
    pub fn top1(&self) -> Option<f64> {
        let right = self.confusion.iter().filter(|((label, guess), _)| label == guess);
        self.share(right.map(|(_, count)| count).sum())
    }

    /// Share of the images of whose first five guesses one is right.
    pub fn top5(&self) -> Option<f64> {
        self.share(self.within_five)
    }

    fn share(&self, of: u64) -> Option<f64> {
        let images = self.images();
        (images > 0).then(|| of as f64 / images as f64)
    }

    /// Share of every class's images whose first guess is right (its recall); none for a class without images.
    pub fn per_class(&self) -> Vec<Option<f64>> {
        let (mut right, mut all) = (vec![0; self.classes], vec![0; self.classes]);
        for (&(label, guess), count) in &self.confusion {
            all[label as usize] += count;
            right[label as usize] += if label == guess { *count } else { 0 };
        }
        right.iter().zip(all).map(|(r, n)| (n > 0).then(|| *r as f64 / n as f64)).collect()
    }

    /// The mean of [`Classification::per_class`] over the classes that have images.
    pub fn mean_per_class(&self) -> Option<f64> {
        let known: Vec<f64> = self.per_class().into_iter().flatten().collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }

    /// Images by (true class, first guess), pairs without any left out.
    pub fn confusion(&self) -> &BTreeMap<(u32, u32), u64> {
        &self.confusion
    }

    /// The pairs of different classes with the most images, (true class, first guess, images), the largest first.
    pub fn most_confused(&self, most: usize) -> Vec<(u32, u32, u64)> {
        let wrong = self.confusion.iter().filter(|((label, guess), _)| label != guess);
        let mut wrong: Vec<_> = wrong.map(|(&(label, guess), count)| (label, guess, *count)).collect();
        wrong.sort_by_key(|(label, guess, count)| (std::cmp::Reverse(*count), *label, *guess));
        wrong.truncate(most);
        wrong
    }

    /// Draws the confusion matrix with the classes' names into `<stem>.png` and `<stem>.svg`.
    pub fn draw(&self, names: &[String], title: &str, stem: &Path) -> Result<()> {
        if names.len() != self.classes {
            let problem = format!("{} names of {} classes", names.len(), self.classes);
            return Err(Error::shape("classification", problem));
        }
        plot::confusion_matrix(names, &self.confusion, title, stem)
    }
}

/// Maps as lists: JSON has no keys but texts.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Counts = BTreeMap<(u32, u32), u64>;

    pub fn serialize<S: Serializer>(counts: &Counts, to: S) -> Result<S::Ok, S::Error> {
        counts.iter().collect::<Vec<_>>().serialize(to)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Counts, D::Error> {
        Vec::<((u32, u32), u64)>::deserialize(from).map(|all| all.into_iter().collect())
    }
}

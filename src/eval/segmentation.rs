//! How well pixels are told apart: intersections over unions, from how often which class was taken for which.
//!
//! Of class c, TP pixels are rightly said to be of it, FP wrongly, and FN are missed: IoU = TP / (TP + FP + FN), accuracy =
//! TP / (TP + FN). Means are over the classes for which they are defined, as mmsegmentation has it.

use crate::data::pixels::IGNORED;

/// How often pixels of each class were taken for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `[classes, classes]`: by true class, by predicted class.
    counts: Vec<u64>,
}

impl Confusion {
    /// Without any pixel.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts the pixels of an image; those of [`IGNORED`] do not count.
    pub fn count(&mut self, truth: &[u8], predicted: &[u32]) {
        for (truth, predicted) in truth.iter().zip(predicted) {
            if *truth != IGNORED {
                self.counts[usize::from(*truth) * self.classes + *predicted as usize] += 1;
            }
        }
    }

    /// The counts, by true class, by predicted class.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Adds counts of as many classes.
    pub fn add(&mut self, counts: &[u64]) {
        self.counts.iter_mut().zip(counts).for_each(|(own, more)| *own += more);
    }

    /// Pixels that were counted.
    pub fn pixels(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn right(&self, class: usize) -> u64 {
        self.counts[class * self.classes + class]
    }

    /// Pixels of a class.
    pub fn of(&self, class: usize) -> u64 {
        self.counts[class * self.classes..][..self.classes].iter().sum()
    }

    fn said(&self, class: usize) -> u64 {
        self.counts.iter().skip(class).step_by(self.classes).sum()
    }

    /// Intersection over union of every class; `None` for one that no pixel is of or was said to be of.
    pub fn iou(&self) -> Vec<Option<f64>> {
        let of = |class| ratio(self.right(class), self.of(class) + self.said(class) - self.right(class));
        (0..self.classes).map(of).collect()
    }

    /// Share of the pixels of every class that were said to be of it; `None` for one without pixels.
    pub fn accuracy(&self) -> Vec<Option<f64>> {
        (0..self.classes).map(|class| ratio(self.right(class), self.of(class))).collect()
    }

    /// Mean intersection over union; `None` without pixels.
    pub fn mean_iou(&self) -> Option<f64> {
        mean(&self.iou())
    }

    /// Mean accuracy of the classes.
    pub fn mean_accuracy(&self) -> Option<f64> {
        mean(&self.accuracy())
    }

    /// Share of all pixels that are right.
    pub fn pixel_accuracy(&self) -> Option<f64> {
        ratio((0..self.classes).map(|class| self.right(class)).sum(), self.pixels())
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn mean(all: &[Option<f64>]) -> Option<f64> {
    let known: Vec<f64> = all.iter().flatten().copied().collect();
    (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
}

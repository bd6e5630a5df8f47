//! Which patches of the global crops are hidden from the students: iBOT's block masks.
//!
//! Of the 2B global crops a share is masked; the i-th of these n crops gets ⌊N·u⌋ of its N patches, u uniform
//! between the i-th and (i+1)-th of n+1 points on the ratio range, so that every batch holds light and heavy
//! masks. Patches are hidden in rectangles. Source: DINOv2 `dinov2/data/{masking,collate}.py`.

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::rng::{Purpose, stream};

/// Fewest patches of a rectangle (before it is cut to what may still be hidden).
const MIN_AREA: f64 = 4.0;
/// The flattest rectangle, height by width; the steepest is its inverse.
const MIN_ASPECT: f64 = 0.3;
/// Tries to place one rectangle.
const TRIES: usize = 10;

/// How masks are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskConfig {
    /// Cells a side; a mask has side² of them.
    pub side: usize,
    /// Share of the global crops that are masked.
    pub probability: f64,
    /// Range of the share of patches hidden in a masked crop.
    pub ratio: (f64, f64),
}

impl MaskConfig {
    /// The ViT recipe (for Swin and ResNet the ratio is 0.1 to 0.3).
    pub fn new(side: usize) -> Self {
        Self { side, probability: 0.5, ratio: (0.1, 0.5) }
    }

    /// The masks of step `step` for the `crops` = 2B global crops of a rank: [crops, side²], 1 where hidden.
    pub fn masks(&self, seed: u64, step: u64, rank: usize, crops: usize) -> Vec<u8> {
        let mut rng = stream(seed, Purpose::Masks, step, rank as u64);
        let cells = self.side * self.side;
        let masked = (crops as f64 * self.probability.clamp(0.0, 1.0)) as usize;
        let (low, high) = self.ratio;
        let point = |i: usize| low + (high - low) * i as f64 / masked as f64;
        let mut order: Vec<usize> = (0..crops).collect();
        order.shuffle(&mut rng);
        let mut all = vec![0; crops * cells];
        for (i, &crop) in order[..masked].iter().enumerate() {
            let wanted = (cells as f64 * between(&mut rng, point(i), point(i + 1))) as usize;
            fill(&mut rng, &mut all[crop * cells..][..cells], self.side, wanted.min(cells));
        }
        all
    }
}

/// Hides up to `wanted` cells of `mask` [side, side], rectangle by rectangle, until one cannot be placed.
fn fill(rng: &mut ChaCha8Rng, mask: &mut [u8], side: usize, wanted: usize) {
    let mut left = wanted;
    while left > 0 {
        match (0..TRIES).find_map(|_| place(rng, mask, side, left)) {
            Some(added) => left -= added,
            None => break,
        }
    }
}

/// Tries one rectangle; it counts if it hides at least one more cell and at most `left`. Gives the number
/// hidden.
fn place(rng: &mut ChaCha8Rng, mask: &mut [u8], side: usize, left: usize) -> Option<usize> {
    let area = between(rng, MIN_AREA, left as f64);
    let aspect = between(rng, MIN_ASPECT.ln(), -MIN_ASPECT.ln()).exp();
    let height = (area * aspect).sqrt().round_ties_even() as usize;
    let width = (area / aspect).sqrt().round_ties_even() as usize;
    if width >= side || height >= side {
        return None;
    }
    let (top, start) = (rng.random_range(0..=side - height), rng.random_range(0..=side - width));
    let rows = || (top..top + height).map(|y| y * side + start..y * side + start + width);
    let added = rows().map(|row| mask[row].iter().filter(|&&m| m == 0).count()).sum();
    if !(1..=left).contains(&added) {
        return None;
    }
    rows().for_each(|row| mask[row].fill(1));
    Some(added)
}

/// Uniform between two numbers in either order.
fn between(rng: &mut ChaCha8Rng, a: f64, b: f64) -> f64 {
    a + (b - a) * rng.random::<f64>()
}

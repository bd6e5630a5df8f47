//! Random erasing: a rectangle of a normalised image becomes noise. Sources: arXiv 1708.04896; timm
//! `data/random_erasing.py`, mode "pixel".

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use crate::data::draws::log_uniform;
use crate::data::resize::Area;

const TRIES: usize = 10;

/// A rectangle that is erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// Where it lies in the crop.
    pub area: Area,
    /// The seed of what it is filled with.
    pub seed: u64,
}

impl Erased {
    /// A rectangle in a crop of `size` pixels a side: its share of the area uniform, its height by width log-uniform in
    /// these ranges; none where ten tries are too long for the crop.
    pub fn draw(rng: &mut ChaCha8Rng, size: usize, share: (f64, f64), aspect: (f64, f64)) -> Option<Self> {
        for _ in 0..TRIES {
            let area = (size * size) as f64 * (share.0 + (share.1 - share.0) * rng.random::<f64>());
            let aspect = log_uniform(rng, aspect);
            let height = (area * aspect).sqrt().round_ties_even() as usize;
            let width = (area / aspect).sqrt().round_ties_even() as usize;
            if height < size && width < size {
                let top = rng.random_range(0..=size - height) as u32;
                let left = rng.random_range(0..=size - width) as u32;
                let area = Area { top, left, height: height as u32, width: width as u32 };
                return Some(Self { area, seed: rng.random() });
            }
        }
        None
    }

    /// Fills the rectangle of a normalised crop `[channels, size, size]` with unit normal noise, each value its own.
    pub fn fill(&self, crop: &mut [f32], size: usize) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let Area { top, left, height, width } = self.area;
        for plane in crop.chunks_exact_mut(size * size) {
            for row in plane.chunks_exact_mut(size).skip(top as usize).take(height as usize) {
                for v in &mut row[left as usize..][..width as usize] {
                    *v = StandardNormal.sample(&mut rng);
                }
            }
        }
    }
}

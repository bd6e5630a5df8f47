//! Mixing of the images of a batch in pairs: Mixup blends them, CutMix pastes a box of one into the other. Image i of n
//! goes with image n − 1 − i, all pairs of a batch alike, as timm does it "per batch". [`Mix::draw`] makes every random
//! choice, [`Mix::apply`] is a pure function of it, on the device.
//!
//! The targets, which are mixed in the same shares, are never laid out: see
//! [`soft_cross_entropy`](crate::ops::soft_cross_entropy).
//! Sources: timm `data/mixup.py`; Mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899).

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution};

use crate::autograd::{Tape, Var};
use crate::checks::{Problems, settings};
use crate::data::draws::chance;
use crate::data::recipe::BatchNumber;
use crate::data::resize::Area;
use crate::error::{Error, Result};
use crate::ops::gather::gather_rows;
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor, add_scaled, scale, strided_copy};

settings! {
    /// Of section `augment`: how images of a batch are mixed in pairs, and their labels with them.
    pub struct Mixing {
        /// Alpha of Mixup, which blends two images: their shares are Beta(alpha, alpha). 0 never blends.
        pub mixup_alpha: f64 = 0.8,
        /// Alpha of CutMix, which pastes a box of one image into the other. 0 never pastes.
        pub cutmix_alpha: f64 = 1.0,
        /// Probability of mixing a batch.
        pub mix_probability: f64 = 1.0,
        /// Probability of CutMix where both are possible; else it is Mixup.
        pub cutmix_probability: f64 = 0.5,
        /// Share of the target that all classes have alike.
        pub label_smoothing: f64 = 0.1,
    }
}

impl Mixing {
    /// No mixing, and plain labels.
    pub fn none() -> Self {
        Self { mixup_alpha: 0.0, cutmix_alpha: 0.0, label_smoothing: 0.0, ..Self::default() }
    }

    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        problems.within("augment.mixup_alpha", self.mixup_alpha, 0.0..=100.0, 0.8);
        problems.within("augment.cutmix_alpha", self.cutmix_alpha, 0.0..=100.0, 1.0);
        problems.within("augment.mix_probability", self.mix_probability, 0.0..=1.0, 1.0);
        problems.within("augment.cutmix_probability", self.cutmix_probability, 0.0..=1.0, 0.5);
        problems.within("augment.label_smoothing", self.label_smoothing, 0.0..=1.0, 0.1);
    }
}

/// How the images of one batch are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mix {
    /// The share of the own image, in pixels and target; the other one's is the rest. 1 where nothing is mixed.
    pub lambda: f32,
    /// The box that is the other image's; none where two images are blended, or nothing is mixed.
    pub cut: Option<Area>,
}

impl Mix {
    /// Nothing is mixed.
    pub const NONE: Self = Self { lambda: 1.0, cut: None };

    /// Draws the mix of a batch of images of `side` pixels a side.
    pub fn draw(mixing: &Mixing, at: BatchNumber, side: usize) -> Self {
        let mut rng = stream(at.seed, Purpose::Mixing, at.step, at.rank as u64);
        let (mixed, cutmix) =
            (chance(&mut rng, mixing.mix_probability), chance(&mut rng, mixing.cutmix_probability));
        let cutmix = mixing.cutmix_alpha > 0.0 && (cutmix || mixing.mixup_alpha <= 0.0);
        let alpha = if cutmix { mixing.cutmix_alpha } else { mixing.mixup_alpha };
        // alphas that are no positive numbers mix nothing
        let Some(beta) = Beta::new(alpha, alpha).ok().filter(|_| mixed) else { return Self::NONE };
        let lambda: f64 = beta.sample(&mut rng);
        match cutmix {
            true => Self::paste(&mut rng, lambda, side),
            false => Self { lambda: lambda as f32, cut: None },
        }
    }

    /// A box whose sides are √(1 − λ) of the image's, about any of its pixels. What lies beyond the border is cut
    /// off, and λ is what is left.
    fn paste(rng: &mut ChaCha8Rng, lambda: f64, side: usize) -> Self {
        let length = (side as f64 * (1.0 - lambda).sqrt()) as usize;
        let mut span = || {
            let centre = rng.random_range(0..side);
            let (start, end) = (centre.saturating_sub(length / 2), (centre + length.div_ceil(2)).min(side));
            (start as u32, (end - start) as u32)
        };
        let ((top, height), (left, width)) = (span(), span());
        let area = u64::from(height) * u64::from(width);
        if area == 0 {
            return Self::NONE;
        }
        let lambda = 1.0 - area as f64 / (side * side) as f64;
        Self { lambda: lambda as f32, cut: Some(Area { top, left, height, width }) }
    }

    /// Mixes normalised images `[n, C, S, S]`, which may be written over. In an odd batch the one in the middle goes
    /// with itself.
    pub fn apply(&self, images: Tensor) -> Result<Tensor> {
        let [n, channels, side, across] = *images.shape() else {
            return Err(Error::shape("mix", format!("images [n, C, S, S] expected, got {images:?}")));
        };
        if self.lambda >= 1.0 || n < 2 {
            return Ok(images);
        }
        let fits = |Area { top, left, height, width }| {
            (top + height) as usize <= side && (left + width) as usize <= across
        };
        if !self.cut.is_none_or(fits) {
            return Err(Error::shape("mix", format!("a box {:?} of {images:?}", self.cut)));
        }
        let order: Vec<u32> = (0..n as u32).rev().collect();
        let order = Tensor::from_slice(images.device(), &[n], &order)?;
        let rows = images.reshape(&[n, channels * side * across])?;
        let others = gather_rows(&Tape::no_grad(), &Var::constant(rows.clone()), &order)?;
        let others = others.value();
        match self.cut {
            Some(Area { top, left, height, width }) => {
                let cut = |all: &Tensor| {
                    let (top, left) = (top as usize, left as usize);
                    all.slice(2, top..top + height as usize)?.slice(3, left..left + width as usize)
                };
                strided_copy(&cut(&images)?, &cut(&others.reshape(images.shape())?)?, false)?;
                Ok(images)
            }
            None => {
                let mixed = Tensor::empty(images.device(), rows.shape(), DType::F32)?;
                scale(&mixed, &rows, self.lambda)?;
                add_scaled(&mixed, others, 1.0 - self.lambda)?;
                mixed.reshape(images.shape())
            }
        }
    }
}

/// The classes of the images that those of a batch are mixed with.
pub fn partners(labels: &[u32]) -> Vec<u32> {
    labels.iter().rev().copied().collect()
}

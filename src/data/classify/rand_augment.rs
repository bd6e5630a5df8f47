//! RandAugment as timm's `rand-m9-mstd0.5-inc1` has it: some operations drawn from a set, each done or not, as strong as
//! a magnitude of about 9 of 10 says. The strength of every operation of this set grows with the magnitude.
//!
//! Sources: RandAugment (arXiv 1909.13719); timm `data/auto_augment.py` (the "increasing" transforms).

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

use crate::data::draws::chance;

/// The largest magnitude.
const MOST: f64 = 10.0;

/// Which operations are drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationSet {
    /// timm's "increasing" ones: ten of colours and five of geometry.
    Increasing,
    /// Those of geometry alone, for images of any number of channels.
    Geometry,
}

impl OperationSet {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Increasing => &Kind::ALL,
            Self::Geometry => &Kind::ALL[..Kind::GEOMETRY],
        }
    }

    /// Whether it changes colours.
    pub fn of_colours(self) -> bool {
        self == Self::Increasing
    }
}

/// What an operation is, before it is known how strong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rotate,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    AutoContrast,
    Equalize,
    Invert,
    Posterize,
    Solarize,
    SolarizeAdd,
    Color,
    Contrast,
    Brightness,
    Sharpness,
}

impl Kind {
    /// Those of geometry come first.
    const GEOMETRY: usize = 5;
    const ALL: [Self; 15] = [
        Self::Rotate,
        Self::ShearX,
        Self::ShearY,
        Self::TranslateX,
        Self::TranslateY,
        Self::AutoContrast,
        Self::Equalize,
        Self::Invert,
        Self::Posterize,
        Self::Solarize,
        Self::SolarizeAdd,
        Self::Color,
        Self::Contrast,
        Self::Brightness,
        Self::Sharpness,
    ];

    /// The operation of magnitude 0 to 10, in one direction or the other.
    fn of(self, magnitude: f64, negative: bool) -> Operation {
        let level = magnitude / MOST;
        let signed = |most: f64| if negative { -level * most } else { level * most };
        let factor = (1.0 + signed(0.9)).max(0.1) as f32;
        match self {
            Self::Rotate => Operation::Rotate(signed(30.0)),
            Self::ShearX => Operation::ShearX(signed(0.3)),
            Self::ShearY => Operation::ShearY(signed(0.3)),
            Self::TranslateX => Operation::TranslateX(signed(0.45)),
            Self::TranslateY => Operation::TranslateY(signed(0.45)),
            Self::AutoContrast => Operation::AutoContrast,
            Self::Equalize => Operation::Equalize,
            Self::Invert => Operation::Invert,
            Self::Posterize => Operation::Posterize(4 - (level * 4.0) as u32),
            Self::Solarize => Operation::Solarize(256 - (level * 256.0) as u32),
            Self::SolarizeAdd => Operation::SolarizeAdd((level * 110.0) as u8),
            Self::Color => Operation::Color(factor),
            Self::Contrast => Operation::Contrast(factor),
            Self::Brightness => Operation::Brightness(factor),
            Self::Sharpness => Operation::Sharpness(factor),
        }
    }
}

/// An operation on an 8-bit image, and how strong it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    /// Turned by degrees, counter-clockwise, about the middle.
    Rotate(f64),
    /// Rows moved by so many columns a row.
    ShearX(f64),
    /// Columns moved by so many rows a column.
    ShearY(f64),
    /// Moved to the left by this share of the width.
    TranslateX(f64),
    /// Moved up by this share of the height.
    TranslateY(f64),
    /// Every channel stretched to 0 to 255.
    AutoContrast,
    /// Every channel's values made equally frequent.
    Equalize,
    /// 255 − v.
    Invert,
    /// Only so many of the highest bits.
    Posterize(u32),
    /// Values from this up inverted.
    Solarize(u32),
    /// Values below 128 raised by this.
    SolarizeAdd(u8),
    /// Factor on the distance from grey.
    Color(f32),
    /// Factor on the distance from the mean grey.
    Contrast(f32),
    /// Factor on all values.
    Brightness(f32),
    /// Factor on the distance from the smoothed image.
    Sharpness(f32),
}

/// How operations are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandAugment {
    /// Operations drawn for an image, the same one perhaps twice.
    pub operations: usize,
    /// Mean and standard deviation of the magnitude, which is cut to 0 to 10.
    pub magnitude: (f64, f64),
    /// Probability that an operation that was drawn is done.
    pub probability: f64,
    /// What is drawn from.
    pub set: OperationSet,
}

impl RandAugment {
    /// The operations for one image, in their order.
    pub fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<Operation> {
        let one = |_| {
            let kinds = self.set.kinds();
            let kind = kinds[rng.random_range(0..kinds.len())];
            let done = chance(rng, self.probability);
            let off: f64 = StandardNormal.sample(rng);
            let negative = chance(rng, 0.5);
            let magnitude = (self.magnitude.0 + self.magnitude.1 * off).clamp(0.0, MOST);
            done.then(|| kind.of(magnitude, negative))
        };
        (0..self.operations).filter_map(one).collect()
    }
}

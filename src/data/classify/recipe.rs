//! One crop of every image with its label, as the loader makes them.

use rand_chacha::ChaCha8Rng;

use crate::checks::Problems;
use crate::data::batch::WHOLE;
use crate::data::classify::augment::{apply_into, draw};
use crate::data::classify::settings::ClassifyAugment;
use crate::data::normalization::Normalization;
use crate::data::pixels::Image;
use crate::data::recipe::{GroupSpec, Recipe, Values};
use crate::data::scratch::Scratch;
use crate::error::{Error, Result};
use crate::rng::Purpose;

/// What a classifier is trained on: the group [`WHOLE`], a crop an image. Images must have labels
/// ([`labelled`](crate::data::labelled)).
#[derive(Clone, Debug, PartialEq)]
pub struct ClassifyCrops {
    /// Pixels a side.
    pub size: usize,
    /// What is done to images.
    pub augment: ClassifyAugment,
    /// What is done to the values of every channel.
    pub normalization: Normalization,
}

impl Recipe for ClassifyCrops {
    fn check(&self) -> Result<()> {
        let mut problems = Problems::new();
        self.augment.check(&mut problems);
        self.augment.check_colours(self.normalization.channels(), &mut problems);
        problems.result()?;
        match self.size {
            0 => Err(Error::Usage("crops must be at least one pixel a side".into())),
            _ => Ok(()),
        }
    }

    fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    fn groups(&self) -> Vec<GroupSpec> {
        // Noise comes after the normalisation, so where there is some, the workers normalise: four times the bytes
        // go to the device, which is little beside a step, and nothing that follows has to know of rectangles.
        let normalised = self.augment.erasing_probability > 0.0;
        vec![GroupSpec { name: WHOLE, views: 1, size: self.size, normalised, classes: false }]
    }

    fn purpose(&self) -> Purpose {
        Purpose::ClassifyCrops
    }

    fn repeats(&self) -> usize {
        self.augment.repeats
    }

    fn make(&self, image: &Image, rng: &mut ChaCha8Rng, scratch: &mut Scratch, crops: Vec<Values<'_>>) {
        let (size, fill) = (self.size, self.normalization.mean_bytes());
        let choices = draw(rng, &self.augment, size, image.dimensions());
        for out in crops {
            match out {
                Values::Bytes(out) | Values::Mapped(out, _) => {
                    apply_into(image, &choices, size, &fill, scratch, out)
                }
                Values::Floats(out) => {
                    let mut bytes = std::mem::take(&mut scratch.bytes);
                    bytes.resize(out.len(), 0);
                    apply_into(image, &choices, size, &fill, scratch, &mut bytes);
                    self.normalization.normalise_into(&bytes, size * size, out);
                    scratch.bytes = bytes;
                    if let Some(erased) = &choices.erased {
                        erased.fill(out, size);
                    }
                }
            }
        }
    }
}

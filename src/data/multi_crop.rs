//! Several crops of two sizes of every image, with masks of the larger ones: what pre-training sees.

use rand_chacha::ChaCha8Rng;

use crate::data::augment::{CropConfig, View, apply_into, draw};
use crate::data::batch::{GLOBAL, LOCAL, Masks};
use crate::data::masks::MaskConfig;
use crate::data::normalization::Normalization;
use crate::data::pixels::Image;
use crate::data::recipe::{BatchNumber, GroupSpec, Recipe, Values};
use crate::data::scratch::Scratch;
use crate::error::{Error, Result};
use crate::rng::Purpose;

/// Two global crops and any number of local ones.
#[derive(Clone, Debug, PartialEq)]
pub struct MultiCrop {
    /// The crops of every image.
    pub crops: CropConfig,
    /// The masks of the global crops.
    pub masks: MaskConfig,
}

impl Recipe for MultiCrop {
    fn check(&self) -> Result<()> {
        self.crops.check()?;
        match self.groups().iter().any(|group| group.size == 0) {
            true => Err(Error::Usage("crops must be at least one pixel a side".into())),
            false => Ok(()),
        }
    }

    fn normalization(&self) -> &Normalization {
        &self.crops.normalization
    }

    fn groups(&self) -> Vec<GroupSpec> {
        let CropConfig { global, local, local_count, .. } = &self.crops;
        let group = |name, views, size| GroupSpec { name, views, size, normalised: false, classes: false };
        let mut groups = vec![group(GLOBAL, 2, global.size)];
        groups.extend((*local_count > 0).then(|| group(LOCAL, *local_count, local.size)));
        groups
    }

    fn purpose(&self) -> Purpose {
        Purpose::Crops
    }

    fn make(&self, image: &Image, rng: &mut ChaCha8Rng, scratch: &mut Scratch, crops: Vec<Values<'_>>) {
        let views = [View::GlobalA, View::GlobalB].into_iter().chain(std::iter::repeat(View::Local));
        for (view, out) in views.zip(crops) {
            let choices = draw(rng, &self.crops, view, image.width(), image.height());
            let Values::Bytes(out) = out else { unreachable!("no group of these is normalised") };
            apply_into(image, &choices, scratch, out);
        }
    }

    fn masks(&self, group: &'static str, at: BatchNumber, crops: usize) -> Option<Masks> {
        let masks = || self.masks.masks(at.seed, at.step, at.rank, crops);
        (group == GLOBAL).then(|| Masks { side: self.masks.side, values: masks() })
    }
}

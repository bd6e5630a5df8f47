//! One large crop of every image and any number of small ones: what distillation from a teacher sees.

use rand_chacha::ChaCha8Rng;

use crate::data::augment::{CropConfig, View, apply_into, draw};
use crate::data::batch::{GLOBAL, LOCAL};
use crate::data::normalization::Normalization;
use crate::data::pixels::Image;
use crate::data::recipe::{GroupSpec, Recipe, Values};
use crate::data::scratch::Scratch;
use crate::error::{Error, Result};
use crate::rng::Purpose;

/// The first of two global crops, and the local ones: the groups [`GLOBAL`] and [`LOCAL`].
#[derive(Clone, Debug, PartialEq)]
pub struct LargeAndSmall {
    /// The crops of every image.
    pub crops: CropConfig,
}

impl Recipe for LargeAndSmall {
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
        let mut groups = vec![group(GLOBAL, 1, global.size)];
        groups.extend((*local_count > 0).then(|| group(LOCAL, *local_count, local.size)));
        groups
    }

    fn purpose(&self) -> Purpose {
        Purpose::DistillCrops
    }

    fn make(&self, image: &Image, rng: &mut ChaCha8Rng, scratch: &mut Scratch, crops: Vec<Values<'_>>) {
        let views = std::iter::once(View::GlobalA).chain(std::iter::repeat(View::Local));
        for (view, out) in views.zip(crops) {
            let choices = draw(rng, &self.crops, view, image.width(), image.height());
            let Values::Bytes(out) = out else { unreachable!("no group of these is normalised") };
            apply_into(image, &choices, scratch, out);
        }
    }
}

//! The section `augment`: what is done to the images that a classifier is trained on.

use crate::checks::{Problems, settings};
use crate::data::classify::mixup::Mixing;
use crate::data::classify::rand_augment::{OperationSet, RandAugment};

/// Most operations of RandAugment on an image.
const MOST_OPERATIONS: usize = 16;
/// Most samples of an image in a row.
const MOST_REPEATS: usize = 64;

settings! {
    /// Section `augment`: the crop of an image that a classifier is trained on, and what is done to it.
    pub struct ClassifyAugment: mixing: Mixing {
        /// Smallest and largest share of the image's area in a crop.
        pub crop_scale: [f64; 2] = [0.08, 1.0],
        /// Smallest and largest width of a crop by its height.
        pub crop_ratio: [f64; 2] = [0.75, 4.0 / 3.0],
        /// Pixels of black around images of up to 32 pixels a side that have the size of the crops: a crop is cut
        /// out of that without resizing. 0 crops and resizes small images as all others.
        pub crop_padding: usize = 4,
        /// Probability of a left-right flip.
        pub flip_probability: f64 = 0.5,
        /// RandAugment's operations drawn for an image; 0 for none.
        pub rand_augment_operations: usize = 2,
        /// What they are drawn from: "increasing", timm's operations that are stronger with a larger magnitude, on
        /// images of three channels; "geometry", those of them that turn, shear and move, on images of any number.
        pub rand_augment_set: OperationSet = OperationSet::Increasing,
        /// Mean of their magnitude, 0 to 10.
        pub rand_augment_magnitude: f64 = 9.0,
        /// Standard deviation of their magnitude.
        pub rand_augment_magnitude_std: f64 = 0.5,
        /// Probability that an operation that was drawn is done.
        pub rand_augment_probability: f64 = 0.5,
        /// Probability that a rectangle of a crop becomes noise.
        pub erasing_probability: f64 = 0.25,
        /// Smallest and largest share of the crop's area in the rectangle.
        pub erasing_area: [f64; 2] = [0.02, 1.0 / 3.0],
        /// Smallest and largest height of the rectangle by its width.
        pub erasing_aspect: [f64; 2] = [0.3, 1.0 / 0.3],
        /// How often an image is seen, in another crop each time, before the next one: repeated augmentation, as 3 of
        /// DeiT. Where that is more than once, an epoch still has as many samples as there are images.
        pub repeats: usize = 1,
    }
}

impl ClassifyAugment {
    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        self.mixing.check(problems);
        problems.range("augment.crop_scale", self.crop_scale, 1e-4..=1.0, [0.08, 1.0]);
        problems.range("augment.crop_ratio", self.crop_ratio, 0.01..=100.0, [0.75, 1.3333]);
        problems.within("augment.crop_padding", self.crop_padding, 0..=32, 4);
        problems.within("augment.flip_probability", self.flip_probability, 0.0..=1.0, 0.5);
        problems.within(
            "augment.rand_augment_operations",
            self.rand_augment_operations,
            0..=MOST_OPERATIONS,
            2,
        );
        problems.within("augment.rand_augment_magnitude", self.rand_augment_magnitude, 0.0..=10.0, 9.0);
        problems.within(
            "augment.rand_augment_magnitude_std",
            self.rand_augment_magnitude_std,
            0.0..=10.0,
            0.5,
        );
        problems.within("augment.rand_augment_probability", self.rand_augment_probability, 0.0..=1.0, 0.5);
        problems.within("augment.erasing_probability", self.erasing_probability, 0.0..=1.0, 0.25);
        problems.range("augment.erasing_area", self.erasing_area, 0.0..=1.0, [0.02, 0.3333]);
        problems.range("augment.erasing_aspect", self.erasing_aspect, 0.01..=100.0, [0.3, 3.3333]);
        problems.within("augment.repeats", self.repeats, 1..=MOST_REPEATS, 3);
    }

    /// Checks that colours are changed only where there are three channels.
    pub fn check_colours(&self, channels: usize, problems: &mut Problems) {
        let colours = self.rand_augment_operations > 0
            && self.rand_augment_probability > 0.0
            && self.rand_augment_set.of_colours();
        problems.demand(channels == 3 || !colours, "augment.rand_augment_set", || {
            format!(
                "is \"increasing\", which changes colours, and images of {channels} channels have none: it must be \
                 \"geometry\", or augment.rand_augment_operations 0"
            )
        });
    }

    /// How RandAugment's operations are drawn.
    pub(super) fn rand_augment(&self) -> RandAugment {
        RandAugment {
            operations: self.rand_augment_operations,
            magnitude: (self.rand_augment_magnitude, self.rand_augment_magnitude_std),
            probability: self.rand_augment_probability,
            set: self.rand_augment_set,
        }
    }
}

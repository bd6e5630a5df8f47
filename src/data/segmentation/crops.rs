//! The crop of an image and of its mask that a network learns from: the image at a random size, a square of it in which no
//! class may fill nearly all, a flip, other colours. Source: mmsegmentation's pipeline for ADE20K (`Resize`,
//! `RandomCrop`, `RandomFlip`, `PhotoMetricDistortion`); images are resized by a bicubic filter where that takes a bilinear one.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::checks::{Problems, settings};
use crate::data::batch::WHOLE;
use crate::data::draws::chance;
use crate::data::normalization::Normalization;
use crate::data::pixels::{IGNORED, Image};
use crate::data::recipe::{GroupSpec, Recipe, Values};
use crate::data::resize::{Area, resize_part};
use crate::data::scratch::Scratch;
use crate::data::segmentation::distortion::Distortion;
use crate::error::{Error, Result};
use crate::rng::Purpose;

/// Squares that are tried before one is taken in which a class fills nearly all.
const TRIES: usize = 10;

settings! {
    /// Section `augment`: the crop that a segmentation is learnt from.
    pub struct SegmentationAugment {
        /// Smallest and largest size of the image by the one that it is judged at.
        pub scale: [f64; 2] = [0.5, 2.0],
        /// Largest share of a crop in one class, of those with several; 1 takes any crop.
        pub largest_class: f64 = 0.75,
        /// Probability of a left-right flip.
        pub flip_probability: f64 = 0.5,
        /// Whether brightness, contrast, saturation and hue change at random.
        pub distortion: bool = true,
    }
}

impl SegmentationAugment {
    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        problems.range("augment.scale", self.scale, 0.01..=100.0, [0.5, 2.0]);
        problems.within("augment.largest_class", self.largest_class, 0.0..=1.0, 0.75);
        problems.within("augment.flip_probability", self.flip_probability, 0.0..=1.0, 0.5);
    }
}

/// The size at which images are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    /// Pixels of the short side.
    pub short: usize,
    /// Most pixels of the long side.
    pub long: usize,
}

impl Sides {
    /// Pixels across and down of an image that is seen `factor` times as large as that.
    pub fn of(self, (width, height): (u32, u32), factor: f64) -> (u32, u32) {
        let (w, h) = (f64::from(width), f64::from(height));
        let scale = (factor * self.short as f64 / w.min(h)).min(factor * self.long as f64 / w.max(h));
        let side = |length: f64| ((length * scale + 0.5) as u32).max(1);
        (side(w), side(h))
    }
}

/// What a segmentation is learnt from: the group [`WHOLE`], a crop an image, with a class a pixel. Images must have masks.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentationCrops {
    /// Pixels a side of a crop.
    pub size: usize,
    /// The size that images are judged at.
    pub sides: Sides,
    /// What is done to them.
    pub augment: SegmentationAugment,
    /// What is done to the values of every channel.
    pub normalization: Normalization,
}

/// All that is random about a crop.
#[derive(Clone, Debug, PartialEq)]
struct Choices {
    /// Pixels across and down of the whole image.
    resized: (u32, u32),
    /// What of it is seen.
    area: Area,
    flip: bool,
    distortion: Option<Distortion>,
}

impl SegmentationCrops {
    fn draw(&self, rng: &mut ChaCha8Rng, image: &Image) -> Choices {
        let [low, high] = self.augment.scale;
        let factor = if low < high { rng.random_range(low..high) } else { low };
        let resized = self.sides.of(image.dimensions(), factor);
        let side = self.size as u32;
        let (width, height) = (resized.0.min(side), resized.1.min(side));
        let mut area = Area { top: 0, left: 0, width, height };
        for _ in 0..TRIES {
            area.top = rng.random_range(0..=resized.1 - height);
            area.left = rng.random_range(0..=resized.0 - width);
            if self.augment.largest_class >= 1.0 || self.is_mixed(image, resized, area) {
                break;
            }
        }
        let flip = chance(rng, self.augment.flip_probability);
        let distortion = self.augment.distortion.then(|| Distortion::draw(rng));
        Choices { resized, area, flip, distortion }
    }

    /// Whether there are several classes in a crop, none of which fills more than it may.
    fn is_mixed(&self, image: &Image, resized: (u32, u32), area: Area) -> bool {
        let mut counts = [0u32; 256];
        class_rows(image, resized, area, |_, row| row.for_each(|class| counts[usize::from(class)] += 1));
        let counts = &counts[..usize::from(IGNORED)];
        let (total, most) = (counts.iter().sum::<u32>(), counts.iter().max().copied().unwrap_or(0));
        counts.iter().filter(|count| **count > 0).count() > 1
            && f64::from(most) < self.augment.largest_class * f64::from(total)
    }
}

/// Hands over the classes of a crop of a resized image, row by row: those of the nearest pixels. Without a mask none are known.
fn class_rows(
    image: &Image,
    (wide, high): (u32, u32),
    area: Area,
    mut take: impl FnMut(usize, &mut dyn Iterator<Item = u8>),
) {
    let (width, height) = image.dimensions();
    let nearest = |at: u32, from: u32, to: u32| (u64::from(at) * u64::from(from) / u64::from(to)) as usize;
    let columns: Vec<usize> = (area.left..area.left + area.width).map(|x| nearest(x, width, wide)).collect();
    for y in 0..area.height {
        let row = nearest(area.top + y, height, high) * width as usize;
        let class = |x: &usize| image.classes().map_or(IGNORED, |classes| classes[row + x]);
        take(y as usize, &mut columns.iter().map(class));
    }
}

impl Recipe for SegmentationCrops {
    fn check(&self) -> Result<()> {
        let mut problems = Problems::new();
        self.augment.check(&mut problems);
        problems.result()?;
        match self.size.min(self.sides.short).min(self.sides.long) {
            0 => Err(Error::Usage("crops must be at least one pixel a side".into())),
            _ => Ok(()),
        }
    }

    fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    fn groups(&self) -> Vec<GroupSpec> {
        vec![GroupSpec { name: WHOLE, views: 1, size: self.size, normalised: false, classes: true }]
    }

    fn purpose(&self) -> Purpose {
        Purpose::SegmentationCrops
    }

    fn make(&self, image: &Image, rng: &mut ChaCha8Rng, scratch: &mut Scratch, crops: Vec<Values<'_>>) {
        let choices = self.draw(rng, image);
        for out in crops {
            if let Values::Mapped(pixels, classes) = out {
                self.fill(image, &choices, scratch, pixels, classes);
            }
        }
    }
}

impl SegmentationCrops {
    fn fill(
        &self,
        image: &Image,
        choices: &Choices,
        scratch: &mut Scratch,
        pixels: &mut [u8],
        classes: &mut [u8],
    ) {
        let (size, channels) = (self.size, self.normalization.channels());
        let Choices { resized, area, flip, distortion } = choices;
        let (width, height) = (area.width as usize, area.height as usize);
        classes.fill(IGNORED);
        class_rows(image, *resized, *area, |y, row| {
            let to = &mut classes[y * size..][..width];
            to.iter_mut().zip(row).for_each(|(to, class)| *to = class);
            if *flip {
                to.reverse();
            }
        });
        // what of the source the crop shows: only that is resized
        let span = |first: u32, length: u32, from: u32, to: u32| {
            let scale = f64::from(from) / f64::from(to);
            (f64::from(first) * scale, f64::from(length) * scale)
        };
        let x = span(area.left, area.width, image.width(), resized.0);
        let y = span(area.top, area.height, image.height(), resized.1);
        let mut cut = std::mem::take(&mut scratch.pixels);
        resize_part(&mut scratch.resizer, image, x, y, (area.width, area.height), &mut cut);
        let plane = width * height;
        let planes = &mut scratch.planes;
        planes.resize(channels * plane, 0.0);
        for (channel, plane) in planes.chunks_exact_mut(plane).enumerate() {
            plane
                .iter_mut()
                .zip(cut.iter().skip(channel).step_by(channels))
                .for_each(|(to, v)| *to = f32::from(*v));
        }
        scratch.pixels = cut;
        if let Some(distortion) = distortion {
            distortion.apply(planes, channels);
        }
        // beside the image there is what becomes zero when it is normalised
        let fill = self.normalization.mean_bytes();
        for (channel, out) in pixels.chunks_exact_mut(size * size).enumerate() {
            out.fill(fill[channel]);
            for (from, to) in
                planes[channel * plane..].chunks_exact(width).take(height).zip(out.chunks_exact_mut(size))
            {
                to.iter_mut().zip(from).for_each(|(to, v)| *to = *v as u8);
                if *flip {
                    to[..width].reverse();
                }
            }
        }
    }
}

/// A whole image as it is judged: planes `[channels, height, width]` of 8-bit values, and pixels across and down.
pub fn seen_whole(image: &Image, sides: Sides, scratch: &mut Scratch) -> (Vec<u8>, (u32, u32)) {
    let (width, height) = sides.of(image.dimensions(), 1.0);
    let whole = |length: u32| (0.0, f64::from(length));
    let (x, y) = (whole(image.width()), whole(image.height()));
    resize_part(&mut scratch.resizer, image, x, y, (width, height), &mut scratch.pixels);
    let channels = image.channels();
    let mut planes = vec![0; scratch.pixels.len()];
    for (channel, plane) in planes.chunks_exact_mut(width as usize * height as usize).enumerate() {
        plane
            .iter_mut()
            .zip(scratch.pixels.iter().skip(channel).step_by(channels))
            .for_each(|(to, v)| *to = *v);
    }
    (planes, (width, height))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    fn recipe(size: usize) -> SegmentationCrops {
        SegmentationCrops {
            size,
            sides: Sides { short: 32, long: 128 },
            augment: SegmentationAugment { distortion: false, ..SegmentationAugment::default() },
            normalization: Normalization::imagenet(3),
        }
    }

    /// An image whose left half is dark and of class 0, the right half light and of class 1.
    fn halves(width: u32, height: u32) -> Image {
        let class = |i: u32| u8::from(i % width >= width / 2);
        let values = (0..width * height).flat_map(|i| [40 + 160 * class(i); 3]).collect();
        let classes = (0..width * height).map(class).collect();
        Image::new(width, height, 3, values).unwrap().with_classes(classes)
    }

    #[test]
    fn sizes_are_those_of_mmsegmentation() {
        let sides = Sides { short: 512, long: 2048 };
        assert_eq!(sides.of((683, 512), 1.0), (683, 512));
        assert_eq!(sides.of((640, 480), 0.5), (341, 256));
        // the long side decides: 2048 of 6000
        assert_eq!(sides.of((6000, 300), 1.0), (2048, 102));
    }

    #[test]
    fn classes_follow_their_pixels() {
        let image = halves(60, 40);
        let recipe = recipe(24);
        let mut flips = 0;
        for i in 0..50 {
            let mut rng = stream(7, Purpose::SegmentationCrops, 0, i);
            let (mut pixels, mut classes) = (vec![0; 3 * 24 * 24], vec![0; 24 * 24]);
            recipe.make(
                &image,
                &mut rng,
                &mut Scratch::default(),
                vec![Values::Mapped(&mut pixels, &mut classes)],
            );
            let mut right = 0;
            for (value, class) in pixels[..24 * 24].iter().zip(&classes) {
                right += usize::from(match class {
                    0 => *value < 120,
                    1 => *value >= 120,
                    _ => *value == 124,
                });
            }
            assert!(right > 24 * 24 - 26, "{right} of {} pixels fit their class", 24 * 24);
            let first = classes.iter().find(|c| **c != IGNORED).unwrap();
            flips += usize::from(*first == 1);
        }
        assert!((5..45).contains(&flips), "{flips}");
    }

    #[test]
    fn what_is_beside_a_small_image_is_not_looked_at() {
        let mut recipe = recipe(64);
        recipe.augment.scale = [1.0, 1.0];
        let (mut pixels, mut classes) = (vec![0; 3 * 64 * 64], vec![0; 64 * 64]);
        let mut rng = stream(7, Purpose::SegmentationCrops, 0, 0);
        let image = halves(48, 32);
        recipe.make(
            &image,
            &mut rng,
            &mut Scratch::default(),
            vec![Values::Mapped(&mut pixels, &mut classes)],
        );
        assert_eq!(classes.iter().filter(|c| **c == IGNORED).count(), 64 * 64 - 48 * 32);
        assert_eq!(pixels[64 * 64 - 1], 124);
    }

    #[test]
    fn a_crop_of_one_class_alone_is_avoided() {
        // one class in the right tenth alone
        let (width, height) = (200u32, 40u32);
        let class = |i: u32| u8::from(i % width >= 180);
        let classes: Vec<u8> = (0..width * height).map(class).collect();
        let image = Image::new(width, height, 3, vec![0; (3 * width * height) as usize])
            .unwrap()
            .with_classes(classes);
        let mixed = |largest_class: f64| {
            let mut recipe = recipe(24);
            recipe.augment.scale = [1.0, 1.0];
            recipe.augment.largest_class = largest_class;
            let mixed = |i: u64| {
                let mut rng = stream(1, Purpose::SegmentationCrops, 0, i);
                let choices = recipe.draw(&mut rng, &image);
                recipe.is_mixed(&image, choices.resized, choices.area)
            };
            (0..200).filter(|i| mixed(*i)).count()
        };
        let (with, without) = (mixed(0.9), mixed(1.0));
        assert!(with > 2 * without.max(20), "{with} and {without} of 200");
    }
}

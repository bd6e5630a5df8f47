//! What a task gets of its data: the images of a step as groups of crops, with all that is known of them, on
//! the host.

use std::borrow::Cow;
use std::ops::Range;

use crate::data::normalization::Normalization;
use crate::error::{Error, Result};

/// The group of the global crops.
pub const GLOBAL: &str = "global";
/// The group of the local crops.
pub const LOCAL: &str = "local";
/// The group of images that are seen once each, as a classifier or an evaluation sees them.
pub const WHOLE: &str = "whole";

/// The values of crops.
#[derive(Clone, Debug, PartialEq)]
pub enum Pixels {
    /// Normalised ones, as recorded batches have them.
    Floats(Vec<f32>),
    /// 8-bit ones, and what is to be done to them: the device does it. They take a quarter of the bytes, in the
    /// loader's queue and on their way to the device.
    Bytes(Vec<u8>, Normalization),
}

impl Pixels {
    /// How many values.
    pub fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Bytes(values, _) => values.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Vec<f32>> for Pixels {
    fn from(values: Vec<f32>) -> Self {
        Self::Floats(values)
    }
}

/// Square crops of one size, equally many of every image. Crops lie view by view: the first crop of all
/// images, then the second of all, so that crop `v` of image `i` of `B` is number `v·B + i`.
#[derive(Clone, Debug, PartialEq)]
pub struct CropGroup {
    /// What the crops are for, as [`GLOBAL`] and [`LOCAL`].
    pub name: &'static str,
    /// Crops an image.
    pub views: usize,
    /// Values a pixel, C.
    pub channels: usize,
    /// Pixels a side, S.
    pub size: usize,
    /// `[views · images, C, S, S]`
    pub pixels: Pixels,
    /// What belongs to single places of the crops.
    pub masks: Option<Masks>,
}

/// A value for every cell of a square grid over every crop of a group: 1 where a patch is hidden, or a class
/// a pixel.
#[derive(Clone, Debug, PartialEq)]
pub struct Masks {
    /// Cells a side.
    pub side: usize,
    /// `[crops, side, side]`
    pub values: Vec<u8>,
}

impl CropGroup {
    /// Values of one crop.
    pub fn crop_len(&self) -> usize {
        self.channels * self.size * self.size
    }

    /// Number of crops.
    pub fn crops(&self) -> usize {
        self.pixels.len() / self.crop_len().max(1)
    }

    /// `[crops, C, S, S]`
    pub fn shape(&self) -> [usize; 4] {
        [self.crops(), self.channels, self.size, self.size]
    }

    /// The crops' values, normalised.
    pub fn normalised(&self) -> Cow<'_, [f32]> {
        match &self.pixels {
            Pixels::Floats(values) => values.into(),
            Pixels::Bytes(values, by) => by.normalised(values, self.size * self.size).into(),
        }
    }

    fn check(&self, images: usize) -> Result<()> {
        let Self { name, views, channels, size, pixels, masks } = self;
        let problem = if *views == 0 || *channels == 0 || *size == 0 {
            format!("{views} crops an image of {channels} channels and {size} pixels a side")
        } else if pixels.len() != views * images * self.crop_len() {
            format!(
                "{} values where {views} crops of each of {images} images, {channels} channels and {size}x{size} \
                 pixels make {}",
                pixels.len(),
                views * images * self.crop_len()
            )
        } else if let Pixels::Bytes(_, by) = pixels
            && by.channels() != *channels
        {
            format!("{channels} channels, which are to be normalised as {}", by.channels())
        } else if let Some(Masks { side, values }) = masks
            && (*side == 0 || values.len() != views * images * side * side)
        {
            format!(
                "{} values of masks where {views} crops of each of {images} images and {side}x{side} cells make {}",
                values.len(),
                views * images * side * side
            )
        } else {
            return Ok(());
        };
        Err(Error::shape("batch", format!("group `{name}` has {problem}")))
    }
}

/// The images of a step, or of one of its micro-batches. What it holds fits together: no other can be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    step: u64,
    images: usize,
    groups: Vec<CropGroup>,
    labels: Option<Vec<u32>>,
    indices: Option<Vec<usize>>,
}

impl Batch {
    /// The crops of `images` images. Groups whose sizes contradict each other are an error that names the
    /// group.
    pub fn new(images: usize, groups: Vec<CropGroup>) -> Result<Self> {
        let Some(first) = groups.first() else {
            return Err(Error::shape("batch", "there is no group of crops"));
        };
        for (i, group) in groups.iter().enumerate() {
            group.check(images)?;
            if groups[..i].iter().any(|other| other.name == group.name) {
                return Err(Error::shape("batch", format!("there are two groups `{}`", group.name)));
            }
            if group.channels != first.channels {
                let (a, b) = (first.name, group.name);
                let problem =
                    format!("group `{a}` has {} channels, group `{b}` {}", first.channels, group.channels);
                return Err(Error::shape("batch", problem));
            }
        }
        Ok(Self { step: 0, images, groups, labels: None, indices: None })
    }

    /// The same batch as that of a step.
    pub fn at_step(self, step: u64) -> Self {
        Self { step, ..self }
    }

    /// The same batch with the class of every image.
    pub fn with_labels(self, labels: Vec<u32>) -> Result<Self> {
        self.one_an_image("labels", labels.len())?;
        Ok(Self { labels: Some(labels), ..self })
    }

    /// The same batch with the number of every image in its source.
    pub fn with_indices(self, indices: Vec<usize>) -> Result<Self> {
        self.one_an_image("indices", indices.len())?;
        Ok(Self { indices: Some(indices), ..self })
    }

    fn one_an_image(&self, what: &str, count: usize) -> Result<()> {
        match count == self.images {
            true => Ok(()),
            false => Err(Error::shape("batch", format!("{count} {what} of {} images", self.images))),
        }
    }

    /// The same batch without masks.
    pub fn without_masks(mut self) -> Self {
        self.groups.iter_mut().for_each(|group| group.masks = None);
        self
    }

    /// The step it belongs to.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The number of images, B.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Values a pixel, the same in all groups.
    pub fn channels(&self) -> usize {
        self.groups.first().map_or(0, |group| group.channels)
    }

    /// All groups of crops.
    pub fn groups(&self) -> &[CropGroup] {
        &self.groups
    }

    /// The group of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<&CropGroup> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The group of this name; that there is none is an error.
    pub fn group(&self, name: &str) -> Result<&CropGroup> {
        self.find(name).ok_or_else(|| {
            let known: Vec<&str> = self.groups.iter().map(|group| group.name).collect();
            Error::shape("batch", format!("no group `{name}` among {}", known.join(", ")))
        })
    }

    /// The normalised values of the crops of a group, to be changed in place.
    pub fn pixels_mut(&mut self, name: &str) -> Result<&mut [f32]> {
        self.group(name)?;
        let Some(group) = self.groups.iter_mut().find(|group| group.name == name) else { return Ok(&mut []) };
        if let Pixels::Bytes(..) = group.pixels {
            group.pixels = Pixels::Floats(group.normalised().into_owned());
        }
        match &mut group.pixels {
            Pixels::Floats(values) => Ok(values),
            Pixels::Bytes(..) => Ok(&mut []),
        }
    }

    /// The class of every image, where the source knows them.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// The number of every image in its source, where it has one.
    pub fn indices(&self) -> Option<&[usize]> {
        self.indices.as_deref()
    }

    /// Some of the images, with all their crops: a micro-batch, or a rank's share.
    pub fn part(&self, images: Range<usize>) -> Result<Self> {
        if images.start > images.end || images.end > self.images {
            return Err(Error::shape("batch", format!("images {images:?} of {}", self.images)));
        }
        let (before, count) = (self.images, images.len());
        // of every view the images' run
        fn cut<T: Copy>(all: &[T], each: usize, before: usize, images: &Range<usize>) -> Vec<T> {
            let views = all.chunks((before * each).max(1));
            views.flat_map(|view| &view[images.start * each..images.end * each]).copied().collect()
        }
        let groups = self.groups.iter().map(|group| CropGroup {
            pixels: match &group.pixels {
                Pixels::Floats(values) => Pixels::Floats(cut(values, group.crop_len(), before, &images)),
                Pixels::Bytes(values, by) => {
                    Pixels::Bytes(cut(values, group.crop_len(), before, &images), by.clone())
                }
            },
            masks: group.masks.as_ref().map(|Masks { side, values }| Masks {
                side: *side,
                values: cut(values, side * side, before, &images),
            }),
            ..*group
        });
        let mut part = Self::new(count, groups.collect())?.at_step(self.step);
        part.labels = self.labels.as_ref().map(|labels| labels[images.clone()].to_vec());
        part.indices = self.indices.as_ref().map(|indices| indices[images].to_vec());
        Ok(part)
    }
}

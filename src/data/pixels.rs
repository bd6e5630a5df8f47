//! Decoded images of any number of channels.

use image::RgbImage;

/// Most channels of an image.
pub const MOST_CHANNELS: usize = 64;

/// The class of pixels that have none, or are not to be looked at.
pub const IGNORED: u8 = u8::MAX;

/// An image of 8-bit values, row by row, the channels of a pixel side by side; it may bring a class for every pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: u32,
    height: u32,
    channels: usize,
    values: Vec<u8>,
    classes: Option<Vec<u8>>,
}

impl Image {
    /// An image of these values `[height, width, channels]`; `None` where they are more or fewer.
    pub fn new(width: u32, height: u32, channels: usize, values: Vec<u8>) -> Option<Self> {
        let fits = channels > 0 && values.len() == width as usize * height as usize * channels;
        fits.then_some(Self { width, height, channels, values, classes: None })
    }

    /// Pixels across.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Pixels down.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// Pixels across and down.
    pub fn dimensions(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// Values a pixel.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The values, `[height, width, channels]`.
    pub fn values(&self) -> &[u8] {
        &self.values
    }

    /// The class of every pixel, or [`IGNORED`], row by row; `None` where the image has no mask.
    pub fn classes(&self) -> Option<&[u8]> {
        self.classes.as_deref()
    }

    /// The same image with a class for every pixel, of which there must be as many.
    pub fn with_classes(self, classes: Vec<u8>) -> Self {
        debug_assert_eq!(classes.len(), self.width as usize * self.height as usize);
        Self { classes: Some(classes), ..self }
    }

    /// The same image with other pixels, of `channels` values each, that `of` appends for each pixel of this
    /// one.
    pub fn map_pixels(&self, channels: usize, of: impl Fn(&[u8], &mut Vec<u8>)) -> Self {
        let mut values = Vec::with_capacity(self.values.len() / self.channels * channels);
        self.values.chunks_exact(self.channels).for_each(|pixel| of(pixel, &mut values));
        Self { channels, values, classes: self.classes.clone(), ..*self }
    }

    /// A coloured image as one of grey values, `L` in PIL.
    pub fn grey(&self) -> Self {
        self.map_pixels(1, |rgb, out| out.push(luma(rgb)))
    }

    /// The image with this number of channels: colours as their grey value, a grey image as three equal
    /// colours. `None` for other pairs of numbers.
    pub fn in_channels(self, channels: usize) -> Option<Self> {
        match (self.channels, channels) {
            (from, to) if from == to => Some(self),
            (3, 1) => Some(self.grey()),
            (1, 3) => Some(self.map_pixels(3, |grey, out| out.extend([grey[0]; 3]))),
            _ => None,
        }
    }
}

impl From<RgbImage> for Image {
    fn from(image: RgbImage) -> Self {
        let (width, height) = image.dimensions();
        Self { width, height, channels: 3, values: image.into_raw(), classes: None }
    }
}

/// The grey value of Rec. 601 that PIL's mode `L` has; of three equal values that value.
pub(super) fn luma(rgb: &[u8]) -> u8 {
    let weighted: u32 = rgb.iter().zip([19595, 38470, 7471]).map(|(v, weight)| u32::from(*v) * weight).sum();
    ((weighted + 32768) >> 16) as u8
}

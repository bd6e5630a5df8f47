//! The augmentation of POA (that of DINOv2): random resized crop, flip, colour jitter, grey, blur, solarize,
//! normalisation. [`draw`] makes every random choice, [`apply`] is a pure function of them. Jitter, grey and
//! solarize are for three channels; all else is for any number.
//!
//! Images run through the stages as 8-bit values, rounded after each as PIL does, and leave as such
//! [channels, n, n]: normalisation is the last stage, and the device's.
//! Source: torchvision `transforms.py`, DINOv2 `dinov2/data/{augmentations,transforms}.py`.

use fast_image_resize::Resizer;
use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::blur::blur;
use crate::data::color::Planes;
use crate::data::draws::{ASPECT, chance, random_area};
pub use crate::data::normalization::{MEAN, Normalization, STD};
use crate::data::pixels::Image;
pub use crate::data::resize::Area;
use crate::data::resize::{resize_area, resize_part};
pub use crate::data::scratch::Scratch;
use crate::error::{Error, Result};

/// One kind of crop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crop {
    /// Pixels a side.
    pub size: usize,
    /// Range of the share of the image's area.
    pub scale: (f64, f64),
}

/// How often each view is blurred.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlurProbabilities {
    /// The first global crop.
    pub a: f64,
    /// The second global crop.
    pub b: f64,
    /// Local crops.
    pub local: f64,
}

impl BlurProbabilities {
    /// The paper's table.
    pub const PAPER: Self = Self { a: 1.0, b: 0.1, local: 0.5 };
    /// What the official code does, where 1 − p is taken for p.
    pub const CODE: Self = Self { a: 0.0, b: 0.9, local: 0.5 };
}

/// The crops made of every image and the probabilities of what is done to them.
#[derive(Clone, Debug, PartialEq)]
pub struct CropConfig {
    /// The two global crops.
    pub global: Crop,
    /// The local crops.
    pub local: Crop,
    /// Local crops an image.
    pub local_count: usize,
    /// Probability of a horizontal flip.
    pub flip: f64,
    /// Probability of colour jitter.
    pub jitter: f64,
    /// Strengths of the jitter: brightness, contrast, saturation (factors 1 ± strength), hue (turns ±
    /// strength).
    pub jitter_strength: [f64; 4],
    /// Probability of losing all colour.
    pub grayscale: f64,
    /// Probabilities of blur.
    pub blur: BlurProbabilities,
    /// Range of the blur's standard deviation, pixels of the crop.
    pub blur_sigma: (f32, f32),
    /// Probability of solarizing the second global crop.
    pub solarize: f64,
    /// What is done to the values of every channel, of which there are as many.
    pub normalization: Normalization,
}

impl CropConfig {
    /// The same crops of images with so many channels: without jitter, grey and solarize where these are not
    /// three, normalised as [`Normalization::imagenet`] does.
    pub fn in_channels(self, channels: usize) -> Self {
        let normalization = Normalization::imagenet(channels);
        match channels {
            3 => Self { normalization, ..self },
            _ => Self { normalization, jitter: 0.0, grayscale: 0.0, solarize: 0.0, ..self },
        }
    }

    /// Refuses changes of colour where there are none.
    pub fn check(&self) -> Result<()> {
        let channels = self.normalization.channels();
        let colours = self.jitter > 0.0 || self.grayscale > 0.0 || self.solarize > 0.0;
        if channels == 3 || !colours {
            return Ok(());
        }
        Err(Error::config(
            "student.in_chans",
            format!(
                "is {channels}, and changes of colour are for 3 channels: set crops.color_jitter_probability, \
                 crops.grayscale_probability and crops.solarize_probability to 0"
            ),
        ))
    }
}

impl Default for CropConfig {
    fn default() -> Self {
        Self {
            global: Crop { size: 224, scale: (0.32, 1.0) },
            local: Crop { size: 96, scale: (0.05, 0.32) },
            local_count: 8,
            flip: 0.5,
            jitter: 0.8,
            jitter_strength: [0.4, 0.4, 0.2, 0.1],
            grayscale: 0.2,
            blur: BlurProbabilities::PAPER,
            blur_sigma: (0.1, 2.0),
            solarize: 0.2,
            normalization: Normalization::imagenet(3),
        }
    }
}

/// Which of an image's crops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The first global crop.
    GlobalA,
    /// The second global crop.
    GlobalB,
    /// Any local crop.
    Local,
}

/// One stage of the colour jitter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Jitter {
    /// Factor on all values.
    Brightness(f32),
    /// Factor on the distance from the mean grey.
    Contrast(f32),
    /// Factor on the distance from grey.
    Saturation(f32),
    /// Turn of the hue, in full circles.
    Hue(f32),
}

/// Everything that is random about one crop.
#[derive(Clone, Debug, PartialEq)]
pub struct Choices {
    /// The pixels that are used.
    pub area: Area,
    /// Pixels a side of the result.
    pub size: usize,
    /// Mirrored left to right.
    pub flip: bool,
    /// Colour jitter, in the order it is applied.
    pub jitter: Option<[Jitter; 4]>,
    /// Without colour.
    pub grayscale: bool,
    /// Blurred, with this standard deviation in pixels.
    pub blur_sigma: Option<f32>,
    /// Values from 128 up inverted.
    pub solarize: bool,
}

/// Draws one crop of a width × height image (at least 1×1).
pub fn draw(rng: &mut ChaCha8Rng, config: &CropConfig, view: View, width: u32, height: u32) -> Choices {
    let (crop, blur, solarize) = match view {
        View::GlobalA => (config.global, config.blur.a, 0.0),
        View::GlobalB => (config.global, config.blur.b, config.solarize),
        View::Local => (config.local, config.blur.local, 0.0),
    };
    let sigma = config.blur_sigma;
    Choices {
        area: random_area(rng, crop.scale, ASPECT, (width, height)),
        size: crop.size,
        flip: chance(rng, config.flip),
        jitter: chance(rng, config.jitter).then(|| draw_jitter(rng, config.jitter_strength)),
        grayscale: chance(rng, config.grayscale),
        blur_sigma: chance(rng, blur).then(|| sigma.0 + (sigma.1 - sigma.0) * rng.random::<f32>()),
        solarize: chance(rng, solarize),
    }
}

/// torchvision's `ColorJitter.get_params`.
fn draw_jitter(rng: &mut ChaCha8Rng, strength: [f64; 4]) -> [Jitter; 4] {
    let [brightness, contrast, saturation, hue] =
        strength.map(|s| (s * (2.0 * rng.random::<f64>() - 1.0)) as f32);
    let factor = |change: f32| (1.0 + change).max(0.0);
    let mut stages = [
        Jitter::Brightness(factor(brightness)),
        Jitter::Contrast(factor(contrast)),
        Jitter::Saturation(factor(saturation)),
        Jitter::Hue(hue.clamp(-0.5, 0.5)),
    ];
    stages.shuffle(rng);
    stages
}

/// Makes the crop that `choices` describe: [channels, size, size], normalised. `image` must have at least one
/// pixel, and as many channels as the normalisation.
pub fn apply(image: &Image, choices: &Choices, normalization: &Normalization) -> Vec<f32> {
    let mut out = vec![0; image.channels() * choices.size * choices.size];
    apply_into(image, choices, &mut Scratch::default(), &mut out);
    normalization.normalised(&out, choices.size * choices.size)
}

/// As [`apply`], into `out` of channels·size² values, which are not normalised yet.
pub fn apply_into(image: &Image, choices: &Choices, scratch: &mut Scratch, out: &mut [u8]) {
    let size = choices.size;
    let side = (size as u32, size as u32);
    resize_area(&mut scratch.resizer, image, choices.area, side, &mut scratch.pixels);
    let planes = &mut scratch.planes;
    planes.resize(out.len(), 0.0);
    deinterleave(&scratch.pixels, image.channels(), size, choices.flip, planes);
    if choices.jitter.is_some() || choices.grayscale {
        recolour(&mut Planes::of(planes), choices);
    }
    if let Some(sigma) = choices.blur_sigma {
        blur(planes, size, sigma, &mut scratch.blur);
    }
    if choices.solarize {
        Planes::of(planes).solarize();
    }
    to_bytes(planes, out);
}

/// Whole numbers of 0 to 255 as bytes. A float to which 2²³ is added has them as its last bits: vector code on any CPU,
/// which a cast (which saturates) is not.
fn to_bytes(values: &[f32], out: &mut [u8]) {
    for (to, v) in out.iter_mut().zip(values) {
        debug_assert!((0.0..=255.0).contains(v) && v.fract() == 0.0, "{v} is no 8-bit value");
        *to = (v + 8_388_608.0).to_bits() as u8;
    }
}

/// Colour jitter and grey.
fn recolour(planes: &mut Planes, choices: &Choices) {
    for stage in choices.jitter.iter().flatten() {
        match *stage {
            Jitter::Brightness(factor) => planes.brightness(factor),
            Jitter::Contrast(factor) => planes.contrast(factor),
            Jitter::Saturation(factor) => planes.saturation(factor),
            Jitter::Hue(turn) => planes.hue(turn),
        }
    }
    if choices.grayscale {
        planes.grayscale();
    }
}

/// How an image is shown where features are computed: the short side resized to size·256/224, the centre cut
/// out, normalised. An image of size × size pixels is taken as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationView {
    /// Pixels a side.
    pub size: usize,
    /// What is done to the values of every channel.
    pub normalization: Normalization,
}

impl EvaluationView {
    /// Coloured images with ImageNet's normalisation.
    pub fn rgb(size: usize) -> Self {
        Self { size, normalization: Normalization::imagenet(3) }
    }

    /// `[channels, size, size]`
    pub fn shape(&self) -> [usize; 3] {
        [self.normalization.channels(), self.size, self.size]
    }

    /// The image as [`EvaluationView::shape`], normalised. It has at least one pixel and as many channels.
    pub fn of(&self, image: &Image) -> Vec<f32> {
        self.normalization.normalised(&self.bytes(image), self.size * self.size)
    }

    /// As [`EvaluationView::of`], before it is normalised.
    pub fn bytes(&self, image: &Image) -> Vec<u8> {
        let (size, side, channels) = (self.size, self.size as u32, image.channels());
        let mut out = vec![0; channels * size * size];
        let (width, height) = (image.width(), image.height());
        if (width, height) == (side, side) {
            deinterleave(image.values(), channels, size, false, &mut out);
        } else {
            let short = side * 256 / 224;
            // Where the centre of the resized image lies in the source: only that is resized.
            let span = |length: u32| {
                let resized = u64::from(short) * u64::from(length) / u64::from(width.min(height));
                let scale = f64::from(length) / resized as f64;
                // Python's round(): a half goes to the even neighbour.
                let start = ((resized - u64::from(side)) as f64 / 2.0).round_ties_even();
                (start * scale, f64::from(side) * scale)
            };
            let mut pixels = Vec::new();
            resize_part(&mut Resizer::new(), image, span(width), span(height), (side, side), &mut pixels);
            deinterleave(&pixels, channels, size, false, &mut out);
        }
        out
    }
}

/// Interleaved 8-bit pixels [n, n, channels] to planes [channels, n, n], mirrored left to right if `flip`.
pub(super) fn deinterleave<T: Copy + From<u8>>(
    pixels: &[u8],
    channels: usize,
    n: usize,
    flip: bool,
    out: &mut [T],
) {
    if channels == 3 {
        return deinterleave_rgb(pixels, n, flip, out);
    }
    for (channel, plane) in out.chunks_exact_mut(n * n).enumerate() {
        for (row, to) in pixels.chunks_exact(channels * n).zip(plane.chunks_exact_mut(n)) {
            for (pixel, to) in row.chunks_exact(channels).zip(to.iter_mut()) {
                *to = T::from(pixel[channel]);
            }
            if flip {
                to.reverse();
            }
        }
    }
}

/// As [`deinterleave`], all three planes in one pass.
fn deinterleave_rgb<T: Copy + From<u8>>(pixels: &[u8], n: usize, flip: bool, out: &mut [T]) {
    let (r, rest) = out.split_at_mut(n * n);
    let (g, b) = rest.split_at_mut(n * n);
    let rows = pixels.chunks_exact(3 * n).zip(r.chunks_exact_mut(n));
    let rows = rows.zip(g.chunks_exact_mut(n)).zip(b.chunks_exact_mut(n));
    for (((row, r), g), b) in rows {
        for (((rgb, r), g), b) in row.chunks_exact(3).zip(r.iter_mut()).zip(g.iter_mut()).zip(b.iter_mut()) {
            (*r, *g, *b) = (T::from(rgb[0]), T::from(rgb[1]), T::from(rgb[2]));
        }
        if flip {
            r.reverse();
            g.reverse();
            b.reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    /// What goes to the device as bytes is what the stages computed.
    #[test]
    fn every_stage_leaves_8_bit_values() {
        let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761).rotate_left(11) as u8;
        let extremes = |i: usize| if noise(i) < 128 { 0 } else { 255 };
        let (mut scratch, mut out) = (Scratch::default(), Vec::new());
        let always = CropConfig { jitter: 1.0, solarize: 0.5, ..CropConfig::default() };
        for values in
            [(0..3 * 61 * 47).map(noise).collect::<Vec<_>>(), (0..3 * 61 * 47).map(extremes).collect()]
        {
            let image = Image::new(61, 47, 3, values).unwrap();
            for i in 0..60 {
                let view = [View::GlobalA, View::GlobalB, View::Local][i as usize % 3];
                let mut rng = stream(1, Purpose::Crops, 0, i);
                let size = [1, 5, 32][i as usize / 20];
                let choices = Choices { size, ..draw(&mut rng, &always, view, 61, 47) };
                out.clear();
                out.resize(3 * size * size, 0);
                apply_into(&image, &choices, &mut scratch, &mut out);
                assert_eq!(
                    scratch.planes,
                    out.iter().map(|v| f32::from(*v)).collect::<Vec<_>>(),
                    "{choices:?}"
                );
            }
        }
        let all: Vec<u8> = (0..=255).collect();
        let mut back = vec![0; 256];
        to_bytes(&all.iter().map(|v| f32::from(*v)).collect::<Vec<_>>(), &mut back);
        assert_eq!(back, all);
    }
}

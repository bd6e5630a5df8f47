//! The embedded data set: generated pictures whose class is the kind of motif scattered over them.
//!
//! Motifs are light on a dark ground, nearly upright, each at its own place, with its own size and colour;
//! the ground is a smooth field of random dark colours. All classes paint the same area, so that brightness
//! says nothing either: of ten classes, nearest neighbours by mean colour find 8% and by mean and spread of
//! colours 15%. Features of an untrained network score little above that of chance, and only those of shape
//! score well. A picture follows from (part, index) alone, whatever the seed of the training run. With one
//! channel it is the grey value of the coloured one; with another number than three its channels are red,
//! green and blue in turn.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::data::bad_samples::BadSample;
use crate::data::pixels::{Image, MOST_CHANNELS};
use crate::data::source::Source;
use crate::rng::{Purpose, stream};

/// Images of the train part, if no number is given.
const DEFAULT_LEN: usize = 20_000;
/// Pixels a side: what an `EvaluationView` cuts 32 pixels out of without resizing.
const DEFAULT_SIZE: usize = 36;
/// Sizes at which the motifs can be told apart and a picture stays small.
const SIZES: std::ops::RangeInclusive<usize> = 16..=1024;
/// Images of the held-out part: a tenth of the train part within these limits.
const HELD_OUT: (usize, usize) = (200, 2_000);
/// Motifs a side; every cell of the grid holds at most one.
const CELLS: usize = 3;
/// How far a motif may lie off the middle of its cell, in cells.
const SHIFT: f32 = 0.18;
/// Radii of the motifs, in picture sides.
const RADIUS: (f32, f32) = (0.115, 0.165);
/// Colours a side of the ground's lattice.
const LATTICE: usize = 5;
/// Middle of the ground's colours, and how far they spread around it (0 to 1).
const GROUND: (f32, f32) = (0.25, 0.3);
/// Values of a motif's colour (0 to 1), each drawn apart: always lighter than the ground.
const MOTIF: std::ops::Range<f32> = 0.6..1.0;
/// How far a motif is turned, in radians to either side.
const TURN: f32 = 0.3;
/// Noise on every value (0 to 1), plus or minus.
const NOISE: f32 = 0.03;

const TRAIN: u64 = 0;
const VALIDATION: u64 = 1;

/// One part of the data set.
pub struct Shapes {
    len: usize,
    size: usize,
    channels: usize,
    part: u64,
    classes: Vec<String>,
    /// Whether pictures come with a class for every pixel, the ground being class 0, instead of one for the whole.
    masks: bool,
}

impl Shapes {
    /// The train part with `len` coloured pictures of `size` × `size` pixels.
    pub fn train(len: usize, size: usize) -> Self {
        let classes = MOTIFS.iter().map(|(name, ..)| name.to_string()).collect();
        Self { len, size, channels: 3, part: TRAIN, classes, masks: false }
    }

    /// The same pictures with this number of channels.
    pub fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// The same pictures with a class for every pixel, and none for the whole: the ground is class 0, a pixel that a motif
    /// covers by half or more of the motif's.
    pub fn with_masks(mut self) -> Self {
        if !self.masks {
            self.classes.insert(0, "ground".into());
        }
        Self { masks: true, ..self }
    }

    /// The pictures held out of training, none of which is in the train part.
    pub fn held_out(&self) -> Self {
        let len = (self.len / 10).clamp(HELD_OUT.0, HELD_OUT.1);
        let other = Self { part: VALIDATION, ..Self::train(len, self.size).with_channels(self.channels) };
        if self.masks { other.with_masks() } else { other }
    }

    /// Reads what follows `shapes:`, `N`, `NxSIZE` or `NxSIZExCHANNELS`. Nothing gives the default. The error says what
    /// is wrong with it.
    pub(in crate::data) fn from_spec(rest: Option<&str>) -> Result<Self, String> {
        let form = || {
            "is not `shapes:N`, `shapes:NxSIZE` or `shapes:NxSIZExCHANNELS` with whole numbers".to_string()
        };
        let numbers = rest.iter().flat_map(|rest| rest.split('x')).map(|n| n.parse().map_err(|_| form()));
        let numbers: Vec<usize> = numbers.collect::<Result<_, _>>()?;
        let (len, size, channels) = match numbers[..] {
            [] => (DEFAULT_LEN, DEFAULT_SIZE, 3),
            [len] => (len, DEFAULT_SIZE, 3),
            [len, size] => (len, size, 3),
            [len, size, channels] => (len, size, channels),
            _ => return Err(form()),
        };
        let within =
            |name: &str, value: usize, (least, most): (usize, usize)| match (least..=most).contains(&value) {
                true => Ok(()),
                false => Err(format!("has {name} = {value}; {name} must be {least} to {most}")),
            };
        within("N", len, (1, u32::MAX as usize))?;
        within("SIZE", size, (*SIZES.start(), *SIZES.end()))?;
        within("CHANNELS", channels, (1, MOST_CHANNELS))?;
        Ok(Self::train(len, size).with_channels(channels))
    }

    /// Draws picture `i`, and which pixels a motif covers by half or more.
    fn picture(&self, i: usize) -> (RgbImage, Vec<bool>) {
        let mut rng = stream(0, Purpose::Shapes, self.part, i as u64);
        let (_, equal_area, distance) = MOTIFS[i % MOTIFS.len()];
        let size = self.size as f32;
        let mut canvas = Canvas::with_ground(&mut rng, self.size);
        let cell = size / CELLS as f32;
        // The grid starts anywhere, so some motifs are cut by the border; one more row and column fills the
        // rest.
        let (dx, dy) = (rng.random_range(0.0..cell), rng.random_range(0.0..cell));
        for place in 0..(CELLS + 1) * (CELLS + 1) {
            let (column, row) = ((place % (CELLS + 1)) as f32, (place / (CELLS + 1)) as f32);
            let x = (column - 0.5 + rng.random_range(-SHIFT..SHIFT)) * cell + dx;
            let y = (row - 0.5 + rng.random_range(-SHIFT..SHIFT)) * cell + dy;
            let radius = size * rng.random_range(RADIUS.0..RADIUS.1) * equal_area;
            let angle = rng.random_range(-TURN..TURN);
            let color: Color = std::array::from_fn(|_| rng.random_range(MOTIF));
            canvas.paint(distance, (x, y), radius, angle, color);
        }
        canvas.finish(&mut rng)
    }
}

impl Source for Shapes {
    fn len(&self) -> usize {
        self.len
    }
    fn channels(&self) -> usize {
        self.channels
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        let (picture, covered) = self.picture(i);
        let mut picture = Image::from(picture);
        if self.masks {
            let class = (1 + i % MOTIFS.len()) as u8;
            picture = picture
                .with_classes(covered.iter().map(|covered| if *covered { class } else { 0 }).collect());
        }
        Ok(match self.channels {
            3 => picture,
            1 => picture.grey(),
            n => picture.map_pixels(n, |rgb, out| out.extend(rgb.iter().cycle().take(n))),
        })
    }
    fn label(&self, i: usize) -> Option<u32> {
        (!self.masks).then_some((i % MOTIFS.len()) as u32)
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn name(&self, i: usize) -> String {
        format!("{}/{i}", if self.part == TRAIN { "train" } else { "held-out" })
    }
    fn describe(&self) -> String {
        match self.channels {
            3 => format!("shapes:{}x{}", self.len, self.size),
            n => format!("shapes:{}x{}x{n}", self.len, self.size),
        }
    }
    fn own_held_out(&self) -> Option<Arc<dyn Source>> {
        (self.part == TRAIN).then(|| Arc::new(self.held_out()) as Arc<dyn Source>)
    }
}

type Color = [f32; 3];

/// A picture in the making: values 0 to 1.
struct Canvas {
    size: usize,
    pixels: Vec<Color>,
    /// What a motif covers by half or more.
    covered: Vec<bool>,
}

impl Canvas {
    /// The ground: a lattice of random colours, with linear transitions.
    fn with_ground(rng: &mut ChaCha8Rng, size: usize) -> Self {
        let lattice: [[Color; LATTICE]; LATTICE] = rng.random();
        let lattice = lattice.map(|row| row.map(|color| color.map(|v| GROUND.0 + GROUND.1 * (v - 0.5))));
        let step = (LATTICE - 1) as f32 / size as f32;
        let pixel = |i: usize| {
            let (x, y) = ((i % size) as f32 * step, (i / size) as f32 * step);
            let (column, row) = (x as usize, y as usize);
            let (fx, fy) = (x.fract(), y.fract());
            let across = |row: usize| mix(lattice[row][column], lattice[row][column + 1], fx);
            mix(across(row), across(row + 1), fy)
        };
        Self { size, pixels: (0..size * size).map(pixel).collect(), covered: vec![false; size * size] }
    }

    /// Paints a motif, its border softened over one pixel.
    fn paint(&mut self, distance: Distance, (x, y): (f32, f32), radius: f32, angle: f32, color: Color) {
        let (sin, cos) = angle.sin_cos();
        let reach = radius * 1.1 + 1.0;
        let span =
            |v: f32| (v - reach).max(0.0) as usize..((v + reach).max(0.0).ceil() as usize).min(self.size);
        for row in span(y) {
            for column in span(x) {
                let (u, v) = ((column as f32 + 0.5 - x) / radius, (row as f32 + 0.5 - y) / radius);
                let d = distance(cos * u + sin * v, cos * v - sin * u);
                let cover = (0.5 - d * radius).clamp(0.0, 1.0);
                let at = row * self.size + column;
                self.pixels[at] = mix(self.pixels[at], color, cover);
                self.covered[at] |= cover >= 0.5;
            }
        }
    }

    /// Adds noise and rounds to 8 bits.
    fn finish(self, rng: &mut ChaCha8Rng) -> (RgbImage, Vec<bool>) {
        let side = self.size as u32;
        let mut pixels = self.pixels.into_iter();
        let picture = RgbImage::from_fn(side, side, |_, _| {
            let color = pixels.next().unwrap_or_default();
            Rgb(color.map(|v| ((v + rng.random_range(-NOISE..NOISE)) * 255.0).clamp(0.0, 255.0) as u8))
        });
        (picture, self.covered)
    }
}

fn mix(a: Color, b: Color, share: f32) -> Color {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

/// How far (x, y) is outside a motif of radius about 1 around the origin; negative inside.
type Distance = fn(f32, f32) -> f32;

/// The classes: name, factor of the radius that gives all the same area, form.
const MOTIFS: [(&str, f32, Distance); 10] = [
    ("bars", 0.95, |x, y| slab(x, y.abs() - 0.5, 0.85, 0.22)),
    ("checker", 1.04, |x, y| {
        let (x, y) = if x + y < 0.0 { (-x, -y) } else { (x, y) };
        slab(x - 0.42, y - 0.42, 0.4, 0.4)
    }),
    ("chevron", 1.07, |x, y| bar(x.abs(), y + 0.55, 0.8, 1.1) - 0.2),
    ("crescent", 1.02, |x, y| (x.hypot(y) - 0.9).max(0.72 - (x - 0.5).hypot(y))),
    ("cross", 0.93, |x, y| slab(x, y, 0.95, 0.24).min(slab(x, y, 0.24, 0.95))),
    ("disc", 0.82, |x, y| x.hypot(y) - 0.8),
    ("dots", 1.12, |x, y| {
        let dot = |a: f32, b: f32| (x - a).hypot(y - b) - 0.34;
        dot(0.0, 0.66).min(dot(0.57, -0.33)).min(dot(-0.57, -0.33))
    }),
    ("frame", 0.88, |x, y| slab(x, y, 0.6, 0.6).abs() - 0.19),
    ("ring", 0.87, |x, y| (x.hypot(y) - 0.72).abs() - 0.2),
    ("triangle", 1.03, |x, y| (-y - 0.5).max(0.866 * x.abs() + 0.5 * y - 0.5)),
];

/// Distance from a box of half sizes (w, h).
fn slab(x: f32, y: f32, w: f32, h: f32) -> f32 {
    let (dx, dy) = (x.abs() - w, y.abs() - h);
    dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0)
}

/// Distance from the line between the origin and (a, b).
fn bar(x: f32, y: f32, a: f32, b: f32) -> f32 {
    let along = ((x * a + y * b) / (a * a + b * b)).clamp(0.0, 1.0);
    (x - a * along).hypot(y - b * along)
}

//! What RandAugment's operations do to 8-bit images, whose pixels have their channels side by side: as PIL does it.
//!
//! Sources: Pillow `ImageOps.py`, `ImageEnhance.py`, `ImageFilter.py`, `libImaging/{Blend,Filter}.c`.

use crate::data::classify::geometry::{Affine, transform};
use crate::data::classify::rand_augment::Operation;
use crate::data::pixels::luma;

/// An image in the making, and room for another one.
pub struct Canvas<'a> {
    /// `[size, size, channels]`
    pub pixels: &'a mut Vec<u8>,
    /// Any content.
    pub other: &'a mut Vec<u8>,
    /// Pixels a side.
    pub size: usize,
    /// What stands where geometry leaves nothing, a value a channel.
    pub fill: &'a [u8],
}

impl Canvas<'_> {
    /// Does an operation. Those that change colours are for three channels.
    pub fn run(&mut self, operation: Operation) {
        let n = self.size as f64;
        match operation {
            Operation::Rotate(degrees) => self.transform(Affine::rotation(degrees, self.size)),
            Operation::ShearX(factor) => self.transform(Affine([1.0, factor, 0.0, 0.0, 1.0, 0.0])),
            Operation::ShearY(factor) => self.transform(Affine([1.0, 0.0, 0.0, factor, 1.0, 0.0])),
            Operation::TranslateX(share) => self.transform(Affine([1.0, 0.0, share * n, 0.0, 1.0, 0.0])),
            Operation::TranslateY(share) => self.transform(Affine([1.0, 0.0, 0.0, 0.0, 1.0, share * n])),
            Operation::AutoContrast => self.by_channel(stretched),
            Operation::Equalize => self.by_channel(equalized),
            Operation::Invert => self.replace(|v| 255 - v),
            Operation::Posterize(bits) => {
                let dropped = 8 - bits.min(8);
                self.replace(|v| ((u32::from(v) >> dropped) << dropped) as u8);
            }
            Operation::Solarize(from) => self.replace(|v| if u32::from(v) < from { v } else { 255 - v }),
            Operation::SolarizeAdd(more) => {
                self.replace(|v| if v < 128 { v.saturating_add(more) } else { v })
            }
            Operation::Brightness(factor) => self.replace(|v| blend(0, v, factor)),
            Operation::Contrast(factor) => {
                let grey: u64 = self.pixels.chunks_exact(3).map(|rgb| u64::from(luma(rgb))).sum();
                let mean = (grey as f64 / (self.size * self.size) as f64 + 0.5) as u8;
                self.replace(|v| blend(mean, v, factor));
            }
            Operation::Color(factor) => {
                for rgb in self.pixels.chunks_exact_mut(3) {
                    let grey = luma(rgb);
                    rgb.iter_mut().for_each(|v| *v = blend(grey, *v, factor));
                }
            }
            Operation::Sharpness(factor) => self.sharpen(factor),
        }
    }

    fn transform(&mut self, by: Affine) {
        self.other.resize(self.pixels.len(), 0);
        transform(self.pixels, self.size, by, self.fill, self.other);
        std::mem::swap(self.pixels, self.other);
    }

    /// Replaces every value by `of` it.
    fn replace(&mut self, of: impl Fn(u8) -> u8) {
        let table: [u8; 256] = std::array::from_fn(|v| of(v as u8));
        self.pixels.iter_mut().for_each(|v| *v = table[usize::from(*v)]);
    }

    /// Replaces the values of every channel by a table that is made of how often each occurs.
    fn by_channel(&mut self, table: impl Fn(&[u32; 256]) -> [u8; 256]) {
        let channels = self.fill.len();
        for channel in 0..channels {
            let mut counts = [0; 256];
            let values = || self.pixels.iter().skip(channel).step_by(channels);
            values().for_each(|v| counts[usize::from(*v)] += 1);
            let table = table(&counts);
            let values = self.pixels.iter_mut().skip(channel).step_by(channels);
            values.for_each(|v| *v = table[usize::from(*v)]);
        }
    }

    /// Blends with the image smoothed by the 3×3 kernel of ones about a 5; pixels at the border are not smoothed.
    fn sharpen(&mut self, factor: f32) {
        let (n, channels) = (self.size, self.fill.len());
        let row = n * channels;
        self.other.clear();
        self.other.extend_from_slice(self.pixels);
        if n < 3 {
            return;
        }
        let from = &*self.other;
        for (y, out) in self.pixels.chunks_exact_mut(row).enumerate().take(n - 1).skip(1) {
            let rows: [&[u8]; 3] = std::array::from_fn(|i| &from[(y + i - 1) * row..][..row]);
            for x in channels..row - channels {
                let own = u32::from(rows[1][x]);
                let around = rows.iter().flat_map(|r| [r[x - channels], r[x], r[x + channels]]);
                let sum = around.map(u32::from).sum::<u32>() + 4 * own;
                // rounded; thirteenths have no halves
                let smooth = (2 * sum + 13) / 26;
                out[x] = blend(smooth as u8, own as u8, factor);
            }
        }
    }
}

/// `a + factor·(b − a)`, cut to a whole number of 0 to 255.
fn blend(a: u8, b: u8, factor: f32) -> u8 {
    let (a, b) = (f32::from(a), f32::from(b));
    (a + factor * (b - a)).clamp(0.0, 255.0) as u8
}

/// From the values that occur to 0 to 255.
fn stretched(counts: &[u32; 256]) -> [u8; 256] {
    let least = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let most = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    if most <= least {
        return std::array::from_fn(|v| v as u8);
    }
    let scale = 255.0 / (most - least) as f64;
    let offset = -(least as f64) * scale;
    std::array::from_fn(|v| (v as f64 * scale + offset).clamp(0.0, 255.0) as u8)
}

/// To values that are equally frequent, as far as whole values allow.
fn equalized(counts: &[u32; 256]) -> [u8; 256] {
    let identity = std::array::from_fn(|v| v as u8);
    let Some(last) = counts.iter().rev().find(|count| **count > 0) else { return identity };
    let step = (counts.iter().sum::<u32>() - last) / 255;
    if step == 0 {
        return identity;
    }
    let mut below = step / 2;
    std::array::from_fn(|v| {
        let value = (below / step).min(255) as u8;
        below += counts[v];
        value
    })
}

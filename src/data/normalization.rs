//! From 8-bit values to what a network sees.

use crate::error::{Error, Result};

/// ImageNet's channel means, of values 0 to 1.
pub const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's channel standard deviations.
pub const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Mean and standard deviation of every channel, of values 0 to 1: `(v / 255 − mean) / std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    mean: Vec<f32>,
    std: Vec<f32>,
}

impl Normalization {
    /// ImageNet's numbers for three channels; for another number the average of the three in every channel,
    /// as timm has it.
    pub fn imagenet(channels: usize) -> Self {
        let of = |values: [f32; 3]| match channels {
            3 => values.to_vec(),
            _ => vec![values.iter().sum::<f32>() / 3.0; channels],
        };
        Self { mean: of(MEAN), std: of(STD) }
    }

    /// Means and standard deviations of so many channels, where they are given; else
    /// [`Normalization::imagenet`]'s.
    pub fn new(channels: usize, mean: &[f64], std: &[f64]) -> Result<Self> {
        let default = Self::imagenet(channels);
        let of = |key: &str, values: &[f64], default: Vec<f32>, low: f64| -> Result<Vec<f32>> {
            if values.is_empty() {
                return Ok(default);
            }
            if values.len() != channels {
                let problem = format!(
                    "has {} numbers for student.in_chans = {channels}: give one a channel, or none for ImageNet's",
                    values.len()
                );
                return Err(Error::config(key, problem));
            }
            match values.iter().find(|v| !(low..=1e3).contains(*v)) {
                Some(v) => {
                    let problem = format!("holds {v}; values are 0 to 1, so it must be {low} to 1000");
                    Err(Error::config(key, problem))
                }
                None => Ok(values.iter().map(|v| *v as f32).collect()),
            }
        };
        Ok(Self {
            mean: of("data.mean", mean, default.mean, -1e3)?,
            std: of("data.std", std, default.std, 1e-6)?,
        })
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.mean.len()
    }

    /// The mean of every channel.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// The standard deviation of every channel.
    pub fn std(&self) -> &[f32] {
        &self.std
    }

    /// Values 0 to 255 of planes `[channels, n]` to normalised ones.
    pub fn apply(&self, planes: &mut [f32]) {
        let n = planes.len() / self.channels();
        for ((plane, mean), std) in planes.chunks_exact_mut(n.max(1)).zip(&self.mean).zip(&self.std) {
            let (scale, shift) = (1.0 / (255.0 * std), mean / std);
            for v in plane {
                *v = *v * scale - shift;
            }
        }
    }

    /// What becomes of each 8-bit value, `[channels, 256]`.
    pub fn table(&self) -> Vec<f32> {
        let mut all: Vec<f32> = (0..self.channels()).flat_map(|_| (0..=u8::MAX).map(f32::from)).collect();
        self.apply(&mut all);
        all
    }

    /// 8-bit values of planes of `plane` pixels, the channels' in turn, as normalised ones.
    pub fn normalised(&self, values: &[u8], plane: usize) -> Vec<f32> {
        let mut all = vec![0.0; values.len()];
        self.normalise_into(values, plane, &mut all);
        all
    }

    /// As [`Normalization::normalised`], into `out` of as many values.
    pub fn normalise_into(&self, values: &[u8], plane: usize, out: &mut [f32]) {
        let (table, plane) = (self.table(), plane.max(1));
        for (i, (values, out)) in values.chunks(plane).zip(out.chunks_mut(plane)).enumerate() {
            let table = &table[256 * (i % self.channels())..][..256];
            out.iter_mut().zip(values).for_each(|(to, v)| *to = table[usize::from(*v)]);
        }
    }

    /// The mean of every channel as an 8-bit value.
    pub fn mean_bytes(&self) -> Vec<u8> {
        self.mean.iter().map(|mean| (255.0 * mean).round() as u8).collect()
    }

    /// The 8-bit value that a normalised one of a channel was.
    pub fn value(&self, channel: usize, normalised: f32) -> u8 {
        (255.0 * (normalised * self.std[channel] + self.mean[channel])).round() as u8
    }
}

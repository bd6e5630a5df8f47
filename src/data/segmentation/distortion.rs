//! Colours of a crop changed at random: brightness, contrast, saturation and hue, each with a probability of its own, contrast
//! before or after the two others. Source: mmsegmentation's `PhotoMetricDistortion`, whose hue counts in half degrees.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::data::color::Planes;
use crate::data::draws::chance;

/// Probability of each change.
const EACH: f64 = 0.5;
/// Largest change of brightness, of values 0 to 255.
const BRIGHTNESS: f32 = 32.0;
/// Factors of contrast and saturation.
const FACTORS: std::ops::Range<f32> = 0.5..1.5;
/// Largest turn of the hue, of the full circle.
const HUE: f32 = 18.0 / 180.0;

/// What is done to a crop.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Distortion {
    /// Added to all values.
    pub brightness: Option<f32>,
    /// Factor of all values, and whether it comes before saturation and hue.
    pub contrast: Option<(f32, bool)>,
    /// Factor of the saturation.
    pub saturation: Option<f32>,
    /// Turn of the hue, of the full circle.
    pub hue: Option<f32>,
}

impl Distortion {
    /// Draws every change; the same number of draws whatever comes out.
    pub fn draw(rng: &mut ChaCha8Rng) -> Self {
        let brightness = rng.random_range(-BRIGHTNESS..BRIGHTNESS);
        let (contrast, saturation) = (rng.random_range(FACTORS), rng.random_range(FACTORS));
        let hue = rng.random_range(-HUE..HUE);
        let mut some = || chance(rng, EACH);
        Self {
            brightness: some().then_some(brightness),
            contrast: some().then_some((contrast, false)),
            saturation: some().then_some(saturation),
            hue: some().then_some(hue),
        }
        .with_order(some())
    }

    fn with_order(self, first: bool) -> Self {
        Self { contrast: self.contrast.map(|(factor, _)| (factor, first)), ..self }
    }

    /// Changes planes of whole numbers 0 to 255: three of colours, or grey ones, whose saturation and hue stay.
    pub fn apply(&self, planes: &mut [f32], channels: usize) {
        let n = planes.len() / channels.max(1);
        let each = |planes: &mut [f32], f: &dyn Fn(f32) -> f32| {
            planes.iter_mut().for_each(|v| *v = f(*v).clamp(0.0, 255.0).round_ties_even());
        };
        if let Some(shift) = self.brightness {
            each(planes, &|v| v + shift);
        }
        if let Some((factor, true)) = self.contrast {
            each(planes, &|v| v * factor);
        }
        if channels == 3 && n > 0 {
            if let Some(factor) = self.saturation {
                Planes::of(planes).vividness(factor);
            }
            if let Some(turn) = self.hue {
                Planes::of(planes).hue(turn);
            }
        }
        if let Some((factor, false)) = self.contrast {
            each(planes, &|v| v * factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, stream};

    #[test]
    fn changes_come_as_often_as_they_should() {
        let mut rng = stream(3, Purpose::SegmentationCrops, 0, 0);
        let all: Vec<Distortion> = (0..4000).map(|_| Distortion::draw(&mut rng)).collect();
        let share = |of: &dyn Fn(&Distortion) -> bool| all.iter().filter(|d| of(d)).count() as f64 / 4000.0;
        for share in [
            share(&|d| d.brightness.is_some()),
            share(&|d| d.contrast.is_some()),
            share(&|d| d.saturation.is_some()),
            share(&|d| d.hue.is_some()),
            2.0 * share(&|d| matches!(d.contrast, Some((_, true)))),
        ] {
            assert!((share - 0.5).abs() < 0.04, "{share}");
        }
        let mean = all.iter().filter_map(|d| d.brightness).sum::<f32>() / 2000.0;
        assert!(mean.abs() < 1.5, "{mean}");
        assert!(all.iter().filter_map(|d| d.saturation).all(|f| (0.5..1.5).contains(&f)));
    }

    #[test]
    fn values_stay_bytes_and_grey_stays_grey() {
        let one = Distortion {
            brightness: Some(-31.7),
            contrast: Some((1.43, true)),
            saturation: Some(0.6),
            hue: Some(0.08),
        };
        let mut planes: Vec<f32> = (0..3 * 256).map(|i| (i % 256) as f32).collect();
        one.apply(&mut planes, 3);
        let (r, rest) = planes.split_at(256);
        assert!(r == &rest[..256] && r == &rest[256..], "grey has no hue to be turned");
        assert!(planes.iter().all(|v| v.fract() == 0.0 && (0.0..=255.0).contains(v)));
        // (100 − 31.7 rounded) · 1.43 rounded
        assert_eq!(r[100], 97.0);
    }

    #[test]
    fn saturation_is_scaled_in_hsv() {
        let mut planes = [200.0, 100.0, 150.0];
        Distortion { saturation: Some(0.5), ..Distortion::default() }.apply(&mut planes, 3);
        // the largest value stays, the others come half as near to it, in steps of HSV's 8 bits
        assert!((planes[0] - 200.0).abs() <= 1.0 && (planes[1] - 150.0).abs() <= 1.0, "{planes:?}");
        assert!((planes[2] - 175.0).abs() <= 2.0, "{planes:?}");
    }
}

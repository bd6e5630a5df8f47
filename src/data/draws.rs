//! Random choices that augmentations share.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::data::resize::Area;

/// Aspect ratios of random crops unless something else is asked for, width by height: log-uniform.
pub const ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
const CROP_TRIES: usize = 10;

/// True with probability `p`; draws one number whatever `p` is.
pub fn chance(rng: &mut ChaCha8Rng, p: f64) -> bool {
    rng.random::<f64>() < p
}

/// The box of a random resized crop of a width × height image (at least 1×1): its share of the area uniform in `scale`,
/// its width by height log-uniform in `aspect`. Where ten tries do not fit, the largest box in the middle whose aspect
/// ratio is in the range. Source: torchvision's `RandomResizedCrop.get_params`.
pub fn random_area(
    rng: &mut ChaCha8Rng,
    scale: (f64, f64),
    aspect: (f64, f64),
    (width, height): (u32, u32),
) -> Area {
    let (w, h) = (f64::from(width), f64::from(height));
    for _ in 0..CROP_TRIES {
        let area = w * h * (scale.0 + (scale.1 - scale.0) * rng.random::<f64>());
        let aspect = log_uniform(rng, aspect);
        let crop_w = (area * aspect).sqrt().round_ties_even();
        let crop_h = (area / aspect).sqrt().round_ties_even();
        if (1.0..=w).contains(&crop_w) && (1.0..=h).contains(&crop_h) {
            let (crop_w, crop_h) = (crop_w as u32, crop_h as u32);
            let top = rng.random_range(0..=height - crop_h);
            let left = rng.random_range(0..=width - crop_w);
            return Area { top, left, height: crop_h, width: crop_w };
        }
    }
    let (crop_w, crop_h) = if w / h < aspect.0 {
        (width, (w / aspect.0).round_ties_even() as u32)
    } else if w / h > aspect.1 {
        ((h * aspect.1).round_ties_even() as u32, height)
    } else {
        (width, height)
    };
    Area { top: (height - crop_h) / 2, left: (width - crop_w) / 2, height: crop_h, width: crop_w }
}

/// A number whose logarithm is uniform; one draw whatever the range, which may be a single number.
pub fn log_uniform(rng: &mut ChaCha8Rng, (low, high): (f64, f64)) -> f64 {
    match low < high {
        true => rng.random_range(low.ln()..high.ln()).exp(),
        false => {
            let _: f64 = rng.random();
            low
        }
    }
}

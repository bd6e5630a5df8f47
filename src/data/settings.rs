//! From a configuration to what the loader makes.

use crate::data::{BlurProbabilities, Crop, CropConfig, LoaderConfig, MaskConfig};
use crate::error::Result;
use crate::models::backbone;
use crate::recipes::Config;

/// Batches made ahead by the loader.
const PREFETCH: usize = 2;

/// What the loader makes for a config. One whose backbone cannot be opened is an error.
pub fn loader_config(config: &Config) -> Result<LoaderConfig> {
    let c = &config.crops;
    let defaults = CropConfig::default();
    let [a, b, local] = c.blur.probabilities();
    let scale = |s: [f64; 2]| (s[0], s[1]);
    let side = backbone::open(config)?.cells(c.global_crops_size);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(LoaderConfig {
        batch: config.train.batch_size_per_gpu,
        seed: config.train.seed,
        threads: if config.train.num_workers == 0 { cores } else { config.train.num_workers },
        prefetch: PREFETCH,
        crops: CropConfig {
            global: Crop { size: c.global_crops_size, scale: scale(c.global_crops_scale) },
            local: Crop { size: c.local_crops_size, scale: scale(c.local_crops_scale) },
            local_count: c.local_crops_number,
            flip: c.flip_probability,
            jitter: c.color_jitter_probability,
            jitter_strength: c.color_jitter,
            grayscale: c.grayscale_probability,
            blur: BlurProbabilities { a, b, local },
            solarize: c.solarize_probability,
            ..defaults
        },
        masks: MaskConfig {
            side,
            probability: config.ibot.mask_sample_probability,
            ratio: scale(config.ibot.mask_ratio_min_max),
        },
        start_step: 0,
    })
}

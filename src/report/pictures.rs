//! Pictures of a run: what its loader makes of a few images, and what its network sees in them.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::{FilterType, resize};
use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::data::batch::{CropGroup, Masks, Pixels};
use crate::data::loader::Loader;
use crate::data::pixels::IGNORED;
use crate::data::{self, LoaderConfig, Source, segmentation};
use crate::error::{Error, Result};
use crate::eval::visualize::{attention_panel, legible, picture, token_pictures};
use crate::files::regular::read_text;
use crate::gpu::DeviceChoice;
use crate::ops;
use crate::recipes::preset::{Recipes, holds};
use crate::recipes::teacher::Teacher;
use crate::recipes::{Config, Stored};
use crate::shown::shown;
use crate::tasks::{distill, finetune, segment};
use crate::tensor::Tensor;
use crate::train::run_folder::CONFIG;

/// Images that are drawn.
const IMAGES: usize = 4;
/// Crops of a group that are drawn of each image.
const VIEWS: usize = 4;
/// Pixels a side that no picture of a crop exceeds.
const LARGEST: u32 = 224;
/// Bytes of settings.
const MOST_CONFIG: u64 = 16 << 20;
/// What hidden cells are painted with.
const HIDDEN: [u8; 3] = [232, 93, 58];

/// Crops of the run in `dir`, and attention and principal components of its newest checkpoint. What cannot be drawn
/// is said in `why`.
pub fn pictures(dir: &Path, device: &DeviceChoice) -> Value {
    let mut why = Vec::new();
    let mut told = |what: &str, drawn: Result<Vec<Value>>| {
        drawn.unwrap_or_else(|e| {
            why.push(format!("{what}: {e}"));
            Vec::new()
        })
    };
    let crops = told("No example crops", crops(dir));
    let seen = told("No pictures of what the network sees", seen(dir, device));
    json!({ "crops": crops, "seen": seen, "why": why })
}

/// The images that a run learns from, and what its loader makes of them.
fn loading(dir: &Path) -> Result<(Arc<dyn Source>, LoaderConfig)> {
    let path = dir.join(CONFIG);
    let text = read_text(&path, MOST_CONFIG)?;
    let open = |spec: &str, reading| data::open_setting("data.spec", spec, reading);
    if holds(&text, finetune::Settings::SECTION) {
        let settings = finetune::Settings::from_stored(&text, &path)?;
        let data = &settings.data.data;
        return Ok((open(&data.spec, &data.reading())?, settings.loader()?));
    }
    if holds(&text, segment::Settings::SECTION) {
        let settings = segment::Settings::from_stored(&text, &path)?;
        let (data, meaning) = (&settings.data.data, settings.meaning()?);
        let parts = segmentation::registry::open(&data.spec, meaning.as_ref(), &data.reading())?;
        return Ok((parts.train, settings.loader()?));
    }
    if holds(&text, distill::Settings::SECTION) {
        let settings = distill::Settings::from_stored(&text, &path)?;
        return Ok((open(&settings.data.spec, &settings.data.reading())?, settings.loader()?));
    }
    let config = Config::from_stored(&text, &path)?;
    Ok((open(&config.data.spec, &config.data.reading())?, config.loader()?))
}

fn crops(dir: &Path) -> Result<Vec<Value>> {
    let (source, config) = loading(dir)?;
    let batch = IMAGES.min(source.len().max(1));
    let mut loader = Loader::new(source, LoaderConfig { batch, threads: 0, prefetch: 1, ..config })?;
    let batch = loader.next()?;
    let mut all = Vec::new();
    for image in 0..batch.images() {
        let mut parts = Vec::new();
        for group in batch.groups() {
            for view in 0..group.views.min(VIEWS) {
                let crop = crop(group, view * batch.images() + image);
                parts.push(json!({ "label": group.name, "picture": uri(&crop)?, "size": group.size }));
            }
        }
        all.push(json!({ "parts": parts }));
    }
    Ok(all)
}

/// A crop with its hidden cells, or the classes of its pixels, painted over it.
fn crop(group: &CropGroup, number: usize) -> RgbImage {
    let (size, plane) = (group.size, group.size * group.size);
    let from = number * group.crop_len();
    let value = |channel: usize, at: usize| match &group.pixels {
        Pixels::Bytes(values, _) => values[from + channel * plane + at],
        // their normalisation is not kept: as of values around 0
        Pixels::Floats(values) => {
            (128.0 + 52.0 * values[from + channel * plane + at]).clamp(0.0, 255.0) as u8
        }
    };
    let mut crop = RgbImage::from_fn(size as u32, size as u32, |x, y| {
        let at = y as usize * size + x as usize;
        let rgb =
            if group.channels < 3 { [value(0, at); 3] } else { [value(0, at), value(1, at), value(2, at)] };
        Rgb(match &group.masks {
            Some(masks) => painted(rgb, masks, number, [x, y].map(|v| v as usize * masks.side / size)),
            None => rgb,
        })
    });
    let side = crop.width();
    if side > LARGEST {
        crop = resize(&crop, LARGEST, LARGEST, FilterType::Triangle);
    } else if side * 2 <= LARGEST {
        let side = side * (LARGEST / side);
        crop = resize(&crop, side, side, FilterType::Nearest);
    }
    crop
}

/// A pixel under the value of its cell: 1 hides it, or it is a class.
fn painted(rgb: [u8; 3], masks: &Masks, number: usize, [x, y]: [usize; 2]) -> [u8; 3] {
    let value = masks.values[(number * masks.side + y) * masks.side + x];
    let (colour, share) = match value {
        0 | IGNORED => return rgb,
        1 => (HIDDEN, 0.78),
        class => {
            let turn = f64::from(class) * 0.618_034;
            (
                std::array::from_fn(|i| {
                    (127.5 + 127.5 * (std::f64::consts::TAU * (turn + i as f64 / 3.0)).cos()) as u8
                }),
                0.6,
            )
        }
    };
    std::array::from_fn(|i| (f64::from(rgb[i]) * (1.0 - share) + f64::from(colour[i]) * share).round() as u8)
}

/// Attention and principal components of the teacher on the first images of its run.
fn seen(dir: &Path, device: &DeviceChoice) -> Result<Vec<Value>> {
    let device = ops::open(device)?;
    let teacher = Teacher::open(dir, &device)?;
    let (config, encoder) = (&teacher.config, teacher.encoder());
    let (network, size) = (teacher.grid.intact(), config.crops.global_crops_size);
    let source = data::open_setting("data.spec", &config.data.spec, &config.data.reading())?;
    let view = config.evaluation_view(size)?;
    let [channels, ..] = view.shape();
    let side = legible(size).min(LARGEST.max(size as u32));
    let (mut inputs, mut tokens, mut attention) = (Vec::new(), Vec::new(), Vec::new());
    let mut names = Vec::new();
    // some may not be usable
    for number in 0..source.len().min(4 * IMAGES) {
        let Some(image) = source.load(number).ok().and_then(|image| image.in_channels(channels)) else {
            continue;
        };
        let pixels = view.of(&image);
        let images = Tensor::from_slice(&device, &[1, channels, size, size], &pixels)?;
        let input = resize(&picture(&pixels, &view), side, side, FilterType::Nearest);
        attention.push(match encoder.class_attention(network, &images)? {
            Some(weights) => {
                let heads = weights.len() / encoder.backbone.cells(size).pow(2);
                Some(uri(&attention_panel(&input, &weights, heads)?)?)
            }
            None => None,
        });
        let (_, patches) = encoder.features(network, &images, true)?;
        let patches =
            patches.ok_or_else(|| Error::shape("pictures of tokens", "there are no patch tokens"))?;
        tokens.push(patches.to_vec::<f32>()?);
        inputs.push(uri(&input)?);
        names.push(shown(&source.name(number)).into_owned());
        if names.len() == IMAGES {
            break;
        }
    }
    if names.is_empty() {
        return Err(Error::file(source.describe(), "none of the first images can be used"));
    }
    let matrices: Vec<&[f32]> = tokens.iter().map(Vec::as_slice).collect();
    let colours = token_pictures(&matrices, encoder.backbone.feature_width(network), side)?;
    let all =
        names.iter().zip(inputs).zip(attention).zip(&colours).map(|(((name, input), attention), colours)| {
            Ok(json!({
                "name": name, "input": input, "attention": attention, "components": uri(colours)?,
                "network": network.to_string(), "step": teacher.step,
            }))
        });
    all.collect()
}

/// A picture as it stands in a page.
fn uri(picture: &RgbImage) -> Result<String> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|e| Error::Mismatch(format!("a picture cannot be written as PNG: {e}")))?;
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(bytes.get_ref())))
}

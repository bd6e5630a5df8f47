//! What prototypes stand for (the paper's Figure 11): the images, or the patches, with the highest logits of the prototypes
//! that most images choose. Images come by once; of each its choice is kept, twelve bytes, so that there may be millions.

use std::sync::Arc;

use image::{Rgb, RgbImage, imageops};
use rayon::prelude::*;

use crate::data::channels::in_channels;
use crate::data::{BadSample, EvaluationView, Source};
use crate::error::{Error, Result};
use crate::eval::ahead::ahead;
use crate::eval::pass::{Progress, images_at_once};
use crate::eval::prototypes::Prototypes;
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::stop::Stop;
use crate::tensor::Tensor;

/// Bytes of the images that go through the network together, at most (but one image).
const BATCH_BYTES: usize = 32 << 20;
/// Patches a side of the window that is shown around a patch.
const WINDOW: usize = 5;
/// What its own patch is tinted with, and how strongly, of 255.
const TINT: ([u8; 3], u32) = ([200, 100, 0], 127);
/// Windows whose mean brightness is at most this are not shown.
const DARK: f64 = 40.0;

/// What an image is most like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The largest logit.
    pub logit: f32,
    /// Of which prototype.
    pub prototype: u32,
    /// Of which patch, row by row; 0 where images as wholes were asked.
    pub cell: u32,
}

/// What every image is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ChoiceOptions {
    /// How images are shown to the network.
    pub view: EvaluationView,
    /// The best patch of every image, in place of its class token.
    pub patches: bool,
    /// At most that many images, the first ones; 0 for all.
    pub most: usize,
}

/// The choice of every image of a source, none of one that cannot be read; and these.
pub fn choices(
    encoder: Encoder<'_>,
    network: Network,
    prototypes: &Prototypes,
    source: &Arc<dyn Source>,
    options: &ChoiceOptions,
    progress: Progress<'_>,
    stop: &Stop,
) -> Result<(Vec<Option<Choice>>, Vec<BadSample>)> {
    let [channels, size, _] = options.view.shape();
    let source = in_channels(source.clone(), channels)?;
    let n = if options.most == 0 { source.len() } else { options.most.min(source.len()) };
    let one = channels * size * size;
    let at_once = images_at_once(encoder, network, size).min((BATCH_BYTES / (4 * one)).max(1));
    let (images, view, stopped) = (source.clone(), options.view.clone(), stop.clone());
    let decode = move |part: usize| -> Vec<Result<Vec<f32>, BadSample>> {
        let all = (part * at_once..n.min((part + 1) * at_once)).into_par_iter();
        let decoded =
            all.map(|i| stopped.asked().is_none().then(|| images.load(i).map(|image| view.of(&image))));
        decoded.flatten().collect()
    };
    let (mut found, mut bad) = (Vec::with_capacity(n), Vec::new());
    ahead((n.div_ceil(at_once), 1), stop, &source.describe(), decode, |decoded| {
        stop.check()?;
        let (mut pixels, mut readable) = (Vec::new(), Vec::with_capacity(decoded.len()));
        for image in decoded {
            readable.push(image.is_ok());
            match image {
                Ok(image) => pixels.extend(image),
                Err(sample) => bad.push(sample),
            }
        }
        let count = pixels.len() / one;
        let mut chosen = Vec::new();
        if count > 0 {
            let images = Tensor::from_slice(encoder.device, &[count, channels, size, size], &pixels)?;
            let (cls, patches) = encoder.features(network, &images, options.patches)?;
            let rows = prototypes.nearest(patches.as_ref().unwrap_or(&cls), 1)?;
            let cells = rows.len() / count;
            chosen.extend(rows.chunks_exact(cells).map(|rows| best(rows.iter().map(|row| row.first()))));
        }
        let mut chosen = chosen.into_iter();
        found
            .extend(readable.into_iter().map(|readable| readable.then(|| chosen.next().flatten()).flatten()));
        progress("prototypes", found.len(), n);
        Ok(())
    })?;
    match found.iter().any(Option::is_some) {
        true => Ok((found, bad)),
        false => Err(Error::file(source.describe(), "has no image that can be read; check the files")),
    }
}

/// The largest logit of an image's rows.
fn best<'a>(rows: impl Iterator<Item = Option<&'a crate::ops::top_k::Scored>>) -> Option<Choice> {
    let all = rows.enumerate().filter_map(|(cell, row)| {
        let row = row?;
        Some(Choice { logit: row.score, prototype: row.column, cell: cell as u32 })
    });
    all.reduce(|best, one| if one.logit > best.logit { one } else { best })
}

/// A prototype and the images that choose it, by their numbers, the highest logit first.
pub struct Chosen {
    /// The prototype.
    pub prototype: u32,
    /// The images.
    pub images: Vec<usize>,
}

/// The `count` prototypes that most images choose, of equal ones the first.
pub fn most_chosen(choices: &[Option<Choice>], prototypes: usize, count: usize) -> Vec<Chosen> {
    let mut of: Vec<Vec<usize>> = vec![Vec::new(); prototypes];
    for (image, choice) in choices.iter().enumerate() {
        if let Some(choice) = choice {
            of[choice.prototype as usize].push(image);
        }
    }
    let mut order: Vec<usize> = (0..prototypes).filter(|p| !of[*p].is_empty()).collect();
    order.sort_by_key(|p| std::cmp::Reverse(of[*p].len()));
    order.truncate(count);
    let logit = |image: &usize| choices[*image].map_or(f32::NEG_INFINITY, |choice| choice.logit);
    let chosen = |prototype: usize| {
        let mut images = std::mem::take(&mut of[prototype]);
        images.sort_by(|a, b| logit(b).total_cmp(&logit(a)));
        Chosen { prototype: prototype as u32, images }
    };
    order.into_iter().map(chosen).collect()
}

/// The window around a patch of a picture of `grid` × `grid` cells, moved to lie within it, its own patch tinted; none where it
/// is too dark to show anything.
pub fn window(picture: &RgbImage, grid: usize, cell: usize) -> Option<RgbImage> {
    let side = picture.width() as usize / grid;
    let cells = WINDOW.min(grid);
    let start = |at: usize| at.saturating_sub(cells / 2).min(grid - cells);
    let (left, top) = (start(cell % grid), start(cell / grid));
    let pixels = |cells: usize| (cells * side) as u32;
    let part = imageops::crop_imm(picture, pixels(left), pixels(top), pixels(cells), pixels(cells));
    let mut part = part.to_image();
    // V of HSV
    let bright: f64 = part.pixels().map(|p| f64::from(p.0.into_iter().max().unwrap_or(0))).sum();
    if bright <= DARK * f64::from(part.width() * part.height()) {
        return None;
    }
    let (x, y) = (pixels(cell % grid - left), pixels(cell / grid - top));
    for (dx, dy) in (0..side as u32).flat_map(|dy| (0..side as u32).map(move |dx| (dx, dy))) {
        let Rgb(pixel) = part.get_pixel_mut(x + dx, y + dy);
        for (value, tint) in pixel.iter_mut().zip(TINT.0) {
            *value = ((u32::from(*value) * (255 - TINT.1) + u32::from(tint) * TINT.1) / 255) as u8;
        }
    }
    Some(part)
}

/// Tiles row by row, as many a row as make a square of `places`; white where there are fewer.
pub fn tiled(tiles: &[RgbImage], places: usize) -> Option<RgbImage> {
    let (width, height) = tiles.first()?.dimensions();
    let columns = (places as f64).sqrt().ceil() as usize;
    let rows = tiles.len().div_ceil(columns).max(1);
    let size = (columns.min(tiles.len()) as u32 * width, rows as u32 * height);
    let mut all = RgbImage::from_pixel(size.0, size.1, Rgb([255; 3]));
    for (i, tile) in tiles.iter().enumerate() {
        let (x, y) = ((i % columns) as i64 * i64::from(width), (i / columns) as i64 * i64::from(height));
        imageops::replace(&mut all, tile, x, y);
    }
    Some(all)
}

//! Pictures of what a backbone sees: attention of the class token, principal components of patch tokens.

use colorous::INFERNO;
use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma, Rgb, RgbImage};

use crate::data::EvaluationView;
use crate::error::{Error, Result};
pub use crate::eval::pca::{COMPONENTS, Principal};
use crate::plot::panel;
pub use crate::plot::write_png;

/// How much of the image a heat map hides.
const HEAT: f32 = 0.65;
/// The share of the values beyond each end of a component's colours, so that a few tokens do not set them.
const TAIL: f64 = 0.02;

/// Pixels a side that every picture has at least.
const LEGIBLE: u32 = 256;

/// Pixels a side of a picture of an image of `size`: small ones by a whole factor, so that a pixel stays a square.
pub fn legible(size: usize) -> u32 {
    size as u32 * LEGIBLE.div_ceil(size as u32)
}

/// Normalised values [channels, size, size] as a picture: the first three channels, or the first alone as
/// grey.
pub fn picture(pixels: &[f32], view: &EvaluationView) -> RgbImage {
    let [channels, size, _] = view.shape();
    let plane = size * size;
    RgbImage::from_fn(size as u32, size as u32, |x, y| {
        let at = y as usize * size + x as usize;
        let value = |channel: usize| view.normalization.value(channel, pixels[channel * plane + at]);
        Rgb(if channels < 3 { [value(0); 3] } else { [value(0), value(1), value(2)] })
    })
}

/// The image, then the class token's attention over it of each head and of all heads' mean, side by side and each with
/// its name.
///
/// `attention` [heads, g·g] are the weights that the class token gives to the patches, row by row; every map
/// runs from its own least to its own largest weight. The image is square, of any number of pixels. An error
/// if the sizes do not fit or a weight is not finite.
pub fn attention_panel(image: &RgbImage, attention: &[f32], heads: usize) -> Result<RgbImage> {
    let op = "attention panel";
    let patches = attention.len().checked_div(heads).unwrap_or(0);
    if patches * heads != attention.len() {
        return Err(Error::shape(
            op,
            format!("{} weights cannot be shared by {heads} heads", attention.len()),
        ));
    }
    let grid = side(op, patches)?;
    let size = square(op, image)?;
    finite(op, attention)?;
    let mut mean = vec![0.0; patches];
    for head in attention.chunks_exact(patches) {
        mean.iter_mut().zip(head).for_each(|(m, a)| *m += a / heads as f32);
    }
    let maps = attention.chunks_exact(patches).chain([&mean[..]]);
    let names = (1..=heads).map(|head| format!("head {head}")).chain(["mean of the heads".into()]);
    let mut pictures = vec![("input".to_string(), image.clone())];
    pictures.extend(names.zip(maps.map(|map| over(image, &heat_map(map, grid, size)))));
    panel(&pictures, ((heads + 2) as f64).sqrt().ceil() as usize)
}

/// The class token's weights of one head [g·g] as a picture of `size` × `size` pixels, from dark (the least)
/// to bright (the largest); all dark if they are equal. An error if they are not finite or fill no square.
pub fn attention_map(attention: &[f32], size: u32) -> Result<RgbImage> {
    let op = "attention map";
    finite(op, attention)?;
    Ok(heat_map(attention, side(op, attention.len())?, size))
}

/// A picture of `size` × `size` pixels for each matrix of patch tokens [g·g, dim], whose red, green and blue
/// are the first three principal components of all the tokens together, so that equal colours mean the same
/// in every picture.
///
/// The range of each colour is that of its component without the outermost 2 % at both ends; a component
/// without variance is of medium brightness. An error if there is no token, a matrix has another shape, or a
/// value is not finite.
pub fn token_pictures(tokens: &[&[f32]], dim: usize, size: u32) -> Result<Vec<RgbImage>> {
    let op = "principal components of tokens";
    let mut grids = Vec::with_capacity(tokens.len());
    for tokens in tokens {
        let count = tokens.len().checked_div(dim).unwrap_or(0);
        if count * dim != tokens.len() {
            return Err(Error::shape(op, format!("{} values are no rows of {dim}", tokens.len())));
        }
        grids.push(side(op, count)?);
        finite(op, tokens)?;
    }
    if grids.is_empty() {
        return Err(Error::shape(op, "there is no image"));
    }
    let all = tokens.concat();
    let principal = Principal::of(&all, dim);
    let placed: Vec<[f64; COMPONENTS]> = all.chunks_exact(dim).map(|row| principal.project(row)).collect();
    let ranges: [(f64, f64); COMPONENTS] = std::array::from_fn(|i| middle_range(placed.iter().map(|p| p[i])));
    let mut placed = placed.into_iter();
    let pictures = grids.into_iter().map(|grid| {
        let colors: Vec<[f64; COMPONENTS]> = placed.by_ref().take((grid * grid) as usize).collect();
        let channels: [Plane; COMPONENTS] = std::array::from_fn(|i| {
            let (low, high) = ranges[i];
            let share = |v: f64| if high > low { ((v - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
            let values: Vec<f32> = colors.iter().map(|color| share(color[i]) as f32).collect();
            enlarged(&values, grid, size)
        });
        RgbImage::from_fn(size, size, |x, y| {
            Rgb(std::array::from_fn(|i| (255.0 * channels[i].get_pixel(x, y).0[0]).round() as u8))
        })
    });
    Ok(pictures.collect())
}

/// One number a pixel.
type Plane = ImageBuffer<Luma<f32>, Vec<f32>>;

/// A map [grid, grid] in colours, from its least to its largest value.
fn heat_map(map: &[f32], grid: u32, size: u32) -> RgbImage {
    let (low, high) = map.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let share: Vec<f32> =
        map.iter().map(|v| if high > low { (v - low) / (high - low) } else { 0.0 }).collect();
    let shares = enlarged(&share, grid, size);
    RgbImage::from_fn(size, size, |x, y| {
        Rgb(INFERNO.eval_continuous(f64::from(shares.get_pixel(x, y).0[0])).into_array())
    })
}

/// Values 0 to 1 of [grid, grid], enlarged by cubic interpolation, which must not leave that range.
fn enlarged(values: &[f32], grid: u32, size: u32) -> Plane {
    let plane = Plane::from_fn(grid, grid, |x, y| Luma([values[(y * grid + x) as usize]]));
    let mut plane = imageops::resize(&plane, size, size, FilterType::CatmullRom);
    plane.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
    plane
}

/// A heat map over the image.
fn over(image: &RgbImage, heat: &RgbImage) -> RgbImage {
    let mut mixed = image.clone();
    for (below, above) in mixed.iter_mut().zip(heat.iter()) {
        *below = (f32::from(*below) * (1.0 - HEAT) + f32::from(*above) * HEAT).round() as u8;
    }
    mixed
}

/// The range of the values without the outermost at both ends.
fn middle_range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len() - 1;
    let low = (TAIL * last as f64).round() as usize;
    (values[low], values[last - low])
}

/// The side of a square of `count` patches.
fn side(op: &'static str, count: usize) -> Result<u32> {
    let side = count.isqrt();
    match side > 0 && side * side == count {
        true => Ok(side as u32),
        false => Err(Error::shape(
            op,
            format!("{count} patches fill no square; leave out cls and register tokens"),
        )),
    }
}

fn square(op: &'static str, image: &RgbImage) -> Result<u32> {
    match image.dimensions() {
        (width, height) if width == height && width > 0 => Ok(width),
        (width, height) => {
            Err(Error::shape(op, format!("the image has {width} × {height} pixels, not a square")))
        }
    }
}

fn finite(op: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().all(|v| v.is_finite()) {
        true => Ok(()),
        false => {
            Err(Error::shape(op, "some values are not finite; was the network trained without overflow?"))
        }
    }
}

//! Which patch of a second image is most like each patch of a first one (the paper's Figure 10), by the dot product of their
//! tokens, and how often that is the same place where both are views of one image.

use image::{Rgb, RgbImage};

use crate::data::Choices;
use crate::error::{Error, Result};

/// Colour of lines.
const LINE: Rgb<u8> = Rgb([255, 0, 0]);

/// For every row of `first` `[patches, width]` the row of `second` with the largest dot product, of equal ones the first, and
/// that product.
pub fn matches(first: &[f32], second: &[f32], width: usize) -> Vec<(usize, f32)> {
    let best = |row: &[f32]| {
        let products =
            second.chunks_exact(width).map(|other| row.iter().zip(other).map(|(a, b)| a * b).sum::<f32>());
        products.enumerate().fold((0, f32::NEG_INFINITY), |best, one| if one.1 > best.1 { one } else { best })
    };
    first.chunks_exact(width).map(best).collect()
}

/// The `count` numbers of the largest values, the largest first, of equal ones the first.
pub fn largest(values: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(count);
    order
}

/// For every patch of a `grid` × `grid` view where it lies in another view of the same image: the patch there whose centre is
/// nearest, or none for one whose centre is nearer to the other view's border than half a patch, or beyond it.
pub fn same_places(first: &Choices, second: &Choices, grid: usize) -> Vec<Option<usize>> {
    let side = grid as f64;
    // along one axis: of the share of a view that lies before a point, the point in the image, and back
    let place = |of: &Choices, axis: usize, share: f64| {
        let area = of.area;
        let (start, length) = [(area.left, area.width), (area.top, area.height)][axis];
        let share = if axis == 0 && of.flip { 1.0 - share } else { share };
        f64::from(start) + share * f64::from(length)
    };
    let share = |of: &Choices, axis: usize, at: f64| {
        let area = of.area;
        let (start, length) = [(area.left, area.width), (area.top, area.height)][axis];
        let share = (at - f64::from(start)) / f64::from(length);
        if axis == 0 && of.flip { 1.0 - share } else { share }
    };
    let cell = |axis: usize, number: usize| {
        let at = share(second, axis, place(first, axis, (number as f64 + 0.5) / side)) * side;
        // rounding must not lose a centre that lies half a patch from the border
        let inside = at >= 0.5 - 1e-9 && at <= side - 0.5 + 1e-9;
        inside.then(|| (at.floor().max(0.0) as usize).min(grid - 1))
    };
    let both = |patch: usize| Some(cell(1, patch / grid)? * grid + cell(0, patch % grid)?);
    (0..grid * grid).map(both).collect()
}

/// Both images side by side, with lines between the centres of patches, `(first, second)` by their numbers, of a grid of so
/// many cells a side. An error if the images are no squares of one size.
pub fn joined(images: [&RgbImage; 2], grid: usize, pairs: &[(usize, usize)]) -> Result<RgbImage> {
    let (side, height) = images[0].dimensions();
    if images[1].dimensions() != (side, height) || side != height || grid == 0 {
        let problem =
            format!("images of {:?} and {:?} pixels", images[0].dimensions(), images[1].dimensions());
        return Err(Error::shape("correspondence", problem));
    }
    let mut picture = RgbImage::new(2 * side, side);
    for (i, image) in images.into_iter().enumerate() {
        image::imageops::replace(&mut picture, image, i64::from(side) * i as i64, 0);
    }
    let cell = f64::from(side) / grid as f64;
    let centre = |patch: usize, left: f64| {
        [left + ((patch % grid) as f64 + 0.5) * cell, ((patch / grid) as f64 + 0.5) * cell]
    };
    for &(first, second) in pairs {
        line(&mut picture, centre(first, 0.0), centre(second, f64::from(side)));
    }
    Ok(picture)
}

/// A line of a pixel's width.
fn line(picture: &mut RgbImage, from: [f64; 2], to: [f64; 2]) {
    let steps = (to[0] - from[0]).abs().max((to[1] - from[1]).abs()).ceil().max(1.0);
    for step in 0..=steps as usize {
        let share = step as f64 / steps;
        let [x, y] = [0, 1].map(|i| (from[i] + share * (to[i] - from[i])) as u32);
        if x < picture.width() && y < picture.height() {
            picture.put_pixel(x, y, LINE);
        }
    }
}

//! A drawing as pixels.

use image::RgbImage;
use zeno::{Command, Join, Mask, PathBuilder, Stroke, Style};

use crate::plot::drawing::{Color, Drawing, RIM, Shape, Text, WHITE};
use crate::plot::font;

/// Coordinates beyond this many pixels are mistakes; nothing is painted that has one.
const FAR: f32 = 4000.0;

/// Paints a drawing.
pub fn paint(drawing: &Drawing) -> RgbImage {
    let mut pixels = RgbImage::new(drawing.width as u32, drawing.height as u32);
    for shape in &drawing.shapes {
        paint_shape(&mut pixels, shape);
    }
    pixels
}

fn paint_shape(pixels: &mut RgbImage, shape: &Shape) {
    let mut path = Vec::new();
    match shape {
        &Shape::Rect { x, y, width, height, color } => {
            if near(&[x, y, width, height]) {
                path.add_rect((x, y), width, height);
                cover(pixels, &path, Style::default(), color);
            }
        }
        &Shape::Circle { x, y, radius, color } => {
            if near(&[x, y, radius]) {
                path.add_circle((x, y), radius);
                cover(pixels, &path, Style::default(), color);
            }
        }
        Shape::Line { points, width, dash, color } => {
            let Some((first, others)) = points.split_first() else { return };
            if points.iter().all(|&(x, y)| near(&[x, y])) {
                path.move_to(*first);
                others.iter().for_each(|&point| {
                    path.line_to(point);
                });
                let mut stroke = Stroke::new(*width);
                cover(pixels, &path, stroke.join(Join::Round).dash(dash, 0.0), *color);
            }
        }
        Shape::Text(text) => paint_text(pixels, text),
    }
}

fn paint_text(pixels: &mut RgbImage, text: &Text) {
    if !near(&[text.x, text.y]) {
        return;
    }
    let start = text.left() - text.x;
    let path = font::outline(&text.text, text.size, |along, up| match text.upwards {
        true => (text.x - up, text.y - start - along),
        false => (text.x + start + along, text.y - up),
    });
    if text.rim {
        cover(pixels, &path, Stroke::new(RIM).join(Join::Round), WHITE);
    }
    cover(pixels, &path, Style::default(), text.color);
}

fn near(values: &[f32]) -> bool {
    values.iter().all(|v| v.abs() < FAR)
}

/// Covers the pixels of a path with a colour, those at its rim as far as it covers them.
fn cover<'a>(pixels: &mut RgbImage, path: &Vec<Command>, style: impl Into<Style<'a>>, color: Color) {
    let (shares, place) = Mask::new(path).style(style).render();
    if shares.is_empty() {
        return;
    }
    for (y, row) in (place.top..).zip(shares.chunks_exact(place.width as usize)) {
        for (x, &share) in (place.left..).zip(row) {
            let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { continue };
            let Some(pixel) = pixels.get_pixel_mut_checked(x, y) else { continue };
            for (below, above) in pixel.0.iter_mut().zip(color) {
                let mixed = u32::from(*below) * u32::from(255 - share) + u32::from(above) * u32::from(share);
                *below = ((mixed + 127) / 255) as u8;
            }
        }
    }
}

//! Affine maps of 8-bit images by bicubic interpolation (a = −1, without antialiasing), as PIL's `Image.transform` and
//! `Image.rotate` have them.
//!
//! Sources: Pillow `Image.py`, `libImaging/Geometry.c`.

/// Where a pixel of the result comes from: (x, y) goes to (a·x + b·y + c, d·x + e·y + f).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine(pub [f64; 6]);

impl Affine {
    /// A turn by degrees, counter-clockwise, about the middle of an image of `size` pixels a side.
    pub fn rotation(degrees: f64, size: usize) -> Self {
        let (sin, cos) = (-degrees.rem_euclid(360.0).to_radians()).sin_cos();
        let (sin, cos) = (digits(sin), digits(cos));
        let middle = size as f64 / 2.0;
        let moved = |along: f64, across: f64| along * -middle + across * -middle + middle;
        Self([cos, sin, moved(cos, sin), -sin, cos, moved(-sin, cos)])
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let [a, b, c, d, e, f] = self.0;
        (a * x + b * y + c, d * x + e * y + f)
    }
}

/// Rounded to 15 digits behind the point.
fn digits(v: f64) -> f64 {
    (v * 1e15).round_ties_even() / 1e15
}

/// Writes what `by` makes of an image `[size, size, channels]` to `out`, which is as large. Where nothing of the image
/// comes to lie, there is `fill`, a value a channel.
pub fn transform(image: &[u8], size: usize, by: Affine, fill: &[u8], out: &mut [u8]) {
    let (channels, side) = (fill.len(), size as f64);
    for (y, row) in out.chunks_exact_mut(size * channels).enumerate() {
        for (x, to) in row.chunks_exact_mut(channels).enumerate() {
            let (from_x, from_y) = by.at(x as f64 + 0.5, y as f64 + 0.5);
            if !(0.0..side).contains(&from_x) || !(0.0..side).contains(&from_y) {
                to.copy_from_slice(fill);
                continue;
            }
            let (columns, along) = neighbours(from_x, size);
            let (rows, across) = neighbours(from_y, size);
            for (channel, to) in to.iter_mut().enumerate() {
                let value = |x: usize, y: usize| f64::from(image[(y * size + x) * channels + channel]);
                let of_row = |y: usize| cubic(columns.map(|x| value(x, y)), along);
                *to = cubic(rows.map(of_row), across).clamp(0.0, 255.0) as u8;
            }
        }
    }
}

/// The four pixels around a place, those beyond the border replaced by the one at it, and how far the place is from the
/// second to the third.
fn neighbours(place: f64, size: usize) -> ([usize; 4], f64) {
    let place = place - 0.5;
    let first = place.floor();
    let last = size as i64 - 1;
    (std::array::from_fn(|i| (first as i64 - 1 + i as i64).clamp(0, last) as usize), place - first)
}

/// The cubic through the second and third value whose slopes there are those between their neighbours.
fn cubic([a, b, c, d]: [f64; 4], at: f64) -> f64 {
    let (p, q, r) = (c - a, 2.0 * (a - b) + c - d, b - a - c + d);
    b + at * (p + at * (q + at * r))
}

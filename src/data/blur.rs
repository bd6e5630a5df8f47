//! Gaussian blur with a 9×9 kernel and mirrored borders, as torchvision's `GaussianBlur(9)` on 8-bit images.

use crate::data::color::floor;

const TAPS: usize = 9;
const REACH: usize = TAPS / 2;

/// Blurs each of the planes of `chw` [channels, n, n] (values 0 to 255) in place and rounds. `scratch` is any
/// buffer.
pub fn blur(chw: &mut [f32], n: usize, sigma: f32, scratch: &mut Vec<f32>) {
    let taps = kernel(sigma);
    // One padded row, then the rows blurred along x.
    scratch.resize(n + TAPS - 1 + n * n, 0.0);
    let (padded, rows) = scratch.split_at_mut(n + TAPS - 1);
    for plane in chw.chunks_exact_mut(n * n) {
        for (source, row) in plane.chunks_exact(n).zip(rows.chunks_exact_mut(n)) {
            padded[REACH..][..n].copy_from_slice(source);
            for i in 0..REACH {
                padded[REACH - 1 - i] = source[mirror(-1 - i as isize, n)];
                padded[REACH + n + i] = source[mirror((n + i) as isize, n)];
            }
            weigh(row, &taps, |tap| &padded[tap..tap + n]);
        }
        for (y, out) in plane.chunks_exact_mut(n).enumerate() {
            weigh(out, &taps, |tap| &rows[mirror((y + tap) as isize - REACH as isize, n) * n..][..n]);
            for v in out {
                *v = floor(*v + 0.5);
            }
        }
    }
}

/// out = Σ taps[i]·row(i)
#[inline(always)]
fn weigh<'a>(out: &mut [f32], taps: &[f32; TAPS], row: impl Fn(usize) -> &'a [f32]) {
    let rows: [&[f32]; TAPS] = std::array::from_fn(|tap| &row(tap)[..out.len()]);
    for (x, out) in out.iter_mut().enumerate() {
        *out = rows.iter().zip(taps).map(|(row, tap)| row[x] * tap).sum();
    }
}

/// The position that `i` mirrors to, the border pixel itself not repeated; images smaller than the kernel
/// reach mirror again.
fn mirror(mut i: isize, n: usize) -> usize {
    let last = n as isize - 1;
    while last > 0 && !(0..=last).contains(&i) {
        i = if i < 0 { -i } else { 2 * last - i };
    }
    i.clamp(0, last) as usize
}

/// Normalised weights of a Gaussian of `sigma` pixels.
fn kernel(sigma: f32) -> [f32; TAPS] {
    let weights: [f32; TAPS] = std::array::from_fn(|i| {
        let x = (i as f32 - REACH as f32) / sigma;
        (-0.5 * x * x).exp()
    });
    let total: f32 = weights.iter().sum();
    weights.map(|w| w / total)
}

//! Colour operations on planes of 8-bit values kept as f32 (whole numbers, 0 to 255), so that the compiler
//! can vectorise them. Each stage rounds as PIL does, whose images torchvision's transforms were written for.
//!
//! Sources: torchvision `_functional_pil.py`, Pillow `ImageEnhance.py`, `libImaging/{Blend,Convert}.c`.

/// Pixels treated at once.
const LANES: usize = 32;

/// The three planes of an image, each of the same length.
pub struct Planes<'a> {
    /// Red.
    pub r: &'a mut [f32],
    /// Green.
    pub g: &'a mut [f32],
    /// Blue.
    pub b: &'a mut [f32],
}

impl<'a> Planes<'a> {
    /// The planes of a [3, n] buffer.
    pub fn of(chw: &'a mut [f32]) -> Self {
        let n = chw.len() / 3;
        let (r, rest) = chw.split_at_mut(n);
        let (g, b) = rest.split_at_mut(n);
        Self { r, g, b: &mut b[..n] }
    }

    /// Replaces every pixel by `f` of it, a fixed number at a time so that the compiler vectorises `f`.
    #[inline(always)]
    fn map(&mut self, f: impl Fn(f32, f32, f32) -> (f32, f32, f32)) {
        let planes = self.r.chunks_mut(LANES).zip(self.g.chunks_mut(LANES)).zip(self.b.chunks_mut(LANES));
        for ((r, g), b) in planes {
            let n = r.len();
            let mut lanes = [[0.0; LANES]; 3];
            lanes[0][..n].copy_from_slice(r);
            lanes[1][..n].copy_from_slice(g);
            lanes[2][..n].copy_from_slice(b);
            let [x, y, z] = &mut lanes;
            for i in 0..LANES {
                (x[i], y[i], z[i]) = f(x[i], y[i], z[i]);
            }
            r.copy_from_slice(&x[..n]);
            g.copy_from_slice(&y[..n]);
            b.copy_from_slice(&z[..n]);
        }
    }

    /// Multiplies by `factor`.
    pub fn brightness(&mut self, factor: f32) {
        self.map(|r, g, b| (blend(0.0, r, factor), blend(0.0, g, factor), blend(0.0, b, factor)));
    }

    /// Blends with the rounded mean of the grey image.
    pub fn contrast(&mut self, factor: f32) {
        let mean = (self.grey_sum() / self.r.len() as f64 + 0.5).floor() as f32;
        self.map(|r, g, b| (blend(mean, r, factor), blend(mean, g, factor), blend(mean, b, factor)));
    }

    /// The sum of all grey values. A lane's own sum stays a whole number below 2²⁴ up to two million pixels.
    fn grey_sum(&self) -> f64 {
        let mut sums = [0.0; LANES];
        let planes = self.r.chunks(LANES).zip(self.g.chunks(LANES)).zip(self.b.chunks(LANES));
        for ((r, g), b) in planes {
            for (((sum, &r), &g), &b) in sums.iter_mut().zip(r).zip(g).zip(b) {
                *sum += grey(r, g, b);
            }
        }
        sums.iter().map(|&sum| f64::from(sum)).sum()
    }

    /// Blends with the grey image.
    pub fn saturation(&mut self, factor: f32) {
        self.map(|r, g, b| {
            let l = grey(r, g, b);
            (blend(l, r, factor), blend(l, g, factor), blend(l, b, factor))
        });
    }

    /// Multiplies the saturation of HSV by `factor`, in 8 bits.
    pub fn vividness(&mut self, factor: f32) {
        self.map(|r, g, b| {
            let (h, s, v) = hsv(r, g, b);
            rgb(h, floor((s * factor).clamp(0.0, 255.0)), v)
        });
    }

    /// Turns the hue by `turn` of the full circle, in 8-bit HSV.
    pub fn hue(&mut self, turn: f32) {
        let shift = (turn * 255.0).trunc();
        self.map(|r, g, b| {
            let (h, s, v) = hsv(r, g, b);
            let h = h + shift;
            let h = if h < 0.0 { h + 256.0 } else { h };
            let h = if h >= 256.0 { h - 256.0 } else { h };
            rgb(h, s, v)
        });
    }

    /// Replaces the colours by their grey value.
    pub fn grayscale(&mut self) {
        self.map(|r, g, b| {
            let l = grey(r, g, b);
            (l, l, l)
        });
    }

    /// Inverts all values from 128 up.
    pub fn solarize(&mut self) {
        let flip = |v: f32| if v < 128.0 { v } else { 255.0 - v };
        self.map(|r, g, b| (flip(r), flip(g), flip(b)));
    }
}

/// The largest whole number up to `v`, for 0 ≤ v < 2²²: adding 2²³ rounds. Vector code on any CPU, which
/// neither `floor` nor a cast (which saturates) is.
#[inline(always)]
pub fn floor(v: f32) -> f32 {
    const ROUNDS: f32 = 8_388_608.0;
    let nearest = (v + ROUNDS) - ROUNDS;
    if nearest > v { nearest - 1.0 } else { nearest }
}

/// `a + factor·(b − a)`, cut to a whole number of 0 to 255.
#[inline(always)]
fn blend(a: f32, b: f32, factor: f32) -> f32 {
    floor((a + factor * (b - a)).clamp(0.0, 255.0))
}

/// The grey value of Rec. 601, in PIL's 16-bit fixed point: every term and sum is a whole number below 2²⁴.
#[inline(always)]
fn grey(r: f32, g: f32, b: f32) -> f32 {
    floor((r * 19595.0 + g * 38470.0 + b * 7471.0 + 32768.0) * (1.0 / 65536.0))
}

/// Hue, saturation and value, each a whole number of 0 to 255.
#[inline(always)]
fn hsv(r: f32, g: f32, b: f32) -> (f32, f32, f32) {
    let max = r.max(g).max(b);
    let chroma = max - r.min(g).min(b);
    let inverse = 1.0 / chroma.max(1.0); // a grey pixel: all terms below are 0
    let (rc, gc, bc) = ((max - r) * inverse, (max - g) * inverse, (max - b) * inverse);
    let sextant = if r == max {
        bc - gc
    } else if g == max {
        2.0 + rc - bc
    } else {
        4.0 + gc - rc
    };
    let h = sextant * (1.0 / 6.0);
    let h = if h < 0.0 { h + 1.0 } else { h };
    (floor(h * 255.0), floor(chroma * 255.0 / max.max(1.0)), max)
}

/// Back to red, green and blue.
#[inline(always)]
fn rgb(h: f32, s: f32, v: f32) -> (f32, f32, f32) {
    let (sextant, s) = (h * (6.0 / 255.0), s * (1.0 / 255.0));
    let channel = |offset: f32| {
        let k = sextant + offset;
        let k = if k >= 6.0 { k - 6.0 } else { k };
        floor(v - v * s * k.min(4.0 - k).clamp(0.0, 1.0) + 0.5)
    };
    (channel(5.0), channel(3.0), channel(1.0))
}

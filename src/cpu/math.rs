//! Elementary functions that the compiler vectorises, accurate to a few units in the last place of `f32`.

/// The arithmetic of one [`super::arch::Arch`].
#[derive(Clone, Copy)]
pub(crate) struct Math {
    /// Whether there are instructions for a·b + c in one rounding. The library's function that stands in for
    /// them takes forty times as long as two instructions.
    fused: bool,
}

impl Math {
    #[inline(always)]
    pub(crate) fn new(fused: bool) -> Self {
        Self { fused }
    }

    /// a·b + c, in one rounding where that is fast.
    #[inline(always)]
    pub(crate) fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        if self.fused { a.mul_add(b, c) } else { a * b + c }
    }

    /// The polynomial with these coefficients, the highest power's first.
    #[inline(always)]
    fn polynomial<const N: usize>(self, x: f32, coefficients: [f32; N]) -> f32 {
        let mut p = coefficients[0];
        for c in &coefficients[1..] {
            p = self.mul_add(p, x, *c);
        }
        p
    }

    /// e^x. Zero below the smallest normal number.
    #[inline(always)]
    pub(crate) fn exp(self, x: f32) -> f32 {
        let c = x.clamp(-87.3, 88.7);
        // the sum rounds to the nearest integer, which is then its lowest bits
        let shifted = c * std::f32::consts::LOG2_E + 12_582_912.0;
        let n = shifted - 12_582_912.0;
        let r = self.mul_add(n, 2.121_944_4e-4, self.mul_add(n, -0.693_359_4, c));
        let p = self
            .polynomial(r, [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
        let y = self.mul_add(p * r, r, r) + 1.0;
        let scaled = y * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
        if x < -87.3 { 0.0 } else { scaled }
    }

    /// Φ(x), the normal distribution function, to one unit in the last place of 1, and in the lower tail to
    /// 1e-4 of its own value as far as −5: ½ + a polynomial near zero, e^(a polynomial) in the tails. With
    /// ½(1 + erf) the lower tail would be the difference of two numbers near one, and weights behind units
    /// that are nearly off would get gradients of a thousandth's accuracy.
    #[inline(always)]
    pub(crate) fn normal_cdf(self, x: f32) -> f32 {
        let t = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
        let (s, y) = (t * t, x * std::f32::consts::FRAC_1_SQRT_2);
        let near = self.polynomial(
            s,
            [
                -5.967_617e-4,
                4.991_194_2e-3,
                -2.676_813_5e-2,
                1.128_199_25e-1,
                -3.761_253_4e-1,
                1.283_791_7e-1,
            ],
        );
        let far = self.mul_add(
            self.mul_add(t, -1.728_534_7e-5, 3.831_971_3e-4),
            s,
            self.mul_add(t, -3.883_964_4e-3, 2.425_462_2e-2),
        );
        let far = self.polynomial(t, [far, -1.067_778_8e-1, -6.348_467e-1, -1.287_175_1e-1]);
        let tail = 0.5 * self.exp(self.mul_add(far, t, -t));
        let far = if x < 0.0 { tail } else { 1.0 - tail };
        let near = self.mul_add(self.mul_add(near, y, y), 0.5, 0.5);
        if t > 0.927_734_4 { far } else { near }
    }

    /// 1 / (1 + e⁻ˣ).
    #[inline(always)]
    pub(crate) fn sigmoid(self, x: f32) -> f32 {
        1.0 / (1.0 + self.exp(-x))
    }

    /// GELU, the exact one: x·Φ(x).
    #[inline(always)]
    pub(crate) fn gelu(self, x: f32) -> f32 {
        x * self.normal_cdf(x)
    }

    /// dGELU/dx = Φ(x) + x·φ(x).
    #[inline(always)]
    pub(crate) fn gelu_grad(self, x: f32) -> f32 {
        const INV_SQRT_TAU: f32 = 0.398_942_3;
        self.normal_cdf(x) + x * INV_SQRT_TAU * self.exp(-0.5 * x * x)
    }
}

const LANES: usize = 16;

/// Σ f(i) over `0..n` in sixteen running sums, so that it rounds little. For slices [`sum_of`] is several
/// times faster.
#[inline(always)]
pub(crate) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut acc = [0.0f32; LANES];
    let whole = n / LANES * LANES;
    for base in (0..whole).step_by(LANES) {
        for (l, a) in acc.iter_mut().enumerate() {
            *a += f(base + l);
        }
    }
    for i in whole..n {
        acc[i - whole] += f(i);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            acc[l] += acc[l + width];
        }
        width /= 2;
    }
    acc[0]
}

/// Folds `f` of elements side by side of slices of one length into sixteen running values, as [`sum`] does.
/// In this form, and where what becomes of the sixteen is out of sight, the compiler uses vectors of their
/// full width; with indices it checks bounds one by one.
#[inline(always)]
fn fold<const N: usize>(
    x: [&[f32]; N],
    start: f32,
    f: impl Fn([f32; N]) -> f32,
    merge: impl Fn(f32, f32) -> f32,
) -> [f32; LANES] {
    let n = x.iter().map(|x| x.len()).min().unwrap_or(0);
    let x = x.map(|x| &x[..n]);
    let chunks = x.map(|x| x.as_chunks::<LANES>().0);
    let mut acc = [start; LANES];
    for i in 0..n / LANES {
        // SAFETY: all slices have n / LANES chunks.
        let at: [&[f32; LANES]; N] = std::array::from_fn(|s| unsafe { chunks[s].get_unchecked(i) });
        for l in 0..LANES {
            acc[l] = merge(acc[l], f(std::array::from_fn(|s| at[s][l])));
        }
    }
    for i in n / LANES * LANES..n {
        acc[i % LANES] = merge(acc[i % LANES], f(std::array::from_fn(|s| x[s][i])));
    }
    acc
}

/// The sum of sixteen values.
#[inline(never)]
fn sum_lanes(mut acc: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            acc[l] += acc[l + width];
        }
        width /= 2;
    }
    acc[0]
}

/// The largest of sixteen values.
#[inline(never)]
fn max_lanes(acc: [f32; LANES]) -> f32 {
    acc.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// Σ f(x, y, ..) over elements side by side of slices of one length; the same bits as [`sum`].
#[inline(always)]
pub(crate) fn sum_of<const N: usize>(x: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    sum_lanes(fold(x, 0.0, f, |a, b| a + b))
}

/// Largest of `f(x, y, ..)` over elements side by side of slices of one length; −∞ for none.
#[inline(always)]
pub(crate) fn max_of<const N: usize>(x: [&[f32]; N], f: impl Fn([f32; N]) -> f32) -> f32 {
    max_lanes(fold(x, f32::NEG_INFINITY, f, |a, b| if b > a { b } else { a }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Φ in f64: by the Maclaurin series of erf, or by the continued fraction of erfc.
    fn normal_cdf64(x: f64) -> f64 {
        let a = x.abs() / 2f64.sqrt();
        let tail = if a < 2.0 {
            let (mut term, mut total) = (a, a);
            for n in 1..200 {
                term *= -a * a / n as f64;
                total += term / (2 * n + 1) as f64;
            }
            0.5 - total / std::f64::consts::PI.sqrt()
        } else {
            let mut f = 0.0;
            for k in (1..200).rev() {
                f = k as f64 / 2.0 / (a + f);
            }
            0.5 * (-a * a).exp() / (std::f64::consts::PI.sqrt() * (a + f))
        };
        if x < 0.0 { tail } else { 1.0 - tail }
    }

    #[test]
    fn functions_are_accurate() {
        for math in [Math::new(true), Math::new(false)] {
            let (mut e_exp, mut e_cdf, mut e_tail, mut e_grad) = (0.0f64, 0.0f64, 0.0f64, 0.0f64);
            for i in -60_000..=60_000 {
                let x = i as f32 * 1e-3;
                e_exp = e_exp.max((math.exp(x) as f64 / (x as f64).exp() - 1.0).abs());
                let y = x * 0.1;
                let z = y as f64;
                let exact = normal_cdf64(z);
                e_cdf = e_cdf.max((math.normal_cdf(y) as f64 - exact).abs());
                // relative in the tail too, as far as GELU is not lost beside other values anyway
                if z.abs() < 5.0 {
                    e_tail = e_tail.max((math.normal_cdf(y) as f64 / exact - 1.0).abs());
                }
                let grad = exact + z * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
                e_grad = e_grad.max((math.gelu_grad(y) as f64 - grad).abs());
            }
            let all = format!("{e_exp:e} {e_cdf:e} {e_tail:e} {e_grad:e}");
            assert!(e_exp < 2e-7 && e_cdf < 1e-7 && e_tail < 1e-4 && e_grad < 2e-7, "{all}");
            assert_eq!(math.exp(-100.0), 0.0);
        }
    }

    #[test]
    fn sums_and_maxima_of_any_length() {
        for n in 0..70 {
            assert_eq!(sum(n, |i| i as f32), (n * n.saturating_sub(1) / 2) as f32);
            let x: Vec<f32> = (0..n).map(|i| (i as f32).sqrt()).collect();
            assert_eq!(sum_of([&x, &x], |[x, y]| x * y), sum(n, |i| x[i] * x[i]));
            assert_eq!(max_of([&x], |[x]| -x), if n == 0 { f32::NEG_INFINITY } else { 0.0 });
        }
    }
}

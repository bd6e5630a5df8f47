//! Products of small matrices and element-wise passes on the widest vectors of the machine, for kernels that
//! keep their matrices in cache. Columns are padded to whole vectors by whoever lays them out, so no kernel
//! has a rest.
//!
//! The compiler's own vectorisation uses half of a 512-bit unit, and the `gemm` crate packs operands and
//! takes memory for every call, which costs as much as a product of a few dozen rows itself.

use pulp::{Simd, WithSimd};

/// Columns are padded to multiples of so many: a cache line, and the widest vector there is.
pub(crate) const LANES: usize = 16;
/// Rows of the results that a kernel keeps in registers, at most.
const ROWS: usize = 6;
/// Terms that are summed before the next rows of B are read: with 64 columns these stay in the first-level
/// cache.
const DEPTH: usize = 128;

/// The next multiple of [`LANES`].
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// `C = (or C +=) α·A·B` with B and C of dense rows; n is a multiple of [`LANES`].
pub(crate) struct Product<'a> {
    /// Rows of C, columns of C, terms of a sum.
    pub size: (usize, usize, usize),
    /// First element at the slice's start; distance of rows, distance of columns.
    pub a: (&'a [f32], usize, usize),
    /// The distance of rows.
    pub b: (&'a [f32], usize),
    pub c: (&'a mut [f32], usize),
    pub alpha: f32,
    pub accumulate: bool,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { size: (m, n, k), a: (a, a_rows, a_cols), b: (b, b_rows), c: (c, c_rows), .. } = self;
        if m == 0 || n == 0 || k == 0 {
            assert!(self.accumulate || k > 0, "a sum of no terms");
            return;
        }
        assert!(n.is_multiple_of(LANES));
        assert!((m - 1) * a_rows + (k - 1) * a_cols < a.len());
        assert!((k - 1) * b_rows + n <= b.len() && (m - 1) * c_rows + n <= c.len());
        // where there are 32 registers, 24 hold sums
        let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        let vectors = n / S::F32_LANES;
        let (row_tiles, column_tiles) = (m.div_ceil(ROWS), vectors.div_ceil(most));
        for start in (0..k).step_by(DEPTH) {
            let accumulate = self.accumulate || start > 0;
            for (v, nv) in even(vectors, column_tiles) {
                for (i, mr) in even(m, row_tiles) {
                    let tile = Tile {
                        depth: DEPTH.min(k - start),
                        a: a[i * a_rows + start * a_cols..].as_ptr(),
                        a_strides: (a_rows, a_cols),
                        b: b[start * b_rows + v * S::F32_LANES..].as_ptr(),
                        b_rows,
                        c: c[i * c_rows + v * S::F32_LANES..].as_mut_ptr(),
                        c_rows,
                        alpha: self.alpha,
                        accumulate,
                    };
                    // SAFETY: tiles lie within the sizes, which the assertions cover.
                    unsafe { tile.run(simd, mr, nv) };
                }
            }
        }
    }
}

/// Cuts `0..n` into `parts` ranges as even as can be: (start, length).
#[inline(always)]
fn even(n: usize, parts: usize) -> impl Iterator<Item = (usize, usize)> {
    let (each, longer) = (n / parts, n % parts);
    (0..parts).map(move |i| (i * each + i.min(longer), each + (i < longer) as usize))
}

/// What one run of registers computes.
struct Tile {
    depth: usize,
    a: *const f32,
    a_strides: (usize, usize),
    b: *const f32,
    b_rows: usize,
    c: *mut f32,
    c_rows: usize,
    alpha: f32,
    accumulate: bool,
}

impl Tile {
    #[inline(always)]
    unsafe fn run<S: Simd>(self, simd: S, rows: usize, vectors: usize) {
        macro_rules! kernels {
            ($(($m:literal, $n:literal))*) => {
                match (rows, vectors, self.a_strides.0) {
                    $(($m, $n, 1) => simd.vectorize(Kernel::<$m, $n, true>(self)),)*
                    $(($m, $n, _) => simd.vectorize(Kernel::<$m, $n, false>(self)),)*
                    _ => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                }
            };
        }
        kernels!((1, 1)(2, 1)(3, 1)(4, 1)(5, 1)(6, 1)(1, 2)(2, 2)(3, 2)(4, 2)(5, 2)(6, 2)(1, 3)(2, 3)(3, 3)(
            4, 3
        )(5, 3)(6, 3)(1, 4)(2, 4)(3, 4)(4, 4)(5, 4)(6, 4));
    }
}

/// A tile of M rows and N vectors; `TOGETHER`: a column of A is dense.
struct Kernel<const M: usize, const N: usize, const TOGETHER: bool>(Tile);

impl<const M: usize, const N: usize, const TOGETHER: bool> WithSimd for Kernel<M, N, TOGETHER> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let t = self.0;
        let (a_rows, a_cols) = (if TOGETHER { 1 } else { t.a_strides.0 }, t.a_strides.1);
        let mut sums = [[simd.splat_f32s(0.0); N]; M];
        let (mut a, mut b) = (t.a, t.b);
        // SAFETY: the caller's of `Tile::run`.
        unsafe {
            for _ in 0..t.depth {
                let mut terms = [simd.splat_f32s(0.0); N];
                for (v, term) in terms.iter_mut().enumerate() {
                    *term = read::<S>(b.add(v * S::F32_LANES));
                }
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = simd.splat_f32s(*a.add(i * a_rows));
                    for (sum, term) in sums.iter_mut().zip(terms) {
                        *sum = simd.mul_add_e_f32s(factor, term, *sum);
                    }
                }
                a = a.wrapping_add(a_cols);
                b = b.wrapping_add(t.b_rows);
            }
            let alpha = simd.splat_f32s(t.alpha);
            for (i, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    let to = t.c.add(i * t.c_rows + v * S::F32_LANES);
                    let value = match t.accumulate {
                        true => simd.mul_add_e_f32s(*sum, alpha, read::<S>(to)),
                        false => simd.mul_f32s(*sum, alpha),
                    };
                    to.cast::<S::f32s>().write_unaligned(value);
                }
            }
        }
    }
}

/// # Safety
/// A vector can be read there.
#[inline(always)]
unsafe fn read<S: Simd>(from: *const f32) -> S::f32s {
    // SAFETY: the caller's.
    unsafe { from.cast::<S::f32s>().read_unaligned() }
}

/// The vector at the slice's start.
#[inline(always)]
pub(crate) fn load<S: Simd>(_: S, from: &[f32]) -> S::f32s {
    assert!(from.len() >= S::F32_LANES);
    // SAFETY: as asserted.
    unsafe { read::<S>(from.as_ptr()) }
}

/// Writes a vector to the slice's start.
#[inline(always)]
pub(crate) fn store<S: Simd>(_: S, to: &mut [f32], value: S::f32s) {
    assert!(to.len() >= S::F32_LANES);
    // SAFETY: as asserted.
    unsafe { to.as_mut_ptr().cast::<S::f32s>().write_unaligned(value) }
}

/// e^x as [`super::math::Math::exp`] has it: zero below the smallest normal number.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let value = |v: f32| simd.splat_f32s(v);
    // the second operand is what comes of a NaN
    let c = simd.min_f32s(value(88.7), simd.max_f32s(value(-87.3), x));
    // the sum rounds to the nearest integer, which is then its lowest bits
    let shifted = simd.mul_add_e_f32s(c, value(std::f32::consts::LOG2_E), value(12_582_912.0));
    let n = simd.sub_f32s(shifted, value(12_582_912.0));
    let r = simd.mul_add_e_f32s(n, value(2.121_944_4e-4), simd.mul_add_e_f32s(n, value(-0.693_359_4), c));
    let mut p = value(1.987_569_1e-4);
    for factor in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = simd.mul_add_e_f32s(p, r, value(factor));
    }
    let y = simd.add_f32s(simd.mul_add_e_f32s(simd.mul_f32s(p, r), r, r), value(1.0));
    let exponent = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127));
    let power = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(exponent, simd.splat_u32s(23)));
    let tiny = simd.less_than_f32s(x, value(-87.3));
    simd.select_f32s(tiny, value(0.0), simd.mul_f32s(y, power))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Arch;
    use crate::cpu::math::Math;

    fn values(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i * 37 % 101) as f32 / 101.0 - 0.5).collect()
    }

    #[test]
    fn products_of_any_height_and_depth() {
        for (m, n, k) in [(1, 16, 1), (5, 48, 7), (6, 64, 130), (13, 80, 300), (49, 32, 49), (3, 112, 2)] {
            for together in [false, true] {
                let (rows, cols) = if together { (1, m + 3) } else { (k + 2, 1) };
                let (a, b) = (values(m * (k + 2) + k * (m + 3)), values(k * (n + 16)));
                let start = values(m * (n + 32));
                for accumulate in [false, true] {
                    let mut c = start.clone();
                    Arch::get().dispatch(Product {
                        size: (m, n, k),
                        a: (&a, rows, cols),
                        b: (&b, n + 16),
                        c: (&mut c, n + 32),
                        alpha: 0.5,
                        accumulate,
                    });
                    for (at, got) in c.iter().enumerate() {
                        let (i, j) = (at / (n + 32), at % (n + 32));
                        let term = |q: usize| a[i * rows + q * cols] as f64 * b[q * (n + 16) + j] as f64;
                        let before = if accumulate || j >= n { start[at] as f64 } else { 0.0 };
                        let want = before + if j < n { 0.5 * (0..k).map(term).sum::<f64>() } else { 0.0 };
                        assert!((*got as f64 - want).abs() < 1e-5, "{m}x{n}x{k} at {i}, {j}: {got}, {want}");
                    }
                }
            }
        }
    }

    struct Exp<'a>(&'a mut [f32]);

    impl WithSimd for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for chunk in self.0.chunks_exact_mut(S::F32_LANES) {
                let value = exp(simd, load(simd, chunk));
                store(simd, chunk, value);
            }
        }
    }

    #[test]
    fn exp_is_that_of_math() {
        let x: Vec<f32> = (0..16_000).map(|i| i as f32 * 0.012 - 110.0).collect();
        let mut y = x.clone();
        Arch::get().dispatch(Exp(&mut y));
        for (x, y) in x.iter().zip(&y) {
            let want = Math::new(true).exp(*x);
            assert!((y - want).abs() <= 3e-7 * want, "e^{x}: {y}, {want}");
        }
        let mut special = [f32::NAN, f32::NEG_INFINITY].repeat(LANES / 2);
        Arch::get().dispatch(Exp(&mut special));
        assert!(special[0].is_nan() && special[1] == 0.0);
    }
}

//! Products of operands that are rounded to bfloat16, a float of 8 bits of mantissa, and added up in single precision: on
//! processors with AVX512-BF16, whose dot products of pairs multiply twice as many of them as of single precision.
//!
//! The order of loops is that of Goto and van de Geijn ("Anatomy of High-Performance Matrix Multiplication", 2008): a slice
//! of B is packed for all, a band of A by whoever multiplies it, and a tile of C stays in registers. Sums depend on
//! sizes alone, not on the number of threads.

use super::block::Block;

/// Whether this processor multiplies bfloat16 faster than single precision (AVX512-BF16), as products on the CPU do where
/// [`Device::bf16_products`](crate::tensor::Device::bf16_products) allows it.
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16")
        && std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Multiplies, unless it would not pay: `false` where nothing was done.
///
/// # Safety
/// All elements of A and B can be read, those of C written, and C is nobody else's meanwhile.
pub(super) unsafe fn multiply(block: Block) -> bool {
    // C in rows
    let block = if block.c.col == 1 { block } else { block.t() };
    // tiles of few rows or columns are mostly padding, short sums mostly packing
    if block.c.col != 1 || block.m.min(block.n) < 8 || block.k < 16 || !is_supported() {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the processor has the instructions; the rest is promised.
    unsafe {
        x86::multiply(block);
    }
    cfg!(target_arch = "x86_64")
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::cell::Cell;

    use rayon::prelude::*;

    use crate::ops::matmul::block::Block;

    /// Rows of a tile of C, and columns: 24 vectors of sums, of the 32 there are.
    const ROWS: usize = 12;
    const COLS: usize = 32;
    /// Terms that are summed before C is read and written: a panel of B of so many stays in the first-level cache.
    const DEPTH: usize = 512;
    /// Rows of A that are packed at a time, which stay in the second-level cache.
    const BAND: usize = 8 * ROWS;
    /// Columns of B that are packed at a time.
    const WIDE: usize = 64 * COLS;
    /// Floats of a vector.
    const LANES: usize = 16;

    thread_local! {
        /// Packed operands, taken out while they are used.
        static PACKED_A: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
        static PACKED_B: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    }

    fn grown(mut buffer: Vec<u32>, length: usize) -> Vec<u32> {
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        buffer
    }

    /// Memory that several threads write, each its own part.
    struct Shared(*mut u32);
    // SAFETY: who writes says which part is whose.
    unsafe impl Sync for Shared {}

    impl Shared {
        fn at(&self, i: usize) -> *mut u32 {
            self.0.wrapping_add(i)
        }
    }

    /// # Safety
    /// As [`super::multiply`], with the columns of C next to each other, on a processor with AVX512-BF16.
    pub(super) unsafe fn multiply(block: Block) {
        let mut packed = grown(PACKED_B.take(), WIDE.min(block.n.next_multiple_of(COLS)) * DEPTH / 2);
        for col in (0..block.n).step_by(WIDE) {
            for k in (0..block.k).step_by(DEPTH) {
                // SAFETY: within the block
                unsafe { slice(&block, col, k, &mut packed) };
            }
        }
        PACKED_B.set(packed);
    }

    fn each(count: usize, all_cores: bool, job: impl Fn(usize) + Sync + Send) {
        match all_cores && count > 1 {
            true => (0..count).into_par_iter().for_each(job),
            false => (0..count).for_each(job),
        }
    }

    /// What the terms from k on add to the columns from `col` on.
    ///
    /// # Safety
    /// As [`multiply`].
    unsafe fn slice(block: &Block, col: usize, k: usize, packed: &mut [u32]) {
        let &Block { m, n, all_cores, .. } = block;
        let (a, b, c) = (&block.a, &block.b, &block.c);
        let (columns, terms) = (WIDE.min(n - col), DEPTH.min(block.k - k));
        let (panels, pairs) = (columns.div_ceil(COLS), terms.div_ceil(2));
        assert!(panels * COLS * pairs <= packed.len());
        let shared = Shared(packed.as_mut_ptr());
        each(panels, all_cores, |panel| {
            let first = col + panel * COLS;
            let from = b.place(k, first);
            // SAFETY: a panel is one job's; what is read lies in B
            unsafe {
                pack::<COLS>(from, b.col, b.row, COLS.min(n - first), terms, shared.at(panel * COLS * pairs))
            };
        });
        let bands = m.div_ceil(BAND);
        // cut in columns too where rows alone would leave cores idle
        let parts = (2 * rayon::current_num_threads()).div_ceil(bands).clamp(1, panels);
        let parts = if all_cores { parts } else { 1 };
        let add = block.accumulate || k > 0;
        each(bands * parts, all_cores, |job| {
            let (row, part) = (job / parts * BAND, job % parts);
            let rows = BAND.min(m - row);
            let mut band = grown(PACKED_A.take(), BAND * DEPTH / 2);
            for r in (0..rows).step_by(ROWS) {
                let from = a.place(row + r, k);
                // SAFETY: within the band's packed rows and within A
                unsafe {
                    pack::<ROWS>(
                        from,
                        a.row,
                        a.col,
                        ROWS.min(rows - r),
                        terms,
                        band.as_mut_ptr().add(r * pairs),
                    )
                };
            }
            for panel in part * panels / parts..(part + 1) * panels / parts {
                let first = col + panel * COLS;
                for r in (0..rows).step_by(ROWS) {
                    let to = c.place(row + r, first);
                    let size = (ROWS.min(rows - r), COLS.min(n - first));
                    let (x, y) = (band.as_ptr().wrapping_add(r * pairs), shared.at(panel * COLS * pairs));
                    // SAFETY: packed above; tiles of C are one job's
                    unsafe { tile(pairs, x, y, (to, c.row), size, block.alpha, add) };
                }
            }
            PACKED_A.set(band);
        });
    }

    /// The first n of sixteen.
    fn first(n: usize) -> __mmask16 {
        ((1u32 << n.min(LANES)) - 1) as __mmask16
    }

    /// Two vectors in bfloat16, in pairs with the first in the lower half.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn paired(low: __m512, high: __m512) -> __m512i {
        // SAFETY: types of the same size without invalid values
        let [low, high]: [__m256i; 2] =
            unsafe { std::mem::transmute([_mm512_cvtneps_pbh(low), _mm512_cvtneps_pbh(high)]) };
        _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high)))
    }

    /// Packs `terms` terms of `count` rows of A, or columns of B: pairs of terms of all, one pair after the other. What is
    /// missing of `WIDTH`, and of the last pair, is zero.
    ///
    /// # Safety
    /// `from` has so many rows `far` apart, of terms `near` apart; `to` takes WIDTH pairs for each pair of terms.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pack<const WIDTH: usize>(
        from: *const f32,
        far: usize,
        near: usize,
        count: usize,
        terms: usize,
        to: *mut u32,
    ) {
        if far == 1 {
            for pair in 0..terms.div_ceil(2) {
                let [low, high] = [2 * pair, 2 * pair + 1].map(|term| from.wrapping_add(term * near));
                for i in (0..WIDTH).step_by(LANES) {
                    let there = first(count.saturating_sub(i));
                    let odd = if 2 * pair + 1 < terms { there } else { 0 };
                    // SAFETY: what the masks let through is promised
                    unsafe {
                        let low = _mm512_maskz_loadu_ps(there, low.wrapping_add(i));
                        let high = _mm512_maskz_loadu_ps(odd, high.wrapping_add(i));
                        let to = to.add(pair * WIDTH + i).cast();
                        _mm512_mask_storeu_epi32(to, first(WIDTH - i), paired(low, high));
                    }
                }
            }
            return;
        }
        let mut turned = [[0u32; LANES]; WIDTH];
        for start in (0..terms).step_by(2 * LANES) {
            let here = (2 * LANES).min(terms - start);
            for (i, pairs) in turned.iter_mut().enumerate().take(count) {
                let row = from.wrapping_add(i * far + start * near);
                let mut one = [0.0f32; 2 * LANES];
                let row = match near {
                    1 => row,
                    _ => {
                        for (term, value) in one.iter_mut().enumerate().take(here) {
                            // SAFETY: promised
                            *value = unsafe { *row.wrapping_add(term * near) };
                        }
                        one.as_ptr()
                    }
                };
                // SAFETY: what the masks let through is promised, or lies in `one`; the types are of one size
                unsafe {
                    let low = _mm512_maskz_loadu_ps(first(here), row);
                    let high =
                        _mm512_maskz_loadu_ps(first(here.saturating_sub(LANES)), row.wrapping_add(LANES));
                    let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_storeu_si512(pairs.as_mut_ptr().cast(), both);
                }
            }
            for pair in 0..here.div_ceil(2) {
                // SAFETY: promised
                let to = unsafe { to.add((start / 2 + pair) * WIDTH) };
                for (i, pairs) in turned.iter().enumerate() {
                    // SAFETY: promised
                    unsafe { *to.add(i) = pairs[pair] };
                }
            }
        }
    }

    /// α times the product of packed rows and columns, written or added to a tile of C.
    ///
    /// # Safety
    /// `a` and `b` have ROWS and COLS pairs for each of `pairs`; `c` has `size` rows and columns, its rows as far apart
    /// as said.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn tile(
        pairs: usize,
        mut a: *const u32,
        mut b: *const u32,
        (c, far): (*mut f32, usize),
        size: (usize, usize),
        alpha: f32,
        add: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); COLS / LANES]; ROWS];
        for _ in 0..pairs {
            // SAFETY: promised; the types are of one size
            unsafe {
                let [left, right]: [__m512bh; 2] = std::mem::transmute([
                    _mm512_loadu_si512(b.cast()),
                    _mm512_loadu_si512(b.add(LANES).cast()),
                ]);
                for (i, [x, y]) in sums.iter_mut().enumerate() {
                    let row: __m512bh = std::mem::transmute(_mm512_set1_epi32(*a.add(i) as i32));
                    *x = _mm512_dpbf16_ps(*x, row, left);
                    *y = _mm512_dpbf16_ps(*y, row, right);
                }
                (a, b) = (a.add(ROWS), b.add(COLS));
            }
        }
        let (rows, cols) = size;
        let alpha = _mm512_set1_ps(alpha);
        for (i, row) in sums.iter().enumerate() {
            if i < rows {
                for (j, sum) in row.iter().enumerate() {
                    let (there, to) =
                        (first(cols.saturating_sub(j * LANES)), c.wrapping_add(i * far + j * LANES));
                    let value = _mm512_mul_ps(*sum, alpha);
                    // SAFETY: what the masks let through is promised
                    unsafe {
                        let value =
                            if add { _mm512_add_ps(_mm512_maskz_loadu_ps(there, to), value) } else { value };
                        _mm512_mask_storeu_ps(to, there, value);
                    }
                }
            }
        }
    }
}

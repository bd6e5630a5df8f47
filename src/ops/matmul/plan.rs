//! Which kernel a product gets: one pure function of the problem and the adapter's capabilities.

use super::params::{MatmulParams, WindowParams};
use super::precision::Precision;
use super::variant::{
    FLAT, LARGE, MEDIUM, PLAIN, PLAIN_SINGLE, SHARED, SHARED_FLAT, SMALL, TENSOR, TENSOR_EIGHT,
    TENSOR_SINGLE, TENSOR_SMALL, Variant, variants,
};
use crate::gpu::{Caps, Defines, Kernel, Shader, shader};

pub(super) const TILED: Shader = shader!("matmul_tiled.wgsl", kernels);
const BROADCAST: Shader = shader!("matmul_broadcast.wgsl", kernels);
pub(super) const COOPERATIVE: Shader = shader!("matmul_cooperative.wgsl", kernels);
const COMBINE: Shader = shader!("matmul_combine.wgsl", kernels);

/// Invocations in a workgroup of the second stage.
pub(super) const COMBINE_WG: u32 = 64;

/// What a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Matrices in the batch.
    pub batch: usize,
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of one group of K.
    pub k: usize,
    /// Groups of K.
    pub k_groups: usize,
    /// Whether neighbours in a column of A are neighbours in memory (A is a transposed matrix).
    pub a_along_m: bool,
    /// Whether neighbours in a column of B are neighbours in memory (B is a transposed matrix).
    pub b_along_k: bool,
    /// Whether A can be read four elements at a time, along the dimension in which neighbours lie side by
    /// side.
    pub a_aligned: bool,
    /// The same of B.
    pub b_aligned: bool,
    /// Whether C, and the epilogue's matrix, can be written four columns at a time.
    pub c_aligned: bool,
    /// Whether rows or columns lie in several groups.
    pub grouped: bool,
    /// Whether A is windows over pixels (see [`super::window`]).
    pub window: bool,
    /// Of which precision the matrices are.
    pub precision: Precision,
    /// Whether A and B can be read eight elements at a time and C, and the epilogue's matrix, four; asked by
    /// kernels for tensor cores alone.
    pub wide: bool,
    /// Whether C, and the epilogue's matrix, can be written eight columns at a time.
    pub c_wide: bool,
    /// The epilogue.
    pub epilogue: EpilogueKind,
}

/// The epilogues, as kernels know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EpilogueKind {
    /// α·A·B
    Plain,
    /// added to C
    Accumulate,
    /// + bias
    Bias,
    /// + bias, GELU
    BiasGelu,
    /// + bias, saved, GELU
    BiasGeluSaved,
    /// times the derivative of GELU
    GeluGrad,
}

impl EpilogueKind {
    const ALL: [Self; 6] =
        [Self::Plain, Self::Accumulate, Self::Bias, Self::BiasGelu, Self::BiasGeluSaved, Self::GeluGrad];

    fn defines(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::Plain => &[],
            Self::Accumulate => &[("ACCUMULATE", 1)],
            Self::Bias => &[("BIAS", 1)],
            Self::BiasGelu => &[("BIAS", 1), ("GELU", 1)],
            Self::BiasGeluSaved => &[("BIAS", 1), ("GELU", 1), ("SAVE_PRE", 1)],
            Self::GeluGrad => &[("GELU_GRAD", 1)],
        }
    }
}

/// How a product is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The kernel.
    pub variant: Variant,
    /// Into how many parts every group of K is cut; partial sums are added in a second dispatch.
    pub parts: usize,
    /// See [`Problem::a_along_m`].
    pub a_along_m: bool,
    /// See [`Problem::b_along_k`].
    pub b_along_k: bool,
    /// See [`Problem::a_aligned`].
    pub a_aligned: bool,
    /// See [`Problem::b_aligned`].
    pub b_aligned: bool,
    /// See [`Problem::c_aligned`].
    pub c_aligned: bool,
    /// See [`Problem::grouped`].
    pub grouped: bool,
    /// See [`Problem::window`].
    pub window: bool,
    /// See [`Problem::precision`].
    pub precision: Precision,
    /// See [`Problem::wide`].
    pub wide: bool,
    /// See [`Problem::c_wide`].
    pub c_wide: bool,
    /// The epilogue.
    pub epilogue: EpilogueKind,
}

/// Takes a decision of the plan away from it, for tests and benchmarks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Force {
    /// The variant, one of [`variants`].
    pub variant: Option<Variant>,
    /// Into how many parts K is cut.
    pub parts: Option<usize>,
}

/// Decides how `problem` is solved on an adapter with these capabilities.
pub fn plan(problem: &Problem, caps: &Caps) -> Plan {
    let variant = choose_variant(problem, caps);
    Plan {
        variant,
        parts: choose_parts(problem, variant, caps),
        a_along_m: problem.a_along_m,
        b_along_k: problem.b_along_k,
        a_aligned: problem.a_aligned,
        b_aligned: problem.b_aligned,
        c_aligned: problem.c_aligned,
        grouped: problem.grouped,
        window: problem.window,
        precision: problem.precision,
        wide: problem.wide,
        c_wide: problem.c_wide,
        epilogue: problem.epilogue,
    }
}

/// Rows of tiles that cooperative workgroups take together, so that what neighbours read is in cache.
const BAND: u32 = 8;
/// Rows of a tall operand that a processor's cache holds.
const CACHED_ROWS: usize = 2048;
/// Cores of a large GPU.
const CORES: usize = 128;

fn choose_variant(problem: &Problem, caps: &Caps) -> Variant {
    let Problem { batch, m, n, .. } = *problem;
    let tiles = |v: Variant| batch * m.div_ceil(v.tile().0) * n.div_ceil(v.tile().1);
    if caps.software && SHARED.fits(caps) {
        // a tile takes the time of its rows and of about eight more for what it loads
        let time = |v: Variant| m.div_ceil(v.tile().0) * (v.tile().0 + 8);
        return if time(SHARED_FLAT) < time(SHARED) { SHARED_FLAT } else { SHARED };
    }
    // tensor cores: the least time, where as many tiles as a large GPU has cores take the time of one, and
    // where a subgroup that makes four times the results reads half as much for each
    let time = |v: &Variant| {
        let cost = if v.tile() == TENSOR.tile() { 1 } else { 2 };
        tiles(*v).div_ceil(CORES) * v.tile().0 * v.tile().1 * cost
    };
    let tensor = [TENSOR, TENSOR_SMALL, TENSOR_EIGHT, TENSOR_SINGLE].into_iter().map(|v| v.on(caps));
    // of single precision there are tiles as well, which are better at few rows, few columns and single elements
    let worth = problem.precision != Precision::Single || (problem.wide && m > 32 && n > 32);
    let tensor = tensor.filter(|_| worth);
    let tensor = tensor.filter(|v| v.makes(problem.precision) && v.fits(caps)).min_by_key(time);
    if let Some(variant) = tensor {
        return variant;
    }
    let choice = match () {
        () if m <= 16 => FLAT,
        // enough tiles that every core of a large GPU has one
        () if tiles(LARGE) >= CORES => LARGE,
        () if m <= 32 || n <= 32 => SMALL,
        () => MEDIUM,
    };
    [choice, MEDIUM].into_iter().find(|v| v.fits(caps)).unwrap_or(SMALL)
}

/// Tall K and few tiles: weight gradients.
fn choose_parts(problem: &Problem, variant: Variant, caps: &Caps) -> usize {
    if problem.k_groups > 1 {
        return 1;
    }
    // workgroups that keep the adapter busy, and the shortest part worth its partial sums
    let (busy, shortest): (usize, usize) = if caps.software { (8, 1024) } else { (256, 256) };
    let (rows, cols) = variant.tile();
    let tiles = problem.batch * problem.m.div_ceil(rows) * problem.n.div_ceil(cols);
    let Problem { m, n, k, .. } = *problem;
    // along M a tile reads a piece of every row of both operands; on a processor they should stay in its
    // cache until all tiles have read them, unless the partial sums are larger than they are
    let tall = caps.software && problem.a_along_m && k > 2 * CACHED_ROWS;
    let pieces = if tall { k.div_ceil(CACHED_ROWS).min((m + n) * k / (m * n).max(1)) } else { 1 };
    busy.div_ceil(tiles).min(k / shortest).max(pieces).max(1)
}

impl Plan {
    /// The kernel of the product; of the first stage, where there are two.
    pub fn product(&self) -> Kernel {
        let mut defines: Defines = Vec::new();
        defines.extend(self.a_along_m.then_some(("A_ALONG_M", 1)));
        defines.extend(self.b_along_k.then_some(("B_ALONG_K", 1)));
        defines.extend(self.grouped.then_some(("GROUPED", 1)));
        defines.extend(self.window.then_some(("WINDOW", 1)));
        match self.parts {
            1 => {
                defines.extend(self.epilogue.defines());
                defines.extend(self.precision.defines());
            }
            // partial sums are single
            _ => defines.extend((self.precision != Precision::Single).then_some(("HALF", 1))),
        }
        let kernel = |shader, entry, defines| match self.window {
            true => Kernel::new::<WindowParams>(shader, entry, defines),
            false => Kernel::new::<MatmulParams>(shader, entry, defines),
        };
        match self.variant {
            Variant::Tiled { rows, cols, depth, thread_rows, thread_cols } => {
                defines.extend(self.a_aligned.then_some(("A_VEC4", 1)));
                defines.extend(self.b_aligned.then_some(("B_VEC4", 1)));
                // one kernel less where operands are read one by one
                let all = self.a_aligned && self.b_aligned && self.c_aligned;
                defines.extend(all.then_some(("C_VEC4", 1)));
                // blocks of four by four that an invocation stages
                let loads = ((rows + cols) * depth / 16).div_ceil(self.variant.invocations());
                defines.extend([("BM", rows), ("BN", cols), ("BK", depth)]);
                defines.extend([("RUNS_M", thread_rows / 4), ("RUNS_N", thread_cols / 4), ("LOADS", loads)]);
                kernel(TILED, "tiled", defines)
            }
            Variant::Broadcast { rows } => {
                defines.extend(self.a_aligned.then_some(("A_VEC4", 1)));
                defines.extend(self.b_aligned.then_some(("B_VEC4", 1)));
                defines.extend((self.a_aligned && self.a_along_m).then_some(("A_ROWS_IN_VECTORS", 1)));
                defines.push(("ROWS", rows));
                kernel(BROADCAST, "broadcast", defines)
            }
            Variant::Cooperative { rows, cols, depth, single, fragment, fragments, subgroups, plain } => {
                defines.extend(plain.then_some(("PLAIN", 1)));
                defines.extend(self.wide.then_some(("WIDE", 1)));
                // 16 bytes of C at a time: partial sums are single, whatever C is
                let eights = self.c_wide && self.parts == 1 && self.precision == Precision::Half;
                defines.extend(self.wide.then_some((if eights { "C_EIGHT" } else { "C_VEC4" }, 1)));
                defines.extend((fragment == 8).then_some(("EIGHT", 1)));
                defines.extend(single.then_some(("SINGLE", 1)));
                defines.extend([("BM", rows), ("BN", cols), ("BK", depth)]);
                defines.extend([("FRAGMENT", fragment), ("FRAGMENTS", fragments), ("BAND", BAND)]);
                defines.extend([("SUBGROUP", subgroups.1), ("LEAST", subgroups.0)]);
                // times eight elements that an invocation stages
                let eights = |side: u32| side * depth / 8 / self.variant.invocations();
                defines.extend([("A_EIGHTS", eights(rows)), ("B_EIGHTS", eights(cols))]);
                kernel(COOPERATIVE, "cooperative", defines)
            }
        }
    }

    /// The kernel of the second stage.
    pub fn combine(&self) -> Kernel {
        let mut defines = vec![("WG", COMBINE_WG), ("COMBINE", 1)];
        defines.extend((self.precision == Precision::Half).then_some(("C_HALF", 1)));
        defines.extend(self.grouped.then_some(("GROUPED", 1)));
        defines.extend(self.epilogue.defines());
        Kernel::new::<MatmulParams>(COMBINE, "combine", defines)
    }
}

/// All kernels that an adapter may be asked for.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let mut seen = std::collections::HashSet::new();
    let mut all = Vec::new();
    for precision in Precision::ALL {
        let plain = PLAIN.into_iter().chain([PLAIN_SINGLE]).filter(|v| v.fits(caps) && v.makes(precision));
        for variant in variants(caps, precision).into_iter().chain(plain) {
            for bits in 0..128 {
                let [a_along_m, b_along_k, grouped, a_aligned, b_aligned, c_aligned, window] =
                    [1, 2, 4, 8, 16, 32, 64].map(|b| bits & b != 0);
                for epilogue in EpilogueKind::ALL {
                    let plain = matches!(epilogue, EpilogueKind::Plain | EpilogueKind::Accumulate);
                    if window && (grouped || !plain) {
                        continue;
                    }
                    let plan = Plan {
                        variant,
                        parts: 1,
                        a_along_m,
                        b_along_k,
                        a_aligned,
                        b_aligned,
                        c_aligned,
                        grouped,
                        window,
                        precision,
                        wide: a_aligned,
                        c_wide: b_aligned,
                        epilogue,
                    };
                    all.extend([plan.product(), plan.combine()]);
                }
            }
        }
    }
    all.retain(|kernel| seen.insert(kernel.clone()));
    all
}

//! Which kernel a product gets: one pure function of the problem and the adapter's capabilities.

use super::params::{MatmulParams, WindowParams};
use crate::gpu::{Caps, Defines, Kernel, Shader, shader};
use crate::tensor::DType;

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
    /// Whether A and B can be read eight elements at a time and C, and the epilogue's matrix, four; asked of
    /// matrices of half precision alone.
    pub wide: bool,
    /// The epilogue.
    pub epilogue: EpilogueKind,
}

/// Of which precision the matrices of a product are. Sums are always single.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// All are single.
    Single,
    /// A and B are half, C is single.
    HalfToSingle,
    /// All are half.
    Half,
}

impl Precision {
    const ALL: [Self; 3] = [Self::Single, Self::HalfToSingle, Self::Half];

    /// That of products of matrices like A into matrices like C.
    pub(super) fn of(a: DType, c: DType) -> Self {
        match [a, c] {
            [DType::F16, DType::F16] => Self::Half,
            [DType::F16, _] => Self::HalfToSingle,
            _ => Self::Single,
        }
    }

    fn defines(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::Single => &[],
            Self::HalfToSingle => &[("HALF", 1)],
            Self::Half => &[("HALF", 1), ("C_HALF", 1)],
        }
    }
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

/// A way to make the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Tiles staged through workgroup memory, a block of results an invocation: for hardware.
    Tiled {
        /// Rows of C a workgroup makes.
        rows: u32,
        /// Columns of C a workgroup makes.
        cols: u32,
        /// Length of K that is staged at a time.
        depth: u32,
        /// Rows of C an invocation makes, a multiple of four.
        thread_rows: u32,
        /// Columns of C an invocation makes, a multiple of four.
        thread_cols: u32,
    },
    /// Small matrices that subgroups multiply as a whole (tensor cores), of half precision; tiles
    /// staged through workgroup memory while the ones before are multiplied. **Not yet run on hardware.**
    Cooperative {
        /// Rows of C a workgroup makes.
        rows: u32,
        /// Columns of C a workgroup makes.
        cols: u32,
        /// Length of K that is staged at a time.
        depth: u32,
        /// Side of the small matrices: 8 or 16.
        fragment: u32,
        /// Small matrices of C a subgroup makes, down and across: 2 or 4.
        fragments: u32,
        /// Invocations of a subgroup, at least and at most.
        subgroups: (u32, u32),
        /// Plain arithmetic in place of cooperative matrices; see [`PLAIN`].
        plain: bool,
    },
    /// Results in the registers of one subgroup of eight, which shares what its lanes load: for software
    /// adapters.
    Broadcast {
        /// Rows of C a subgroup makes, a multiple of eight; it makes 32 columns.
        rows: u32,
    },
}

impl Variant {
    const fn tiled(rows: u32, cols: u32, depth: u32, thread_rows: u32, thread_cols: u32) -> Self {
        Self::Tiled { rows, cols, depth, thread_rows, thread_cols }
    }

    const fn cooperative(side: u32, fragment: u32, fragments: u32) -> Self {
        let subgroups = (32, 32);
        Self::Cooperative { rows: side, cols: side, depth: 32, fragment, fragments, subgroups, plain: false }
    }

    /// With plain arithmetic, in subgroups of `least` that are laid out for `most`.
    const fn plainly(self, least: u32, most: u32) -> Self {
        match self {
            Self::Cooperative { rows, cols, depth, fragment, fragments, .. } => {
                let subgroups = (least, most);
                Self::Cooperative { rows, cols, depth, fragment, fragments, subgroups, plain: true }
            }
            other => other,
        }
    }

    /// In the subgroups that an adapter has.
    fn on(mut self, caps: &Caps) -> Self {
        if let (Self::Cooperative { subgroups, plain: false, .. }, Some(there)) =
            (&mut self, caps.cooperative_subgroups())
        {
            *subgroups = there;
        }
        self
    }

    /// Rows and columns of C that one workgroup makes.
    pub fn tile(self) -> (usize, usize) {
        match self {
            Self::Tiled { rows, cols, .. } | Self::Cooperative { rows, cols, .. } => {
                (rows as usize, cols as usize)
            }
            Self::Broadcast { rows } => (rows as usize, 32),
        }
    }

    /// Whether it makes products of this precision, over windows or not.
    fn makes(self, precision: Precision, window: bool) -> bool {
        match self {
            Self::Cooperative { .. } => precision != Precision::Single && !window,
            _ => true,
        }
    }

    /// Invocations in a workgroup.
    fn invocations(self) -> u32 {
        match self {
            Self::Tiled { rows, cols, thread_rows, thread_cols, .. } => {
                (rows / thread_rows) * (cols / thread_cols)
            }
            Self::Cooperative { rows, cols, fragment, fragments, subgroups, .. } => {
                subgroups.1 * (rows * cols) / (fragment * fragments).pow(2)
            }
            Self::Broadcast { .. } => 8,
        }
    }

    fn fits(self, caps: &Caps) -> bool {
        match self {
            Self::Tiled { rows, cols, depth, .. } => {
                let bytes = depth * (rows + cols) * 4;
                self.invocations() <= caps.workgroup_size && bytes <= caps.workgroup_bytes
            }
            Self::Cooperative { rows, cols, depth, fragment, subgroups, plain, .. } => {
                let has = if fragment == 16 { caps.cooperative.sixteen } else { caps.cooperative.eight };
                let runs = plain || (has && caps.cooperative_subgroups() == Some(subgroups));
                // two tiles of either operand, each row with its padding, and two small matrices of sums a
                // subgroup
                let staged = 2 * 2 * ((rows + cols) * (depth + 8)).max(depth * (rows + cols + 16));
                let bytes = staged + 2 * self.invocations() / subgroups.0 * fragment * fragment * 4;
                let fits = self.invocations() <= caps.workgroup_size && bytes <= caps.workgroup_bytes;
                runs && caps.f16 && fits
            }
            Self::Broadcast { rows } => {
                caps.fixed_subgroup_size() == Some(8) && rows * 8 * 16 <= caps.workgroup_bytes
            }
        }
    }
}

/// For large products.
const LARGE: Variant = Variant::tiled(128, 128, 16, 8, 8);
/// For products that would leave a large GPU idle with larger tiles.
const MEDIUM: Variant = Variant::tiled(64, 64, 32, 4, 4);
/// For few rows and columns.
const SMALL: Variant = Variant::tiled(32, 32, 32, 4, 4);
/// For few rows.
const FLAT: Variant = Variant::tiled(16, 128, 16, 4, 4);
/// For software adapters; more rows a load, and longer to compile.
const SHARED: Variant = Variant::Broadcast { rows: 24 };
/// The same for few rows.
const SHARED_FLAT: Variant = Variant::Broadcast { rows: 8 };

/// For large products of half precision: 64×64 results a subgroup.
const TENSOR: Variant = Variant::cooperative(128, 16, 4);
/// For those that would leave a large GPU idle with larger tiles: 32×32 results a subgroup.
const TENSOR_SMALL: Variant = Variant::cooperative(64, 16, 2);
/// For adapters with small matrices of 8×8: 32×32 results a subgroup.
const TENSOR_EIGHT: Variant = Variant::cooperative(64, 8, 4);
/// The kernels for cooperative matrices with plain arithmetic in their place, for tests of all the rest on
/// adapters without them, the last laid out for larger subgroups than it has: no plan has them.
pub const PLAIN: [Variant; 3] =
    [TENSOR_SMALL.plainly(32, 32), TENSOR_EIGHT.plainly(32, 32), TENSOR_EIGHT.plainly(32, 64)];

/// All variants that an adapter can run for matrices of this precision.
pub fn variants(caps: &Caps, precision: Precision) -> Vec<Variant> {
    [LARGE, MEDIUM, SMALL, FLAT, SHARED, SHARED_FLAT, TENSOR, TENSOR_SMALL, TENSOR_EIGHT]
        .into_iter()
        .map(|v| v.on(caps))
        .filter(|v| v.fits(caps) && v.makes(precision, false))
        .filter(|_| caps.f16 || precision == Precision::Single)
        .collect()
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
    let tensor = [TENSOR, TENSOR_SMALL, TENSOR_EIGHT].into_iter().map(|v| v.on(caps));
    let tensor =
        tensor.filter(|v| v.makes(problem.precision, problem.window) && v.fits(caps)).min_by_key(time);
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
            Variant::Cooperative { rows, cols, depth, fragment, fragments, subgroups, plain } => {
                defines.extend(plain.then_some(("PLAIN", 1)));
                defines.extend(self.wide.then_some(("WIDE", 1)));
                defines.extend(self.wide.then_some(("C_VEC4", 1)));
                defines.extend((fragment == 8).then_some(("EIGHT", 1)));
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
        let plain = PLAIN.into_iter().filter(|v| v.fits(caps) && v.makes(precision, false));
        for variant in variants(caps, precision).into_iter().chain(plain) {
            for bits in 0..128 {
                let [a_along_m, b_along_k, grouped, a_aligned, b_aligned, c_aligned, window] =
                    [1, 2, 4, 8, 16, 32, 64].map(|b| bits & b != 0);
                for epilogue in EpilogueKind::ALL {
                    let plain = matches!(epilogue, EpilogueKind::Plain | EpilogueKind::Accumulate);
                    if window && (grouped || !plain || !variant.makes(precision, true)) {
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

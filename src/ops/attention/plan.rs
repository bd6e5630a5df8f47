//! Which kernels attention gets: one pure function of the problem and the adapter's capabilities.

use crate::error::{Error, Result};
use crate::gpu::{Caps, Defines, Kernel, Shader, params, shader};
use crate::tensor::{DType, Rows, activation_types, half_define, vec4_aligned};

const SHADER: Shader = shader!("attention.wgsl", like kernels_like);

const COOPERATIVE: Shader = shader!("attention_cooperative.wgsl", like kernels_like);

params!(AttentionParams {
    heads: u32,
    rows: u32,
    q_offset: u32,
    q_stride: u32,
    kv_offset: u32,
    kv_stride: u32,
    out_offset: u32,
    out_stride: u32,
    dout_offset: u32,
    dout_stride: u32,
    dqkv_offset: u32,
    dqkv_stride: u32,
    saved_offset: u32,
    end_0: u32,
    end_1: u32,
    end_2: u32,
    end_3: u32,
    first_0: u32,
    first_1: u32,
    first_2: u32,
    first_3: u32,
    length_0: u32,
    length_1: u32,
    length_2: u32,
    length_3: u32,
    table_offset: u32,
    blocks: u32,
    scale: f32,
});

/// Groups of sequences that one dispatch takes.
pub(super) const GROUPS: usize = 4;
/// Chunks of eight elements that an invocation of a broadcast kernel keeps, and takes up in one step:
/// llvmpipe compiles more for longer than a second. Of half precision, which is to be converted, three
/// quarters.
const UNROLLED_CHUNKS: u32 = 160;
/// Numbers of rows and sums that an invocation of hardware may keep: of the 255 registers that it has at most
/// some are for all the rest.
const REGISTERS: u32 = 192;
/// Largest head that the kernels take.
pub const MAX_HEAD: usize = 128;

/// `count` sequences of `length` rows, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceGroup {
    /// Number of sequences.
    pub count: usize,
    /// Rows of each.
    pub length: usize,
}

impl SequenceGroup {
    /// The length of each sequence of several groups.
    pub fn lengths(groups: &[Self]) -> impl Iterator<Item = usize> {
        groups.iter().flat_map(|g| std::iter::repeat_n(g.length, g.count))
    }
}

/// What is to be computed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Problem {
    /// The sequences.
    pub groups: Vec<SequenceGroup>,
    /// Heads.
    pub heads: usize,
    /// Elements of q, k and v of a head.
    pub head_dim: usize,
    /// Half precision, in rows that are read four elements at a time: what cooperative matrices take.
    pub half: bool,
}

/// How the other side's rows reach an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Through workgroup memory; any adapter.
    Tiled,
    /// Through subgroup broadcasts; subgroups of eight.
    Broadcast,
    /// Through workgroup memory, to subgroups that multiply small matrices as a whole (tensor cores), of half
    /// precision. **Not yet run on hardware.**
    Cooperative {
        /// Side of the small matrices: 8 or 16.
        fragment: u32,
        /// Invocations of a subgroup, at least and at most.
        subgroups: (u32, u32),
        /// Plain arithmetic in their place; see [`plain_plans`].
        plain: bool,
    },
}

/// A choice of kernels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// How rows are shared.
    pub variant: Variant,
    /// Invocations in a workgroup.
    pub lanes: u32,
    /// Rows that an invocation owns; with cooperative matrices a subgroup owns as many as they have.
    pub own: u32,
    /// Rows of the other side that are in workgroup memory together.
    pub tile: u32,
    /// Rows of the other side that are handled together, of those.
    pub step: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Whether dk and dv are made by a kernel each.
    pub kv_apart: bool,
}

/// The kernels of attention, in windows or not.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Pass {
    Forward,
    BackwardQ,
    BackwardKv,
    /// The half of [`Pass::BackwardKv`] that makes dk.
    BackwardK,
    /// The half that makes dv.
    BackwardV,
    /// Both backward passes at once: of windows alone, whose tokens are few enough for one workgroup.
    Backward,
}

impl Pass {
    pub(in crate::ops) const ALL: [Self; 3] = [Self::Forward, Self::BackwardQ, Self::BackwardKv];

    /// Rows that an invocation keeps for every one it owns: operands and sums.
    fn kept_rows(self) -> u32 {
        match self {
            Self::Forward | Self::BackwardV => 2,
            Self::BackwardQ | Self::BackwardK => 3,
            Self::BackwardKv | Self::Backward => 4,
        }
    }

    /// Whether workgroups own keys rather than queries.
    pub(super) fn owns_keys(self) -> bool {
        matches!(self, Self::BackwardKv | Self::BackwardK | Self::BackwardV)
    }

    /// Its entry point, and the flags that it is built with.
    pub(in crate::ops) fn names(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Forward => ("forward", &["FORWARD"]),
            Self::BackwardQ => ("backward_q", &["BACKWARD_Q", "SUMS_DS"]),
            Self::BackwardKv => ("backward_kv", &["BACKWARD_KV", "Y_IS_DO"]),
            Self::BackwardK => ("backward_kv", &["BACKWARD_KV", "Y_IS_DO", "KEYS_ALONE"]),
            Self::BackwardV => ("backward_kv", &["BACKWARD_KV", "Y_IS_DO", "VALUES_ALONE"]),
            Self::Backward => ("backward", &["BACKWARD", "Y_IS_DO", "SUMS_DS"]),
        }
    }
}

impl Plan {
    fn tiled(head_dim: usize, lanes: u32) -> Self {
        let tile = if head_dim <= 64 { 16 } else { 8 };
        let kv_apart = Self::keeps_too_many(head_dim);
        let head_dim = head_dim as u32;
        Self { variant: Variant::Tiled, lanes, own: 1, tile, step: 4, head_dim, kv_apart }
    }

    /// Whether an invocation that makes both dk and dv would keep more numbers than fit into its registers.
    /// Scores are computed twice where it need not, which costs less than sums that go to memory and back.
    fn keeps_too_many(head_dim: usize) -> bool {
        head_dim.next_multiple_of(8) as u32 * Pass::BackwardKv.kept_rows() > REGISTERS
    }

    fn broadcast(head_dim: usize, own: u32) -> Self {
        let head_dim = head_dim as u32;
        Self { variant: Variant::Broadcast, lanes: 8, own, tile: 0, step: 2, head_dim, kv_apart: false }
    }

    /// On cooperative matrices, with as many subgroups as the adapter has workgroup memory for.
    fn cooperative(
        head_dim: usize,
        fragment: u32,
        subgroups: (u32, u32),
        plain: bool,
        caps: &Caps,
    ) -> Option<Self> {
        let variant = Variant::Cooperative { fragment, subgroups, plain };
        let tile = 32;
        let plans = [4, 2, 1].map(|count| Self {
            variant,
            lanes: subgroups.1 * count,
            own: 1,
            tile,
            step: tile,
            head_dim: head_dim as u32,
            kv_apart: false,
        });
        let has = if fragment == 16 { caps.cooperative.sixteen } else { caps.cooperative.eight };
        let runs = plain || (has && caps.cooperative.attention);
        let possible = runs && caps.f16 && head_dim.is_multiple_of(16) && head_dim as u32 <= 8 * fragment;
        let fits = |plan: &Self| plan.lanes <= caps.workgroup_size && plan.bytes() <= caps.workgroup_bytes;
        plans.into_iter().find(|plan| possible && fits(plan))
    }

    /// Bytes of workgroup memory on cooperative matrices: those of backward_kv or of forward, with its flag; see the shader.
    fn bytes(&self) -> u32 {
        let (rows, tile, head) = (self.rows() as u32, self.tile, self.head_dim);
        let (staged, pairs) = (2 * head + 16, 2 * tile + 16);
        let over = match self.variant {
            Variant::Cooperative { subgroups: (least, most), .. } => most / least,
            _ => 1,
        };
        let parked = over * rows * (4 * tile + 16);
        let forward = (rows + 2 * tile) * staged + rows * pairs + parked + 4;
        let backward = 2 * (rows + tile) * staged + 2 * rows * pairs + parked;
        forward.max(backward)
    }

    /// The plan where rows are read in vectors or not: without, cooperative matrices are out of the question.
    pub(super) fn where_read(&self, vec4: bool) -> Self {
        match self.variant {
            Variant::Cooperative { .. } if !vec4 => Self::tiled(self.head_dim as usize, 64),
            _ => self.clone(),
        }
    }

    /// The plan of one of the kernels. With broadcasts all rows that an invocation owns are code, which is to
    /// be compiled within a second.
    pub(in crate::ops) fn of(&self, pass: Pass, dtype: DType) -> Self {
        let chunks = self.head_dim.div_ceil(8) * pass.kept_rows() * (self.step + 1);
        let unrolled = UNROLLED_CHUNKS * if dtype == DType::F16 { 3 } else { 4 } / 4;
        let most = match self.variant {
            Variant::Tiled | Variant::Cooperative { .. } => self.own,
            Variant::Broadcast => (unrolled / chunks).max(1),
        };
        let own = [4, 2, 1].into_iter().find(|own| *own <= self.own.min(most)).unwrap_or(1);
        Self { own, ..self.clone() }
    }

    /// The passes that make gradients, in their order.
    pub(super) fn backward_passes(&self) -> &'static [Pass] {
        match self.kv_apart {
            true => &[Pass::BackwardQ, Pass::BackwardK, Pass::BackwardV],
            false => &[Pass::BackwardQ, Pass::BackwardKv],
        }
    }

    /// Rows of a workgroup.
    pub(in crate::ops) fn rows(&self) -> usize {
        match self.variant {
            Variant::Cooperative { fragment, subgroups, .. } => {
                (self.lanes / subgroups.1 * fragment) as usize
            }
            _ => (self.lanes * self.own) as usize,
        }
    }

    /// Rows that workgroups handle although the sequences do not have them.
    fn idle(&self, problem: &Problem) -> usize {
        let idle = |g: &SequenceGroup| g.count * (g.length.next_multiple_of(self.rows()) - g.length);
        problem.groups.iter().map(idle).sum()
    }

    /// The kernel of a pass; `queries`: where not every token has one.
    pub(super) fn kernel(&self, pass: Pass, dtype: DType, vec4: bool, queries: bool) -> Kernel {
        let (entry, flags) = pass.names();
        let (shader, mut defines) = match self.variant {
            Variant::Cooperative { fragment, subgroups: (least, most), plain } => {
                let mut defines = vec![("FRAGMENT", fragment), ("FRAGMENTS", self.head_dim / fragment)];
                defines.extend([
                    ("SUBGROUP", most),
                    ("LEAST", least),
                    ("SUBGROUPS", self.lanes / most),
                    ("TILE", self.tile),
                    ("HEAD", self.head_dim),
                ]);
                defines.extend((fragment == 8).then_some(("EIGHT", 1)));
                defines.extend(plain.then_some(("PLAIN", 1)));
                (COOPERATIVE, defines)
            }
            _ => {
                let mut defines = self.of(pass, dtype).defines(vec4);
                defines.extend(half_define(dtype));
                (SHADER, defines)
            }
        };
        defines.extend(flags.iter().map(|flag| (*flag, 1)));
        defines.extend(queries.then_some(("QUERIES", 1)));
        Kernel::new::<AttentionParams>(shader, entry, defines)
    }

    /// The constants that the plan stands for, where rows are read in vectors or not.
    pub(in crate::ops) fn defines(&self, vec4: bool) -> Defines {
        let mut defines = vec![("WG", self.lanes), ("OWN", self.own), ("STEP", self.step)];
        defines.extend([("TILE", self.tile), ("HEAD", self.head_dim)]);
        defines.extend((self.variant == Variant::Broadcast).then_some(("BROADCAST", 1)));
        defines.extend((!self.head_dim.is_multiple_of(8)).then_some(("RAGGED", 1)));
        defines.extend(vec4.then_some(("VEC4", 1)));
        // a load of a vector for eight lanes has room for two such rows
        let packed = self.variant == Variant::Broadcast && vec4 && self.head_dim <= 16;
        defines.extend(packed.then_some(("PACKED", 1)));
        defines
    }
}

/// Whether heads of `head_dim` elements can be read four elements at a time in matrices of these rows.
pub(in crate::ops) fn in_vectors(head_dim: usize, rows: &[Rows]) -> bool {
    head_dim.is_multiple_of(8) && vec4_aligned(rows, &[])
}

/// Whether kernels for such heads may be asked for that read vectors.
pub(in crate::ops) fn vector_choices(head_dim: usize) -> &'static [bool] {
    if head_dim.is_multiple_of(8) { &[false, true] } else { &[false] }
}

/// Every plan that an adapter with these capabilities can run, for tests and benchmarks.
pub fn plans(problem: &Problem, caps: &Caps) -> Vec<Plan> {
    // a software adapter has no registers to lose
    let tiled = |lanes| {
        let plan = Plan::tiled(problem.head_dim, lanes);
        Plan { kv_apart: plan.kv_apart && !caps.software, ..plan }
    };
    let mut all: Vec<_> = [32, 64, 128].map(tiled).into();
    // what the others take the place of comes last, and is chosen by tests alone
    let other = Plan { kv_apart: !all[0].kv_apart, ..tiled(64) };
    all.extend(Plan::keeps_too_many(problem.head_dim).then_some(other));
    if caps.fixed_subgroup_size() == Some(8) {
        let chunks = problem.head_dim.div_ceil(8);
        let own = [1, 2, 4].into_iter().filter(|own| *own == 1 || own * chunks <= 16);
        all.extend(own.map(|own| Plan::broadcast(problem.head_dim, own as u32)));
    }
    if let (true, Some(subgroups)) = (problem.half, caps.cooperative_subgroups()) {
        let cooperative = |n| Plan::cooperative(problem.head_dim, n, subgroups, false, caps);
        all.extend([16, 8].into_iter().filter_map(cooperative));
    }
    all
}

/// The kernels for cooperative matrices with plain arithmetic in their place, for tests of all the rest on
/// adapters without them, the last laid out for larger subgroups than it has: no plan has them.
pub fn plain_plans(problem: &Problem, caps: &Caps) -> Vec<Plan> {
    let all = [(16, 32), (8, 32), (16, 64)].into_iter();
    all.filter_map(|(n, most)| Plan::cooperative(problem.head_dim, n, (32, most), true, caps)).collect()
}

/// The plan for a problem.
pub fn plan(problem: &Problem, caps: &Caps) -> Result<Plan> {
    if problem.head_dim == 0 || problem.head_dim > MAX_HEAD {
        let text =
            format!("heads of 1 to {MAX_HEAD} elements are supported on a GPU, got {}", problem.head_dim);
        return Err(Error::shape("attention", text));
    }
    let candidates = plans(problem, caps);
    let last_choice = |variant| match variant {
        // the larger small matrices are the faster ones
        Variant::Cooperative { fragment, .. } => 16 - fragment,
        Variant::Broadcast if caps.software => 20,
        Variant::Tiled => 30,
        Variant::Broadcast => 40,
    };
    let rows: usize = problem.groups.iter().map(|g| g.count * g.length).sum();
    // a row of the other side costs its arithmetic for every owned row, idle or not, and its loads once
    let cost = |plan: &Plan| {
        let shared = match plan.variant {
            Variant::Tiled | Variant::Cooperative { .. } => plan.rows() / 8,
            Variant::Broadcast => plan.own as usize,
        };
        (last_choice(plan.variant), (rows + plan.idle(problem)) * (shared + 1) * 64 / shared)
    };
    Ok(candidates.into_iter().min_by_key(cost).expect("there is always a plan"))
}

/// All variants for heads of some sizes, one of every kind.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    [4, 32, 64, 80, 128].into_iter().flat_map(|head_dim| kernels_of(head_dim, caps)).collect()
}

/// All variants for heads of the size that `kernel` has.
fn kernels_like(kernel: &Kernel, caps: &Caps) -> Vec<Kernel> {
    kernel.define("HEAD").map_or(Vec::new(), |head_dim| kernels_of(head_dim as usize, caps))
}

fn kernels_of(head_dim: usize, caps: &Caps) -> Vec<Kernel> {
    let mut all = Vec::new();
    let problem = Problem { groups: Vec::new(), heads: 1, head_dim, half: caps.f16 };
    for plan in plans(&problem, caps).into_iter().chain(plain_plans(&problem, caps)) {
        let cooperative = matches!(plan.variant, Variant::Cooperative { .. });
        for dtype in activation_types(caps) {
            for &vec4 in vector_choices(head_dim) {
                if !cooperative || (vec4 && dtype == DType::F16) {
                    let passes = [Pass::Forward].iter().chain(plan.backward_passes());
                    let choices = |pass| [false, true].map(|queries| plan.kernel(pass, dtype, vec4, queries));
                    all.extend(passes.flat_map(|pass| choices(*pass)));
                }
            }
        }
    }
    all
}

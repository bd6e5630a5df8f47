//! How kernels that go through a matrix row by row share the work: in units of how many elements, who works
//! on a row together, and whether a row stays in registers (`shaders/include/rows.wgsl`).
//!
//! A software adapter pays for every load, whatever its width, and for barriers: there a subgroup takes a
//! row, and several after another, so that what all rows share is loaded once. Hardware wants many rows in
//! flight.

use crate::gpu::{Caps, Defines};

/// Elements up to which an invocation handles a row alone.
const SHORT: usize = 16;
/// Rows that a team takes one after the other on a software adapter.
const SOFTWARE_STRIP: usize = 16;

/// Who works on a row together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Team {
    /// One invocation a row, so many rows a workgroup.
    Alone(u32),
    /// A workgroup that is one subgroup of this size: no barriers.
    Subgroup(u32),
    /// A workgroup of this size.
    Workgroup(u32),
}

impl Team {
    fn members(self) -> usize {
        match self {
            Self::Alone(_) => 1,
            Self::Subgroup(size) | Self::Workgroup(size) => size as usize,
        }
    }

    /// Workgroups for so many teams.
    pub(crate) fn workgroups(self, teams: usize) -> usize {
        match self {
            Self::Alone(rows) => teams.div_ceil(rows as usize),
            _ => teams,
        }
    }

    /// Every team that an adapter with these capabilities can run.
    pub fn all(caps: &Caps) -> Vec<Self> {
        let mut all = vec![Self::Alone(64), Self::Workgroup(64), Self::Workgroup(256)];
        all.extend(Some(Self::Workgroup(widest(caps))).filter(|t| !all.contains(t)));
        all.extend(caps.fixed_subgroup_size().map(Self::Subgroup));
        all
    }
}

/// How a kernel goes through rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowPlan {
    /// Who works on a row together.
    pub team: Team,
    /// Whether units are of four elements.
    pub vec4: bool,
    /// Units of a row that each member of the team keeps in registers; 0 where rows are too long, or not of
    /// vectors.
    pub keep: u32,
    /// Whether rows have exactly that many.
    pub exact: bool,
}

impl RowPlan {
    /// The plan for rows of `cols` elements by this team.
    pub fn new(cols: usize, vec4: bool, team: Team, caps: &Caps) -> Self {
        let need = (cols / 4).div_ceil(team.members());
        let keep = if vec4 { sizes(caps).find(|k| *k as usize >= need).unwrap_or(0) } else { 0 };
        Self { team, vec4, keep, exact: keep > 0 && keep as usize * team.members() * 4 == cols }
    }

    /// The constants of `rows.wgsl`.
    pub(crate) fn defines(&self) -> Defines {
        let (team, wg) = match self.team {
            Team::Alone(wg) => ("ALONE", wg),
            Team::Subgroup(wg) => ("SUBGROUP", wg),
            Team::Workgroup(wg) => ("WORKGROUP", wg),
        };
        let mut defines = vec![("WG", wg), (team, 1)];
        defines.extend(self.vec4.then_some(("VEC4", 1)));
        defines.extend((self.keep > 0).then_some(("KEEP", self.keep)));
        defines.extend(self.exact.then_some(("EXACT", 1)));
        defines
    }

    /// Every plan that an adapter with these capabilities may be asked for.
    pub fn all(caps: &Caps) -> Vec<Self> {
        let mut all = Vec::new();
        for team in Team::all(caps) {
            let plan = |vec4, keep, exact| Self { team, vec4, keep, exact };
            all.extend([plan(false, 0, false), plan(true, 0, false)]);
            all.extend(sizes(caps).flat_map(|keep| [plan(true, keep, false), plan(true, keep, true)]));
        }
        all
    }
}

/// The largest workgroup that is a power of two, to 1,024.
fn widest(caps: &Caps) -> u32 {
    match caps.workgroup_size {
        size if size >= 1024 => 1024,
        size if size >= 512 => 512,
        _ => 256,
    }
}

/// Units that a member may keep: registers are what hardware has few of, and a software adapter has none to
/// lose.
fn sizes(caps: &Caps) -> impl Iterator<Item = u32> {
    let software = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 20, 24, 32];
    software.into_iter().take(if caps.software { software.len() } else { 8 })
}

/// The plan for rows of `cols` elements, whose operands are `vec4` as
/// [`vec4_aligned`](crate::tensor::vec4_aligned) has it.
pub(crate) fn plan(cols: usize, vec4: bool, caps: &Caps) -> RowPlan {
    let team = match caps.fixed_subgroup_size() {
        _ if cols <= SHORT => Team::Alone(64),
        // barriers are what costs on a software adapter
        Some(size) if caps.software || cols <= 1024 => Team::Subgroup(size),
        _ if cols <= 512 => Team::Workgroup(64),
        _ if cols < 4096 => Team::Workgroup(256),
        // there may be fewer rows than the adapter has cores
        _ => Team::Workgroup(widest(caps)),
    };
    RowPlan::new(cols, vec4, team, caps)
}

/// The plan for rows of logits, of which there may be fewer than the adapter has cores: they are long, and
/// sums over them are short in a large team.
pub(crate) fn long_plan(cols: usize, vec4: bool, caps: &Caps) -> RowPlan {
    let team = Team::Workgroup(if cols < 4096 { 256 } else { widest(caps) });
    RowPlan { team, vec4, keep: 0, exact: false }
}

/// What [`long_plan`] may return.
pub(crate) fn long_plans(caps: &Caps) -> Vec<RowPlan> {
    let plans = |cols| [false, true].map(|vec4| long_plan(cols, vec4, caps));
    let mut all = [plans(0), plans(usize::MAX)].concat();
    all.dedup();
    all
}

/// Rows that a team takes one after the other, so that there are at most `teams` teams. Depends on sizes
/// alone.
pub(crate) fn strip(rows: usize, teams: usize, caps: &Caps) -> usize {
    let strip = if caps.software { SOFTWARE_STRIP.min(rows / SOFTWARE_STRIP) } else { 1 };
    strip.max(rows.div_ceil(teams.max(1))).max(1)
}

/// Teams of a kernel that leaves a row of partial sums a team.
pub(crate) fn summing_teams(caps: &Caps) -> usize {
    if caps.software { 64 } else { 1024 }
}

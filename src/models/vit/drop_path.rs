//! Stochastic depth: which samples every residual branch leaves out (poa-facts: elastic ViT).

use rand::seq::index::sample;
use rand::{Rng, RngExt};

use crate::error::{Error, Result};
use crate::models::backbone::CropBatch;
use crate::models::grid::{Network, block_ids};
use crate::models::vit::sizes::VitSizes;
use crate::ops::attention::SequenceGroup;
use crate::ops::row_subset::{RowSubset, RowTable, Run};

/// Up to this rate drop path multiplies samples by zero; above it, branches run on a subset of the samples.
const SUBSET_RATE: f64 = 0.1;

/// The rows a residual branch runs on: on the device, or as drawn on the host.
pub(super) enum BranchRows<T = RowSubset> {
    /// All rows, each sample with its factor.
    Scaled(T),
    /// A subset of the samples; the groups say how many of each size.
    Subset(T, Vec<SequenceGroup>),
}

impl<T> BranchRows<T> {
    /// Which rows.
    pub fn rows(&self) -> &T {
        match self {
            Self::Scaled(rows) | Self::Subset(rows, _) => rows,
        }
    }

    /// The rows alone.
    pub fn into_rows(self) -> T {
        match self {
            Self::Scaled(rows) | Self::Subset(rows, _) => rows,
        }
    }

    /// The same with others in their place.
    pub fn with_rows<U>(&self, rows: U) -> BranchRows<U> {
        match self {
            Self::Scaled(_) => BranchRows::Scaled(rows),
            Self::Subset(_, groups) => BranchRows::Subset(rows, groups.clone()),
        }
    }
}

/// Which samples every residual branch of a forward pass leaves out, drawn before the pass.
pub(super) struct DropPath {
    /// For every block that runs but the last, the rows of its attention and of its MLP branch.
    branches: Vec<[Option<BranchRows>; 2]>,
    /// The last block's, which are narrowed before they are uploaded.
    pub last: [Option<BranchRows<RowTable>>; 2],
}

impl DropPath {
    /// Draws for a forward pass of `network` over these crops.
    pub fn draw(s: &VitSizes, network: Network, crops: &[CropBatch], rng: &mut impl Rng) -> Result<Self> {
        let first = crops.first().ok_or_else(|| Error::shape("vit", "no crops"))?;
        let groups: Vec<SequenceGroup> = crops
            .iter()
            .map(|c| SequenceGroup { count: c.images.dim(0), length: s.tokens(c.images.dim(2)) })
            .collect();
        let mut drawn = Vec::new();
        for block in block_ids(s.depth, network.depth) {
            let rate = match s.drop_path_uniform {
                true => s.drop_path_rate,
                false => s.drop_path_rate * block as f64 / (s.depth.max(2) - 1) as f64,
            };
            let mut draw = || match rate {
                0.0 => None,
                r if r <= SUBSET_RATE => Some(BranchRows::Scaled(scaled_rows(&groups, r, rng))),
                r => Some(subset_rows(&groups, r, rng)),
            };
            drawn.push([draw(), draw()]);
        }
        let last = drawn.pop().unwrap_or_default();
        let tables: Vec<&RowTable> = drawn.iter().flatten().flatten().map(BranchRows::rows).collect();
        let mut subsets = RowSubset::all(first.images.device(), &tables)?.into_iter();
        let branches = drawn.iter().map(|block| on_device(block, &mut subsets)).collect();
        Ok(Self { branches, last })
    }

    /// The rows of the attention and of the MLP branch of the `i`-th block that runs; `None` for all.
    pub fn of_block(&self, i: usize) -> [Option<&BranchRows>; 2] {
        self.branches.get(i).map_or([None, None], |[a, b]| [a.as_ref(), b.as_ref()])
    }
}

/// A block's branches with the next of these subsets in their tables' place.
pub(super) fn on_device(
    block: &[Option<BranchRows<RowTable>>; 2],
    subsets: &mut impl Iterator<Item = RowSubset>,
) -> [Option<BranchRows>; 2] {
    let mut next = || subsets.next().expect("a subset for every table");
    block.each_ref().map(|rows| rows.as_ref().map(|rows| rows.with_rows(next())))
}

/// The rows as the residual addition wants them.
pub(super) fn row_subset(rows: Option<&BranchRows>) -> Option<&RowSubset> {
    rows.map(BranchRows::rows)
}

/// Every row; those of a sample that is left out count nothing.
fn scaled_rows(groups: &[SequenceGroup], rate: f64, rng: &mut impl Rng) -> RowTable {
    let lengths: Vec<usize> = SequenceGroup::lengths(groups).collect();
    let keep: Vec<bool> = lengths.iter().map(|_| rng.random::<f64>() >= rate).collect();
    RowTable::of_samples(&lengths, &keep, (1.0 / (1.0 - rate)) as f32)
}

/// max(⌊b(1−r)⌋, 1) samples of each batch, scaled by b / subset.
fn subset_rows(groups: &[SequenceGroup], rate: f64, rng: &mut impl Rng) -> BranchRows<RowTable> {
    let (mut table, mut kept) = (RowTable::default(), Vec::new());
    for g in groups {
        let count = ((g.count as f64 * (1.0 - rate)) as usize).max(1).min(g.count);
        for sample in sample(rng, g.count, count) {
            let (first, factor) = (table.trunk_rows + sample * g.length, g.count as f32 / count as f32);
            table.runs.push(Run { first, count: g.length, factor });
        }
        kept.push(SequenceGroup { count, length: g.length });
        table.trunk_rows += g.count * g.length;
    }
    BranchRows::Subset(table, kept)
}

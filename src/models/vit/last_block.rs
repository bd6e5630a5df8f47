//! The last block, of which somebody reads some tokens alone: in training the class tokens, and the masked patches of
//! global crops. Keys and values are of all tokens; queries, and all that comes after attention, of those. Exact: no
//! other row reaches what is read.

use std::rc::Rc;

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::vit::block::Block;
use crate::models::vit::drop_path::{BranchRows, on_device};
use crate::ops::attention::{Queries, SequenceGroup, attention_of};
use crate::ops::gather::gather_rows;
use crate::ops::linear::{linear, linear_pair};
use crate::ops::residual::residual;
use crate::ops::row_subset::{RowSubset, RowTable, Run};
use crate::tensor::{Device, Tensor};

/// The last block of a network that runs, until it is known what is asked for.
pub(super) struct LastBlock {
    pub block: Block,
    pub groups: Vec<SequenceGroup>,
    /// The rows of its attention and of its MLP branch.
    pub drops: [Option<BranchRows<RowTable>>; 2],
}

/// What the block works on where not all of its rows are asked for.
struct Wanted {
    /// `u32`: the rows, ascending.
    rows: Tensor,
    /// `u32`: for each that is asked for, its place among them.
    order: Tensor,
    /// `u32`: the rows of keys, where those of some samples alone are.
    keys: Option<Tensor>,
    /// Their sequences.
    groups: Vec<SequenceGroup>,
    /// `u32`: the rows of queries.
    query_rows: Tensor,
    queries: Queries,
    /// Where attention's rows are among the wanted ones.
    attention: Option<RowSubset>,
    /// The same of the MLP's.
    mlp: Option<BranchRows>,
}

impl LastBlock {
    /// The block's output for the tokens x, and where in it the rows are that are asked for, each at most once.
    pub fn forward(self: &Rc<Self>, tape: &Tape, x: &Var, asked: &[u32]) -> Result<(Var, Tensor)> {
        let (this, device) = (self.clone(), x.value().device());
        // where nearly all are, picking them costs more than the others
        let few = 4 * asked.len() < 3 * x.value().dim(0);
        if let Some(wanted) = if few { self.wanted(device, asked)? } else { None } {
            let wanted = Rc::new(wanted);
            let order = wanted.order.clone();
            let y = tape.segment(x, move |tape, x| wanted.through(&this.block, tape, x))?;
            return Ok((y, order));
        }
        let tables: Vec<&RowTable> = self.drops.iter().flatten().map(BranchRows::rows).collect();
        let rows = on_device(&self.drops, &mut RowSubset::all(device, &tables)?.into_iter());
        let y = tape.segment(x, move |tape, x| {
            this.block.forward(tape, x, &this.groups, rows.each_ref().map(Option::as_ref))
        })?;
        Ok((y, Tensor::from_slice(device, &[asked.len()], asked)?))
    }

    /// `None` where a branch would have no rows at all.
    fn wanted(&self, device: &Device, asked: &[u32]) -> Result<Option<Wanted>> {
        let mut wanted = asked.to_vec();
        wanted.sort_unstable();
        let narrowed = self.drops.each_ref().map(|drop| {
            drop.as_ref().map(|drop| {
                drop.with_rows(RowTable {
                    trunk_rows: wanted.len(),
                    runs: drop.rows().runs.iter().map(|run| narrow(*run, &wanted)).collect(),
                })
            })
        });
        if wanted.is_empty() || narrowed.iter().flatten().any(|branch| branch.rows().rows() == 0) {
            return Ok(None);
        }
        // the samples that attention keeps, in its order, and of each what is asked for
        let kept = match &self.drops[0] {
            Some(BranchRows::Subset(table, groups)) => Some((table, groups)),
            _ => None,
        };
        let groups = kept.map_or(&self.groups, |(_, groups)| groups);
        let samples = kept.map_or_else(|| every_sample(groups), |(table, _)| table.runs.clone());
        let samples: Vec<Run> = samples.into_iter().map(|run| narrow(run, &wanted)).collect();
        let counts: Vec<usize> = samples.iter().map(|run| run.count).collect();
        let query_rows: Vec<u32> =
            samples.iter().flat_map(|run| &wanted[run.first..run.first + run.count]).copied().collect();
        let place = |row: &u32| wanted.partition_point(|other| other < row) as u32;
        let order: Vec<u32> = asked.iter().map(place).collect();
        // one upload for these, and one for all subsets
        let table = Queries::words(groups, &counts);
        let parts = [&table, &wanted, &order, &query_rows];
        let words = parts.map(Vec::as_slice).concat();
        let uploaded = Tensor::from_slice(device, &[words.len()], &words)?;
        let mut start = 0;
        let [table, rows, order, query_rows] = parts.map(|part| {
            start += part.len();
            uploaded.slice(0, start - part.len()..start)
        });
        let keys = kept.map(|(table, _)| table);
        let tables: Vec<&RowTable> = narrowed.iter().flatten().map(BranchRows::rows).chain(keys).collect();
        let mut subsets = RowSubset::all(device, &tables)?.into_iter();
        let [attention, mlp] = on_device(&narrowed, &mut subsets);
        Ok(Some(Wanted {
            rows: rows?,
            order: order?,
            keys: subsets.next().map(|subset| subset.rows),
            groups: groups.clone(),
            query_rows: query_rows?,
            queries: Queries::new(counts, table?)?,
            attention: attention.map(BranchRows::into_rows),
            mlp,
        }))
    }
}

impl Wanted {
    /// The wanted rows of the block's output for the tokens x.
    fn through(&self, block: &Block, tape: &Tape, x: &Var) -> Result<Var> {
        let queries = block.norm_of(tape, x, "norm1", Some(&self.query_rows))?;
        let keys = block.norm_of(tape, x, "norm1", self.keys.as_ref())?;
        let qkv = linear_pair(tape, [(&queries, &block.qkv(0..1)?), (&keys, &block.qkv(1..3)?)])?;
        let y = attention_of(tape, &qkv, &self.groups, &self.queries, block.heads(), block.scale())?;
        let y = linear(tape, &y, &block.linear("attn.proj", block.width, block.width)?)?;
        let x = gather_rows(tape, x, &self.rows)?;
        let x = residual(tape, &x, &y, &block.vector("ls1.gamma")?, self.attention.as_ref())?;
        block.mlp_branch(tape, &x, self.mlp.as_ref())
    }
}

/// The rows of every sample.
fn every_sample(groups: &[SequenceGroup]) -> Vec<Run> {
    let lengths: Vec<usize> = SequenceGroup::lengths(groups).collect();
    RowTable::of_samples(&lengths, &vec![true; lengths.len()], 1.0).runs
}

/// What of a run of rows is wanted, as a run of the `wanted` rows, which ascend.
fn narrow(run: Run, wanted: &[u32]) -> Run {
    let before = |end: usize| wanted.partition_point(|row| (*row as usize) < end);
    let first = before(run.first);
    Run { first, count: before(run.first + run.count) - first, ..run }
}

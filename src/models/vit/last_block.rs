//! The last block, of which somebody reads some tokens alone: in training the class tokens, and the masked patches of
//! global crops. Keys and values are of all tokens; queries, and all that comes after attention, of those. Exact: no
//! other row reaches what is read.

use std::rc::Rc;

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::vit::block::Block;
use crate::models::vit::drop_path::BranchRows;
use crate::ops::attention::{Queries, SequenceGroup};
use crate::ops::residual::{RowSubset, RowTable};
use crate::tensor::{Device, Tensor};

/// Marks a row that is not asked for.
const ABSENT: u32 = u32::MAX;

/// The last block of a network that runs, until it is known what is asked for.
pub(super) struct LastBlock {
    pub block: Block,
    pub groups: Vec<SequenceGroup>,
    /// The rows of its attention and of its MLP branch.
    pub drops: [Option<BranchRows<RowTable>>; 2],
}

/// What the block works on where not all of its rows are asked for.
pub(super) struct Wanted {
    /// `u32`: the rows, ascending.
    pub rows: Tensor,
    /// `u32`: for each that is asked for, its place among them.
    order: Tensor,
    /// `u32`: the rows of keys, where those of some samples alone are.
    pub keys: Option<Tensor>,
    /// Their sequences.
    pub groups: Vec<SequenceGroup>,
    /// `u32`: the rows of queries.
    pub query_rows: Tensor,
    pub queries: Queries,
    /// Where attention's rows are among the wanted ones.
    pub attention: Option<RowSubset>,
    /// The same of the MLP's.
    pub mlp: Option<BranchRows>,
}

impl LastBlock {
    /// The block's output for the tokens x, and where in it the rows are that are asked for, each at most once.
    pub fn forward(self: &Rc<Self>, tape: &Tape, x: &Var, asked: &[u32]) -> Result<(Var, Tensor)> {
        let (this, device) = (self.clone(), x.value().device());
        // where nearly all are, picking them costs more than the others
        let few = 4 * asked.len() < 3 * x.value().dim(0);
        if let Some(wanted) = if few { self.wanted(device, x.value().dim(0), asked)? } else { None } {
            let wanted = Rc::new(wanted);
            let order = wanted.order.clone();
            let y = tape.segment(x, move |tape, x| this.block.forward_of(tape, x, &wanted))?;
            return Ok((y, order));
        }
        let tables: Vec<&RowTable> = self.drops.iter().flatten().map(BranchRows::rows).collect();
        let mut subsets = RowSubset::all(device, &tables)?.into_iter();
        let rows = self.drops.each_ref().map(|drop| {
            drop.as_ref().map(|d| d.with_rows(subsets.next().expect("a subset for every table")))
        });
        let y = tape.segment(x, move |tape, x| {
            this.block.forward(tape, x, &this.groups, rows.each_ref().map(Option::as_ref))
        })?;
        Ok((y, Tensor::from_slice(device, &[asked.len()], asked)?))
    }

    /// `None` where a branch would have no rows at all.
    fn wanted(&self, device: &Device, rows: usize, asked: &[u32]) -> Result<Option<Wanted>> {
        let mut wanted = asked.to_vec();
        wanted.sort_unstable();
        let mut place = vec![ABSENT; rows];
        for (i, &row) in wanted.iter().enumerate() {
            place[row as usize] = i as u32;
        }
        let narrowed = self
            .drops
            .each_ref()
            .map(|drop| drop.as_ref().map(|drop| drop.with_rows(narrow(drop.rows(), &place, wanted.len()))));
        if wanted.is_empty() || narrowed.iter().flatten().any(|branch| branch.rows().rows.is_empty()) {
            return Ok(None);
        }
        // the samples that attention keeps, in its order, and of each what is asked for
        let (keys, groups) = match &self.drops[0] {
            Some(BranchRows::Subset(table, groups)) => (Some(&table.rows), groups),
            _ => (None, &self.groups),
        };
        let is_asked = |key: usize| place[keys.map_or(key, |keys| keys[key] as usize)] != ABSENT;
        let (mut counts, mut first) = (Vec::new(), 0);
        for group in groups {
            for _ in 0..group.count {
                counts.push((first..first + group.length).filter(|key| is_asked(*key)).count());
                first += group.length;
            }
        }
        let query_rows: Vec<u32> = match &narrowed[0] {
            Some(branch) => branch.rows().rows.iter().map(|&i| wanted[i as usize]).collect(),
            None => wanted.clone(),
        };
        let order: Vec<u32> = asked.iter().map(|&row| place[row as usize]).collect();
        // one upload for all of it
        let table = Queries::words(groups, &counts);
        let no_keys = Vec::new();
        let parts = [&table, &wanted, &order, &query_rows, keys.unwrap_or(&no_keys)];
        let words = parts.map(Vec::as_slice).concat();
        let uploaded = Tensor::from_slice(device, &[words.len()], &words)?;
        let mut start = 0;
        let [table, rows, order, query_rows, kept] = parts.map(|part| {
            start += part.len();
            uploaded.slice(0, start - part.len()..start)
        });
        let tables: Vec<&RowTable> = narrowed.iter().flatten().map(BranchRows::rows).collect();
        let mut subsets = RowSubset::all(device, &tables)?.into_iter();
        let mut upload = |branch: &Option<BranchRows<RowTable>>| {
            branch.as_ref().map(|b| b.with_rows(subsets.next().expect("a subset for every table")))
        };
        Ok(Some(Wanted {
            rows: rows?,
            order: order?,
            keys: keys.map(|_| kept).transpose()?,
            groups: groups.clone(),
            query_rows: query_rows?,
            queries: Queries::new(counts, table?)?,
            attention: upload(&narrowed[0]).map(BranchRows::into_rows),
            mlp: upload(&narrowed[1]),
        }))
    }
}

/// The rows of a branch that are asked for, as rows of the `wanted` ones: those that have a place among them.
fn narrow(table: &RowTable, place: &[u32], wanted: usize) -> RowTable {
    let mut narrowed = RowTable { trunk_rows: wanted, ..RowTable::default() };
    for (&row, &scale) in table.rows.iter().zip(&table.scale) {
        if place[row as usize] != ABSENT {
            narrowed.rows.push(place[row as usize]);
            narrowed.scale.push(scale);
        }
    }
    narrowed
}

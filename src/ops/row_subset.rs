//! The rows that a residual branch works on, with stochastic depth. The rows of a sample follow each other, so a table has
//! a run for each sample, and the device makes a number for each row of them.

use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::profile;
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = shader!("row_subset.wgsl", kernels);
const WG: u32 = 64;
/// Marks a row of the trunk that the branch left out, and in a run what is not written.
pub(super) const ABSENT: u32 = u32::MAX;
/// Words of a run on the device.
const RUN_WORDS: usize = 7;

params!(ExpandParams { runs: u32, runs_offset: u32, out_offset: u32 });

fn kernel() -> Kernel {
    Kernel::new::<ExpandParams>(SHADER, "expand", vec![("WG", WG)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![kernel()]
}

/// The rows a residual branch works on.
#[derive(Clone)]
pub struct RowSubset {
    /// `u32 [branch rows]`: the row of the trunk.
    pub rows: Tensor,
    /// `u32 [trunk rows]`: the row of the branch, or `u32::MAX`.
    pub(super) inverse: Tensor,
    /// `f32 [branch rows]`: the factor s.
    pub(super) scale: Tensor,
}

/// A [`RowSubset`] on the host.
#[derive(Clone, Debug, Default)]
pub struct RowTable {
    /// Rows of the trunk.
    pub trunk_rows: usize,
    /// The branch's rows, run after run.
    pub runs: Vec<Run>,
}

/// Rows of the trunk that follow each other and have one factor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// The first.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// The factor s.
    pub factor: f32,
}

/// What is written for a run, or for a gap between them.
struct Written {
    /// The first row of the trunk, and where its like is written in `rows`.
    trunk: (usize, Option<usize>),
    /// The first row of the branch, if there is one, and where it is written in the inverse.
    branch: (Option<usize>, Option<usize>),
    /// The factor, and where it is written.
    factor: (f32, Option<usize>),
    count: usize,
}

impl Written {
    /// As the kernel reads it.
    fn words(&self) -> Result<[u32; RUN_WORDS]> {
        let word = |n: Option<usize>| match n.map(u32::try_from) {
            None => Ok(ABSENT),
            Some(Ok(n)) if n != ABSENT => Ok(n),
            Some(_) => Err(Error::shape("residual", "more rows than kernels count")),
        };
        Ok([
            word(self.trunk.1)?,
            word(self.factor.1)?,
            word(self.branch.1)?,
            word(Some(self.trunk.0))?,
            word(self.branch.0)?,
            word(Some(self.count))?,
            self.factor.0.to_bits(),
        ])
    }

    /// What the kernel does.
    fn expand(&self, out: &mut [u32]) {
        for i in 0..self.count {
            if let Some(at) = self.trunk.1 {
                out[at + i] = (self.trunk.0 + i) as u32;
            }
            if let Some(at) = self.factor.1 {
                out[at + i] = self.factor.0.to_bits();
            }
            if let Some(at) = self.branch.1 {
                out[at + i] = self.branch.0.map_or(ABSENT, |first| (first + i) as u32);
            }
        }
    }
}

/// `u32 [count]` with all of that written to it.
fn expanded(device: &Device, count: usize, all: &[Written]) -> Result<Tensor> {
    let _span = profile::operation("row_subset");
    match device {
        Device::Cpu(_) => {
            let mut words = vec![0; count];
            all.iter().for_each(|run| run.expand(&mut words));
            Tensor::from_slice(device, &[count], &words)
        }
        Device::Gpu(gpu) => {
            let mut words = Vec::with_capacity(RUN_WORDS * all.len());
            for run in all {
                words.extend(run.words()?);
            }
            let (runs, out) = (
                Tensor::from_slice(device, &[words.len()], &words)?,
                Tensor::empty(device, &[count], DType::U32)?,
            );
            let params = ExpandParams {
                runs: all.len(),
                runs_offset: runs.layout().offset,
                out_offset: out.layout().offset,
            };
            gpu.dispatch(&kernel(), &[&out, &runs], &params, gpu.caps().grid(all.len()))?;
            Ok(out)
        }
    }
}

impl RowTable {
    /// For drop path without subsets: every row, with the factor `scale` where its sample is kept, else 0.
    pub fn of_samples(rows_of_sample: &[usize], keep: &[bool], scale: f32) -> Self {
        let mut table = Self::default();
        for (&count, &keep) in rows_of_sample.iter().zip(keep) {
            table.runs.push(Run { first: table.trunk_rows, count, factor: if keep { scale } else { 0.0 } });
            table.trunk_rows += count;
        }
        table
    }

    /// Rows of the branch.
    pub fn rows(&self) -> usize {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// What is written for it at `start` of memory that holds the rows, the factors and the inverse.
    fn written(&self, start: usize, all: &mut Vec<Written>) -> Result<()> {
        let rows = self.rows();
        let (scale, inverse) = (start + rows, start + 2 * rows);
        let mut branch = 0;
        for run in &self.runs {
            all.push(Written {
                trunk: (run.first, Some(start + branch)),
                branch: (Some(branch), Some(inverse + run.first)),
                factor: (run.factor, Some(scale + branch)),
                count: run.count,
            });
            branch += run.count;
        }
        // what lies between the runs, and behind them, is absent
        let mut sorted: Vec<&Run> = self.runs.iter().filter(|run| run.count > 0).collect();
        sorted.sort_unstable_by_key(|run| run.first);
        let mut next = 0;
        for (first, end) in sorted
            .iter()
            .map(|run| (run.first, run.first + run.count))
            .chain([(self.trunk_rows, self.trunk_rows)])
        {
            if first < next || end > self.trunk_rows {
                let problem = format!("row {first} of {} is named twice or absent", self.trunk_rows);
                return Err(Error::shape("residual", problem));
            }
            if first > next {
                all.push(Written {
                    trunk: (next, None),
                    branch: (None, Some(inverse + next)),
                    factor: (0.0, None),
                    count: first - next,
                });
            }
            next = end;
        }
        Ok(())
    }
}

impl RowSubset {
    /// `rows[i]` is the trunk's row of the branch's row i, each at most once, with the factor `scale[i]`.
    pub fn new(device: &Device, trunk_rows: usize, rows: &[u32], scale: &[f32]) -> Result<Self> {
        if scale.len() != rows.len() {
            return Err(Error::shape("residual", format!("{} factors of {} rows", scale.len(), rows.len())));
        }
        let run = |(row, factor): (&u32, &f32)| Run { first: *row as usize, count: 1, factor: *factor };
        let table = RowTable { trunk_rows, runs: rows.iter().zip(scale).map(run).collect() };
        Ok(Self::all(device, &[&table])?.remove(0))
    }

    /// The subsets of all branches of a network, in one piece of memory and one upload.
    pub fn all(device: &Device, tables: &[&RowTable]) -> Result<Vec<Self>> {
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let (mut all, mut places, mut words) = (Vec::new(), Vec::new(), 0);
        for table in tables {
            let rows = table.rows();
            table.written(words, &mut all)?;
            places.push((words, rows, table.trunk_rows));
            words += 2 * rows + table.trunk_rows;
        }
        let memory = expanded(device, words, &all)?;
        let subset = |(start, rows, trunk_rows): (usize, usize, usize)| {
            let part = |from: usize, count: usize| memory.slice(0, from..from + count);
            Ok(Self {
                rows: part(start, rows)?,
                scale: part(start + rows, rows)?.reinterpreted(DType::F32),
                inverse: part(start + 2 * rows, trunk_rows)?,
            })
        };
        places.into_iter().map(subset).collect()
    }

    /// The same rows with other factors, for several branches in one upload: `runs` are numbers of rows and their
    /// factors, and each branch takes as many rows of them as there are.
    pub fn with_scales(&self, runs: &[(usize, f32)]) -> Result<Vec<Self>> {
        let (rows, count) = (self.rows.elements(), runs.iter().map(|(count, _)| count).sum::<usize>());
        if !count.is_multiple_of(rows.max(1)) {
            return Err(Error::shape("residual", format!("{count} factors of {rows} rows a branch")));
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut at = 0;
        let all: Vec<Written> = runs
            .iter()
            .map(|&(count, factor)| {
                at += count;
                Written { trunk: (0, None), branch: (None, None), factor: (factor, Some(at - count)), count }
            })
            .collect();
        let all = expanded(self.rows.device(), count, &all)?.reinterpreted(DType::F32);
        let branch = |first: usize| {
            let scale = all.slice(0, first..first + rows)?;
            Ok(Self { rows: self.rows.clone(), inverse: self.inverse.clone(), scale })
        };
        (0..count).step_by(rows).map(branch).collect()
    }
}

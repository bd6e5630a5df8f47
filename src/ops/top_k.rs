//! The k largest scores of every row of a matrix that comes in chunks of columns, with their columns: nearest
//! neighbours among more rows than fit a device, or the class of the largest logit.
//!
//! Of equal scores the first column wins, NaN counts as −∞, and both zeros are equal. Nothing is sorted on
//! the device: a row keeps its columns in their order.

use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::tensor::{DType, Device, Tensor};

const SHADER: Shader = shader!("top_k.wgsl", kernels);

/// Key of −∞.
const LOWEST: u32 = 0x007f_ffff;

params!(TopKParams {
    rows: u32,
    cols: u32,
    kept: u32,
    take: u32,
    first: u32,
    x_offset: u32,
    x_stride: u32,
    keys_offset: u32,
    index_offset: u32,
    out_keys_offset: u32,
    out_index_offset: u32,
});

/// Times that the kernel goes over its candidates, at most: 32 halvings of the range of keys, once before and twice
/// after them.
const PASSES: usize = 35;

/// Invocations of a row.
fn workgroup(caps: &Caps) -> usize {
    // barriers are what costs on a software adapter
    if caps.software { 8 } else { 256 }
}

fn kernel(caps: &Caps) -> Kernel {
    Kernel::new::<TopKParams>(SHADER, "top_k", vec![("WG", workgroup(caps) as u32)])
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    vec![kernel(caps)]
}

/// A score's bits in the order of unsigned numbers.
fn key_of(score: f32) -> u32 {
    match score.to_bits() {
        _ if score.is_nan() => LOWEST,
        _ if score == 0.0 => 1 << 31,
        bits if score < 0.0 => !bits,
        bits => bits | 1 << 31,
    }
}

/// The score that [`key_of`] gives `key` for.
fn score_of(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// A score and the column it was found in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// The score; −∞ for NaN.
    pub score: f32,
    /// The column, counted over all chunks.
    pub column: u32,
}

/// The largest scores of every row so far.
pub struct TopK {
    k: usize,
    /// `u32 [rows, kept]`: their keys.
    keys: Tensor,
    /// `u32 [rows, kept]`: their columns, ascending.
    columns: Tensor,
}

impl TopK {
    /// Room for the `k` (at least 1) largest scores of each of `rows` rows.
    pub fn new(device: &Device, rows: usize, k: usize) -> Result<Self> {
        if k == 0 {
            return Err(Error::shape("top_k", "the largest 0 scores were asked for; at least 1 is needed"));
        }
        let none = || Tensor::empty(device, &[rows, 0], DType::U32);
        Ok(Self { k, keys: none()?, columns: none()? })
    }

    /// Takes in `scores` `[rows, n]`, the columns from `first` on. Chunks come in the order of their columns.
    pub fn add(&mut self, scores: &Tensor, first: usize) -> Result<()> {
        let x = scores.rows("top_k")?;
        let (rows, kept) = (self.keys.dim(0), self.keys.dim(1));
        if scores.shape().len() != 2 || x.rows != rows || scores.dtype() != DType::F32 {
            return Err(Error::shape("top_k", format!("scores {scores:?} for {rows} rows")));
        }
        if rows == 0 || x.cols == 0 {
            return Ok(());
        }
        if let Device::Gpu(gpu) = scores.device()
            && let Some(rounds) = gpu.caps().loop_rounds()
        {
            let most = (rounds / PASSES - 1) * workgroup(gpu.caps());
            let most = most.saturating_sub(self.k).max(1);
            if x.cols > most {
                let chunks = (0..x.cols).step_by(most).map(|start| start..x.cols.min(start + most));
                return chunks.into_iter().try_for_each(|columns| {
                    self.add(&scores.slice(1, columns.clone())?, first + columns.start)
                });
            }
        }
        let take = self.k.min(kept + x.cols);
        let device = scores.device();
        let keys = Tensor::empty(device, &[rows, take], DType::U32)?;
        let columns = Tensor::empty(device, &[rows, take], DType::U32)?;
        match device {
            Device::Cpu(_) => {
                let (scores, old) = (
                    &*scores.cpu_read::<f32>("top_k")?,
                    (&*self.keys.cpu_read::<u32>("top_k")?, &*self.columns.cpu_read::<u32>("top_k")?),
                );
                for_rows(
                    (
                        keys.cpu_rows_mut::<u32>("top_k")?.rows_mut(),
                        columns.cpu_rows_mut::<u32>("top_k")?.rows_mut(),
                    ),
                    #[inline(always)]
                    |_, r, (keys, columns)| {
                        let kept = r * kept..(r + 1) * kept;
                        let scores = &scores[r * x.stride..][..x.cols];
                        merge((&old.0[kept.clone()], &old.1[kept]), scores, first, (keys, columns));
                    },
                );
            }
            Device::Gpu(gpu) => {
                let params = TopKParams {
                    rows,
                    cols: x.cols,
                    kept,
                    take,
                    first,
                    x_offset: x.offset,
                    x_stride: x.stride,
                    keys_offset: self.keys.layout().offset,
                    index_offset: self.columns.layout().offset,
                    out_keys_offset: keys.layout().offset,
                    out_index_offset: columns.layout().offset,
                };
                let tensors = [&keys, &columns, &self.keys, &self.columns, scores];
                gpu.dispatch(&kernel(gpu.caps()), &tensors, &params, gpu.caps().grid(rows))?;
            }
        }
        (self.keys, self.columns) = (keys, columns);
        Ok(())
    }

    /// What every row has kept: keys (scores in the order of unsigned numbers) and columns, `u32 [rows,
    /// kept]` each, in the order of the columns.
    pub fn kept(&self) -> (&Tensor, &Tensor) {
        (&self.keys, &self.columns)
    }

    /// What every row has kept, the largest score first, of equal ones the first column.
    pub fn sorted(&self) -> Result<Vec<Vec<Scored>>> {
        let kept = self.keys.dim(1);
        let (keys, columns) = (self.keys.to_vec::<u32>()?, self.columns.to_vec::<u32>()?);
        let row = |r: usize| {
            let of = |all: &[u32]| all[r * kept..][..kept].to_vec();
            let mut row: Vec<(u32, u32)> = of(&keys).into_iter().zip(of(&columns)).collect();
            row.sort_unstable_by(larger_first);
            row.into_iter().map(|(key, column)| Scored { score: score_of(key), column }).collect()
        };
        Ok((0..self.keys.dim(0)).map(row).collect())
    }
}

/// Larger keys before smaller ones, of equal ones the first column.
fn larger_first(a: &(u32, u32), b: &(u32, u32)) -> std::cmp::Ordering {
    b.0.cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The `out.0.len()` largest of the kept (keys, columns) and of `scores`, in the order of their columns.
fn merge(kept: (&[u32], &[u32]), scores: &[f32], first: usize, out: (&mut [u32], &mut [u32])) {
    let take = out.0.len();
    // once enough is kept, only what is larger than the smallest of it can come in; no key is zero
    let limit = if kept.0.len() == take { kept.0.iter().copied().min().unwrap_or(0) } else { 0 };
    let mut all: Vec<(u32, u32)> = kept.0.iter().copied().zip(kept.1.iter().copied()).collect();
    let new = scores.iter().enumerate().map(|(c, score)| (key_of(*score), (first + c) as u32));
    all.extend(new.filter(|(key, _)| *key > limit));
    if all.len() > take {
        all.select_nth_unstable_by(take - 1, larger_first);
        all.truncate(take);
        all.sort_unstable_by_key(|(_, column)| *column);
    }
    for ((key, column), from) in out.0.iter_mut().zip(out.1).zip(all) {
        (*key, *column) = from;
    }
}

/// The column of the largest score of every row of `scores` `[rows, n]`, the first of equal ones, on the
/// host.
pub fn argmax(scores: &Tensor) -> Result<Vec<u32>> {
    let mut largest = TopK::new(scores.device(), scores.rows("top_k")?.rows, 1)?;
    largest.add(scores, 0)?;
    largest.kept().1.to_vec()
}

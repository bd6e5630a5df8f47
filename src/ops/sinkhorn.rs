//! Targets from the teacher's logits: Sinkhorn-Knopp, or centring, of a matrix that is never copied.
//!
//! The teacher's logits l `[R, K]` of one head stay where they are, in chunks of rows that fit a binding. The
//! targets are p = exp(l/τ + a_i + b_j) with one number a row and one a column, so an iteration is one pass
//! over the columns (b) and one over the rows (a), each a log-sum-exp with a running maximum: nothing
//! overflows or vanishes whatever the logits. On the CPU a row pass and the column pass after it read the
//! matrix once. Rows sum to one after the row pass. Source: poa-facts "Targets and losses"; the order of the
//! rows does not matter, so the swap of the two views is left to the index tables of the losses.
//!
//! a is kept as the sum of two f32, and so is 1/τ: their rounding would be a common factor of a whole row.
//! Relative error of p with |l/τ| up to 20: 1e-6.

use std::ops::Range;

use rayon::prelude::*;

use crate::cpu::math::Math;
use crate::cpu::{Arch, math, par_parts};
use crate::error::{Error, Result};
use crate::gpu::{Caps, GpuDevice, Kernel, Shader, params, shader};
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::ops::reduce::column_sum;
use crate::ops::rows::{RowPlan, Team, long_plan, long_plans};
use crate::profile;
use crate::tensor::{self, DType, Device, ELEMENT_BYTES, PendingRead, Rows, Tensor, vec4_aligned};

const SHADER: Shader = shader!("sinkhorn.wgsl", kernels);

params!(SinkhornParams {
    rows: u32,
    cols: u32,
    x_offset: u32,
    x_stride: u32,
    a_offset: u32,
    b_offset: u32,
    parts_offset: u32,
    strip: u32,
    strips: u32,
    first_strip: u32,
    inverse: f32,
    inverse_low: f32,
});

/// Columns, or vectors of four columns, of a workgroup of the column pass.
const COLUMNS: u32 = 64;
/// Rows of a strip of the column pass at least, on a GPU and on the CPU, and strips at most.
const STRIP: usize = 16;
const CPU_STRIP: usize = 8;
const STRIPS: usize = 64;
/// Columns that a core takes at a time, and elements of a row that are summed by themselves.
const COLUMN_BLOCK: usize = 1024;
const ROW_BLOCK: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Columns,
    Merge,
    /// The merge of columns that other ranks have rows of.
    OpenMerge,
    Rows,
    Entropy,
}

fn kernel(pass: Pass, plan: RowPlan) -> Kernel {
    let (entry, define) = match pass {
        Pass::Columns => ("columns", "COLUMN_PASS"),
        Pass::Merge | Pass::OpenMerge => ("merge", "MERGE_PASS"),
        Pass::Rows => ("rows", "ROW_PASS"),
        Pass::Entropy => ("entropy", "ENTROPY_PASS"),
    };
    let mut defines = plan.defines();
    defines.push((define, 1));
    defines.extend((pass == Pass::OpenMerge).then_some(("OPEN", 1)));
    Kernel::new::<SinkhornParams>(SHADER, entry, defines)
}

/// How the passes by column go about them: an invocation a unit.
fn columns(vec4: bool) -> RowPlan {
    RowPlan { team: Team::Alone(COLUMNS), vec4, keep: 0, exact: false }
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let mut all = vec![
        kernel(Pass::Columns, columns(false)),
        kernel(Pass::Columns, columns(true)),
        kernel(Pass::Merge, columns(false)),
        kernel(Pass::OpenMerge, columns(false)),
    ];
    for plan in long_plans(caps) {
        all.extend([Pass::Rows, Pass::Entropy].map(|pass| kernel(pass, plan)));
    }
    all
}

/// Operations of exp(l/τ + a + b).
pub(super) const TERM: f64 = profile::EXPONENTIAL + 10.0;

/// A number as the sum of two f32.
fn split(x: f64) -> (f32, f32) {
    (x as f32, (x - x as f32 as f64) as f32)
}

/// 1/τ as the sum of two f32, the first with 12 significant bits (see shaders/include/targets.wgsl).
pub(crate) fn inverse_temperature(temperature: f64) -> (f32, f32) {
    let inverse = 1.0 / temperature;
    let head = f32::from_bits((inverse as f32).to_bits() & 0xffff_f000);
    (head, (inverse - head as f64) as f32)
}

/// l/τ + offset as the sum of two f32, of which the first is rounded at its own size and the second is small;
/// the offset is a sum of two as well. The same as in shaders/include/targets.wgsl.
#[inline(always)]
pub(crate) fn over_temperature(
    math: Math,
    l: f32,
    (inverse, low): (f32, f32),
    offset: f32,
    offset_low: f32,
) -> (f32, f32) {
    let head = f32::from_bits(l.to_bits() & 0xffff_f000);
    (math.mul_add(head, inverse, offset), math.mul_add(l - head, inverse, math.mul_add(l, low, offset_low)))
}

/// The targets of one head for R rows: `p[i, j] = exp(l[i, j]/τ + a[i] + b[j])`, never stored.
pub struct Targets {
    logits: Vec<Tensor>,
    /// First row of every chunk, and R.
    firsts: Vec<usize>,
    row_scale: Tensor,
    column_scale: Tensor,
    temperature: f64,
}

impl Targets {
    /// Rows of all chunks.
    pub fn rows(&self) -> usize {
        self.firsts[self.logits.len()]
    }

    /// Prototypes, the length of a row.
    pub fn prototypes(&self) -> usize {
        self.column_scale.elements()
    }

    /// The teacher's logits, `[rows, K]` each.
    pub fn logits(&self) -> &[Tensor] {
        &self.logits
    }

    /// First row of every chunk, and R.
    pub fn chunk_starts(&self) -> &[usize] {
        &self.firsts
    }

    /// The chunk that `row` lies in.
    pub fn chunk_of(&self, row: usize) -> Result<usize> {
        match self.firsts.partition_point(|&first| first <= row) {
            at if row < self.rows() => Ok(at - 1),
            _ => Err(Error::shape("targets", format!("row {row} of {}", self.rows()))),
        }
    }

    /// a `[R, 2]`: the two parts of the logarithm of every row's factor.
    pub fn row_scale(&self) -> &Tensor {
        &self.row_scale
    }

    /// b `[K]`: the logarithm of every column's factor.
    pub fn column_scale(&self) -> &Tensor {
        &self.column_scale
    }

    /// τ.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// All probabilities `[R, K]` on the host, for tests and figures.
    pub fn to_vec(&self) -> Result<Vec<f64>> {
        let (a, b) = (self.row_scale.to_vec::<f32>()?, self.column_scale.to_vec::<f32>()?);
        let mut all = Vec::new();
        for chunk in &self.logits {
            for (j, l) in chunk.to_vec::<f32>()?.into_iter().enumerate() {
                let (i, j) = ((all.len() / b.len()), j % b.len());
                let a = a[2 * i] as f64 + a[2 * i + 1] as f64;
                all.push((l as f64 / self.temperature + a + b[j] as f64).exp());
            }
        }
        Ok(all)
    }

    /// H_i = −Σ_j p_ij log p_ij, `[R]`, in nats: how much the targets leave open. ln K is uniform, 0 is
    /// certain.
    pub fn entropy(&self) -> Result<Tensor> {
        let out = Tensor::empty(self.device(), &[self.rows()], DType::F32)?;
        for (chunk, range) in self.logits.iter().zip(self.firsts.windows(2)) {
            let x = chunk.rows("entropy")?;
            let a = self.row_scale.slice(0, range[0]..range[1])?;
            let out = out.slice(0, range[0]..range[1])?;
            match self.device() {
                Device::Cpu(_) => {
                    let (l, a, b) = (
                        &*chunk.cpu_read::<f32>("sinkhorn")?,
                        &*a.cpu_read::<f32>("sinkhorn")?,
                        &*self.column_scale.cpu_read::<f32>("sinkhorn")?,
                    );
                    let (inverse, arch) = (inverse_temperature(self.temperature), Arch::get());
                    out.cpu_write::<f32>("sinkhorn")?.par_iter_mut().enumerate().for_each(|(i, out)| {
                        let row = &l[i * x.stride..][..x.cols];
                        let a = (a[2 * i], a[2 * i + 1]);
                        *out = arch.run(
                            #[inline(always)]
                            |math| row_entropy(math, row, b, inverse, a),
                        ) as f32;
                    });
                }
                Device::Gpu(gpu) => {
                    let params = SinkhornParams {
                        a_offset: a.layout().offset,
                        parts_offset: out.layout().offset,
                        ..self.params(x)
                    };
                    let tensors = [&out, chunk, &self.column_scale, &self.row_scale];
                    let plan = long_plan(x.cols, vec4_aligned(&[x], &[&self.column_scale]), gpu.caps());
                    gpu.dispatch(&kernel(Pass::Entropy, plan), &tensors, &params, gpu.caps().grid(x.rows))?;
                }
            }
        }
        Ok(out)
    }

    pub(super) fn new(logits: Vec<Tensor>, temperature: f64) -> Result<Self> {
        let bad = |what: String| Error::shape("targets", what);
        let Some(first) = logits.first() else { return Err(bad("no logits".into())) };
        let (device, prototypes) = (first.device().clone(), first.shape().last().copied().unwrap_or(0));
        let mut firsts = vec![0];
        for chunk in &logits {
            let r = chunk.rows("targets")?;
            if chunk.shape().len() != 2 || r.cols != prototypes || prototypes == 0 {
                return Err(bad(format!("a chunk {chunk:?} beside {first:?}")));
            }
            firsts.push(firsts[firsts.len() - 1] + r.rows);
        }
        if temperature.is_nan() || temperature <= 0.0 {
            return Err(bad(format!("temperature {temperature}")));
        }
        let row_scale = Tensor::zeros(&device, &[firsts[logits.len()], 2], DType::F32)?;
        let column_scale = Tensor::zeros(&device, &[prototypes], DType::F32)?;
        Ok(Self { logits, firsts, row_scale, column_scale, temperature })
    }

    fn device(&self) -> &Device {
        self.column_scale.device()
    }

    fn params(&self, x: Rows) -> SinkhornParams {
        let (inverse, inverse_low) = inverse_temperature(self.temperature);
        SinkhornParams {
            rows: x.rows,
            cols: x.cols,
            x_offset: x.offset,
            x_stride: x.stride,
            a_offset: self.row_scale.layout().offset,
            b_offset: self.column_scale.layout().offset,
            inverse,
            inverse_low,
            ..Default::default()
        }
    }

    /// b[j] = LSE_i(l[i, 0]/τ + a) − LSE_i(l[i, j]/τ + a): every column has the same sum. Which one does not
    /// matter, as the row pass follows; relative to a column of its own kind b is small and rounds little.
    fn column_pass(&self) -> Result<()> {
        match self.device() {
            Device::Cpu(_) => self.set_columns(&self.column_sums_cpu()?),
            Device::Gpu(gpu) => {
                let parts = self.column_parts(gpu)?;
                self.merge(gpu, Pass::Merge, &parts, &self.column_scale)
            }
        }
    }

    /// LSE_i(l[i, j]/τ + a) of every column's rows here, on its way to the host.
    pub(super) fn column_sums(&self) -> Result<ColumnSums> {
        match self.device() {
            Device::Cpu(_) => Ok(ColumnSums::Known(self.column_sums_cpu()?)),
            Device::Gpu(gpu) => {
                let parts = self.column_parts(gpu)?;
                let sums = Tensor::empty(self.device(), &[2, self.prototypes()], DType::F32)?;
                self.merge(gpu, Pass::OpenMerge, &parts, &sums)?;
                Ok(ColumnSums::Coming(sums.read_later()?))
            }
        }
    }

    /// The row pass, and then what [`Self::column_sums`] gives.
    pub(super) fn rows_and_column_sums(&self) -> Result<ColumnSums> {
        match self.device() {
            Device::Cpu(_) => Ok(ColumnSums::Known(self.row_pass_cpu(true)?)),
            Device::Gpu(_) => {
                self.row_pass()?;
                self.column_sums()
            }
        }
    }

    /// b for columns with these log-sum-exps; see [`Self::column_pass`].
    pub(super) fn set_columns(&self, sums: &[f64]) -> Result<()> {
        let scales: Vec<f32> = sums.iter().map(|own| (sums[0] - own) as f32).collect();
        self.column_scale.upload(&scales)
    }

    /// Maximum, and sum relative to it, of every strip of rows `[strips, 2, K]`.
    fn column_parts(&self, gpu: &GpuDevice) -> Result<Tensor> {
        let strip = STRIP.max(self.rows().div_ceil(STRIPS));
        let strips: usize = self.firsts.windows(2).map(|w| (w[1] - w[0]).div_ceil(strip)).sum();
        let k = self.prototypes();
        let parts = Tensor::empty(self.device(), &[strips, 2, k], DType::F32)?;
        let mut at = 0;
        for (chunk, first) in self.logits.iter().zip(&self.firsts) {
            let x = chunk.rows("sinkhorn")?;
            let own = self.params(x);
            let count = x.rows.div_ceil(strip);
            let params = SinkhornParams {
                a_offset: own.a_offset + 2 * *first,
                parts_offset: parts.layout().offset,
                strip,
                strips,
                first_strip: at,
                ..own
            };
            let vec4 = vec4_aligned(&[x], &[&parts]);
            let units = if vec4 { k / 4 } else { k };
            let grid = [units.div_ceil(COLUMNS as usize), count, 1];
            let tensors = [&parts, chunk, &self.row_scale];
            profile::flops(TERM * (x.rows * x.cols) as f64);
            gpu.dispatch(&kernel(Pass::Columns, columns(vec4)), &tensors, &params, grid)?;
            at += count;
        }
        Ok(parts)
    }

    fn merge(&self, gpu: &GpuDevice, pass: Pass, parts: &Tensor, to: &Tensor) -> Result<()> {
        let k = self.prototypes();
        let params = SinkhornParams {
            cols: k,
            b_offset: to.layout().offset,
            parts_offset: parts.layout().offset,
            strips: parts.dim(0),
            ..Default::default()
        };
        let grid = [k.div_ceil(COLUMNS as usize), 1, 1];
        gpu.dispatch(&kernel(pass, columns(false)), &[to, parts], &params, grid)
    }

    /// LSE_i(l/τ + a) of every column.
    fn column_sums_cpu(&self) -> Result<Vec<f64>> {
        const BLOCK: usize = COLUMN_BLOCK;
        const GROUP: usize = 8;
        profile::flops(TERM * (self.rows() * self.prototypes()) as f64);
        let chunks: Vec<_> = self
            .logits
            .iter()
            .zip(&self.firsts)
            .map(|(t, first)| Ok((t.cpu_read::<f32>("sinkhorn")?, t.rows("sinkhorn")?, *first)))
            .collect::<Result<_>>()?;
        let a = &*self.row_scale.cpu_read::<f32>("sinkhorn")?;
        let (inverse, arch) = (inverse_temperature(self.temperature), Arch::get());
        let mut lse = vec![0.0f64; self.prototypes()];
        lse.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
            arch.run(
                #[inline(always)]
                |math| {
                    let n = out.len();
                    let (mut max, mut sum) = ([f32::MIN; BLOCK], [0.0f32; BLOCK]);
                    for (x, rows, first) in &chunks {
                        for start in (0..rows.rows).step_by(GROUP) {
                            let group = start..(start + GROUP).min(rows.rows);
                            let row = |i: usize| {
                                let i_all = 2 * (first + i);
                                (&x[i * rows.stride + block * BLOCK..][..n], a[i_all], a[i_all + 1])
                            };
                            let mut higher = max;
                            for i in group.clone() {
                                let (l, a, _) = row(i);
                                for (h, l) in higher.iter_mut().zip(l) {
                                    let v = over_temperature(math, *l, inverse, a, 0.0).0;
                                    *h = if v > *h { v } else { *h };
                                }
                            }
                            let mut part = [0.0f32; BLOCK];
                            for i in group {
                                let (l, a, a_low) = row(i);
                                for ((p, h), l) in part.iter_mut().zip(&higher).zip(l) {
                                    let (x, y) = over_temperature(math, *l, inverse, a, a_low);
                                    *p += math.exp((x - h) + y);
                                }
                            }
                            for c in 0..BLOCK {
                                sum[c] = sum[c] * math.exp(max[c] - higher[c]) + part[c];
                            }
                            max = higher;
                        }
                    }
                    for ((lse, m), s) in out.iter_mut().zip(&max).zip(&sum) {
                        *lse = *m as f64 + (*s as f64).ln();
                    }
                },
            );
        });
        Ok(lse)
    }

    /// a[i] = −LSE_j(l/τ + b): every row sums to one.
    pub(super) fn row_pass(&self) -> Result<()> {
        let Device::Gpu(gpu) = self.device() else { return self.row_pass_cpu(false).map(|_| ()) };
        for (chunk, range) in self.logits.iter().zip(self.firsts.windows(2)) {
            let x = chunk.rows("sinkhorn")?;
            let a = self.row_scale.slice(0, range[0]..range[1])?;
            let params = SinkhornParams { a_offset: a.layout().offset, ..self.params(x) };
            let tensors = [&self.row_scale, chunk, &self.column_scale];
            let plan = long_plan(x.cols, vec4_aligned(&[x], &[&self.column_scale]), gpu.caps());
            profile::flops(TERM * (x.rows * x.cols) as f64);
            gpu.dispatch(&kernel(Pass::Rows, plan), &tensors, &params, gpu.caps().grid(x.rows))?;
        }
        Ok(())
    }

    /// The row pass, and where asked for the columns' log-sum-exps at once: a column's sum of probabilities, for
    /// which the exponentials of the row pass do. Columns were equal before it and no row's factor can be
    /// less than 1/K of the others', so no sum over all ranks vanishes; one that does here counts little there.
    fn row_pass_cpu(&self, columns: bool) -> Result<Vec<f64>> {
        let k = self.prototypes();
        profile::flops(TERM * (self.rows() * k) as f64);
        let (inverse, arch) = (inverse_temperature(self.temperature), Arch::get());
        let column_scale = self.column_scale.cpu_read::<f32>("sinkhorn")?;
        let b = &*column_scale;
        let chunks: Vec<_> =
            self.logits.iter().map(|t| t.cpu_rows::<f32>("sinkhorn")).collect::<Result<_>>()?;
        // each a chunk and its first row; where they start in all rows
        let strip = CPU_STRIP.max(self.rows().div_ceil(STRIPS));
        let (mut strips, mut cuts) = (Vec::new(), vec![0]);
        for (chunk, range) in chunks.iter().zip(self.firsts.windows(2)) {
            for start in (range[0]..range[1]).step_by(strip) {
                strips.push((chunk, start - range[0]));
                cuts.push((start + strip).min(range[1]));
            }
        }
        let mut row_scale = self.row_scale.cpu_rows_mut::<f32>("sinkhorn")?;
        let parts: Vec<Vec<f32>> = par_parts(row_scale.rows_mut().tiles(cuts, 2))
            .map_init(
                || vec![0.0f32; k],
                |e, (strip, mut a)| {
                    let (chunk, first) = strips[strip];
                    arch.run(
                        #[inline(always)]
                        |math| {
                            let mut sums = vec![0.0f32; if columns { k } else { 0 }];
                            for i in 0..a.count() {
                                let l = chunk.row(first + i);
                                let (max, sum) = row_exponentials(math, l, b, inverse, e);
                                let a = a.row(i);
                                (a[0], a[1]) = split(-(max as f64 + sum.ln()));
                                let share = (1.0 / sum) as f32;
                                sums.iter_mut()
                                    .zip(e.iter())
                                    .for_each(|(s, e)| *s = math.mul_add(*e, share, *s));
                            }
                            sums
                        },
                    )
                },
            )
            .collect();
        drop(column_scale);
        if columns { self.sums_of_columns(&parts) } else { Ok(Vec::new()) }
    }

    /// LSE_i(l/τ + a) of columns whose probabilities add up to the sum of `parts`: that sum's logarithm without b[j].
    fn sums_of_columns(&self, parts: &[Vec<f32>]) -> Result<Vec<f64>> {
        let (b, arch) = (&*self.column_scale.cpu_read::<f32>("sinkhorn")?, Arch::get());
        let mut all = vec![0.0f64; b.len()];
        all.par_chunks_mut(COLUMN_BLOCK).zip(b.par_chunks(COLUMN_BLOCK)).enumerate().for_each(
            |(block, (all, b))| {
                arch.run(
                    #[inline(always)]
                    |_| {
                        for part in parts {
                            let own = &part[block * COLUMN_BLOCK..][..b.len()];
                            all.iter_mut().zip(own).for_each(|(s, p)| *s += *p as f64);
                        }
                        all.iter_mut().zip(b).for_each(|(s, b)| *s = s.ln() - *b as f64);
                    },
                );
            },
        );
        Ok(all)
    }
}

/// Columns' log-sum-exps, known or on their way.
pub(super) enum ColumnSums {
    Known(Vec<f64>),
    /// Their two parts, `[2, K]`.
    Coming(PendingRead),
}

impl ColumnSums {
    /// Waits for them.
    pub(super) fn wait(self) -> Result<Vec<f64>> {
        Ok(match self {
            Self::Known(sums) => sums,
            Self::Coming(parts) => {
                let parts = parts.wait()?;
                let (high, low) = parts.split_at(parts.len() / 2);
                high.iter().zip(low).map(|(high, low)| f64::from(*high) + f64::from(*low)).collect()
            }
        })
    }
}

/// e[j] = exp(l_j/τ + b_j − m) with m the largest; m, and the sum of e.
#[inline(always)]
fn row_exponentials(math: Math, l: &[f32], b: &[f32], inverse: (f32, f32), e: &mut [f32]) -> (f32, f64) {
    let max = math::max_of([l, b], |[l, b]| math.mul_add(l, inverse.0, b));
    let mut sum = 0.0;
    for (e, (l, b)) in e.chunks_mut(ROW_BLOCK).zip(l.chunks(ROW_BLOCK).zip(b.chunks(ROW_BLOCK))) {
        for (e, (l, b)) in e.iter_mut().zip(l.iter().zip(b)) {
            // l/τ − m first: near the maximum it is small, so adding b rounds little
            let (x, y) = over_temperature(math, *l, inverse, -max, *b);
            *e = math.exp(x + y);
        }
        sum += math::sum_of([e], |[e]| e) as f64;
    }
    (max, sum)
}

/// −Σ_j p_j log p_j with log p_j = l_j/τ + a + b_j.
#[inline(always)]
fn row_entropy(math: Math, l: &[f32], b: &[f32], inverse: (f32, f32), (a, a_low): (f32, f32)) -> f64 {
    let mut sum = 0.0;
    for (l, b) in l.chunks(ROW_BLOCK).zip(b.chunks(ROW_BLOCK)) {
        let term = |[l, b]: [f32; 2]| {
            let (x, y) = over_temperature(math, l, inverse, a, a_low + b);
            (x + y) * math.exp(x + y)
        };
        sum -= math::sum_of([l, b], term) as f64;
    }
    sum
}

/// Sinkhorn-Knopp: `iterations` times every column to one common sum, then every row to 1. `logits` are
/// chunks `[rows, K]` of one matrix.
pub fn sinkhorn(logits: Vec<Tensor>, temperature: f64, iterations: usize) -> Result<Targets> {
    let _span = profile::operation("sinkhorn");
    let targets = Targets::new(logits, temperature)?;
    if targets.rows() == 0 {
        return Ok(targets);
    }
    if iterations > 0 {
        targets.column_pass()?;
    }
    for _ in 1..iterations {
        match targets.device() {
            Device::Cpu(_) => targets.set_columns(&targets.row_pass_cpu(true)?)?,
            Device::Gpu(_) => {
                targets.row_pass()?;
                targets.column_pass()?;
            }
        }
    }
    targets.row_pass()?;
    Ok(targets)
}

/// Centring: every row is softmax((l − c)/τ) with the centre c `[K]`.
pub fn centering(logits: Vec<Tensor>, center: &Tensor, temperature: f64) -> Result<Targets> {
    let _span = profile::operation("centering");
    let targets = Targets::new(logits, temperature)?;
    if center.shape() != targets.column_scale.shape() {
        return Err(Error::shape(
            "centering",
            format!("centre {center:?} of {} prototypes", targets.prototypes()),
        ));
    }
    tensor::scale(&targets.column_scale, center, (-1.0 / temperature) as f32)?;
    targets.row_pass()?;
    Ok(targets)
}

/// The centre's moving average, after it was used: c ← momentum·c + (1 − momentum)·mean over all rows of
/// `logits`.
pub fn update_center(center: &Tensor, logits: &[Tensor], momentum: f32) -> Result<()> {
    let rows: usize = logits.iter().map(|t| t.dim(0)).sum();
    if rows == 0 {
        return Ok(());
    }
    let moved = Tensor::empty(center.device(), center.shape(), DType::F32)?;
    tensor::scale(&moved, center, momentum)?;
    for chunk in logits {
        column_sum(chunk, &moved, (1.0 - momentum) / rows as f32, true)?;
    }
    tensor::copy(center, &moved)
}

/// Even ranges of `rows` rows of `prototypes` elements that `device` can bind as one tensor.
pub fn row_chunks(rows: usize, prototypes: usize, device: &Device) -> Vec<Range<usize>> {
    even_ranges(0..rows, device.max_tensor_bytes() / (prototypes * ELEMENT_BYTES).max(1))
}

/// Cuts a range into as few even parts of at most `limit` as possible.
pub(crate) fn even_ranges(range: Range<usize>, limit: usize) -> Vec<Range<usize>> {
    let parts = range.len().div_ceil(limit.max(1)).max(1);
    let size = range.len().div_ceil(parts);
    let at = |i: usize| (range.start + i * size).min(range.end);
    (0..parts).map(|i| at(i)..at(i + 1)).collect()
}

/// The teacher's logits z·Wᵀ for features z `[R, D]` and an effective weight `[K, D]`, in chunks of rows.
pub fn teacher_logits(z: &Tensor, weight: &Tensor) -> Result<Vec<Tensor>> {
    let (device, prototypes) = (z.device(), weight.dim(0));
    row_chunks(z.dim(0), prototypes, device)
        .into_iter()
        .map(|range| {
            let out = Tensor::empty(device, &[range.len(), prototypes], DType::F32)?;
            let weight = Matrix::new(weight)?.t();
            matmul(&Matrix::new(&z.slice(0, range)?)?, &weight, &Matrix::new(&out)?, &Options::default())?;
            Ok(out)
        })
        .collect()
}

//! The loss of one projection head, from the bottleneck features of both students to one number: prototypes
//! with weight norm, cross-entropy against the teacher's targets, distillation from the intact into the
//! elastic student.
//!
//! The logits never exist as a whole. Rows are taken in pieces whose logits fit a budget; for each piece
//!   logits = z·Wᵀ for both students, cross-entropy of the elastic one (its partner: the intact logits), then
//!     of the
//!   intact one, both leaving the gradient ds in place of the logits, dz = ds·W, dW += dsᵀ·z.
//! So gradients are computed on the way forward, for a cotangent of one, and multiplied by the real one on
//! the way back. The pieces and the order of all sums depend on shapes alone.
//!
//! In mixed precision the products take halves: z, W and ds, whose small numbers are multiplied by the loss
//! scale on the way. Logits, losses and gradients stay in single precision.

use std::ops::Range;

use crate::autograd::{Tape, Var};
use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::ops::cross_entropy::{CrossEntropy, NO_TARGET, RowTargets, row_table};
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::ops::sinkhorn::{Targets, even_ranges};
use crate::ops::weight_norm;
use crate::profile;
use crate::tensor::{DType, Device, ELEMENT_BYTES, Tensor, WG, convert, to_type};

const SHADER: Shader = shader!("prototype_loss.wgsl", kernels);

params!(TotalParams { rows: u32, loss_offset: u32, table_offset: u32, out_offset: u32, accumulate: bool });
params!(ScaleByParams {
    count: u32,
    cols: u32,
    out_offset: u32,
    out_stride: u32,
    a_offset: u32,
    a_stride: u32,
    factor_offset: u32,
    accumulate: bool,
});

fn total_kernel() -> Kernel {
    Kernel::new::<TotalParams>(SHADER, "total", vec![("WG", WG), ("TOTAL", 1)])
}

fn scale_by_kernel() -> Kernel {
    Kernel::new::<ScaleByParams>(SHADER, "scale_by", vec![("WG", WG), ("SCALE_BY", 1)])
}

/// All variants.
pub fn kernels(_: &Caps) -> Vec<Kernel> {
    vec![total_kernel(), scale_by_kernel()]
}

/// One row of features: which rows of its segment's targets it is compared with, and what each loss counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossRow {
    /// Up to two target rows, or [`NO_TARGET`].
    pub targets: [u32; 2],
    /// Weight of the intact student's view loss.
    pub intact: f32,
    /// Weight of the elastic student's view loss.
    pub elastic: f32,
    /// Weight of the distillation loss.
    pub distill: f32,
}

/// The rows of a step, on the host and on the device; the same for all heads.
pub struct LossRows {
    rows: Vec<LossRow>,
    intact: Tensor,
    elastic: Tensor,
}

impl LossRows {
    /// Uploads the tables.
    pub fn new(device: &Device, rows: Vec<LossRow>) -> Result<Self> {
        let table = |f: &dyn Fn(&LossRow) -> (f32, f32)| {
            let all: Vec<RowTargets> = rows
                .iter()
                .map(|r| (r.targets, f(r)))
                .map(|(rows, (weight, distill))| RowTargets { rows, weight, distill })
                .collect();
            row_table(device, &all)
        };
        let intact = table(&|r| (r.intact, 0.0))?;
        let elastic = table(&|r| (r.elastic, r.distill))?;
        Ok(Self { rows, intact, elastic })
    }

    /// The rows.
    pub fn rows(&self) -> &[LossRow] {
        &self.rows
    }
}

/// Rows that share their targets: those of the cls tokens, or of the masked patches.
pub struct Segment<'a> {
    /// Which rows.
    pub rows: Range<usize>,
    /// What the rows' target numbers count in.
    pub targets: &'a Targets,
    /// Whether the elastic student is distilled from the intact one here.
    pub distill: bool,
}

/// One head's part of a step. Features are `[rows, D]`, laid out in the same way for both students.
pub struct PrototypeLoss<'a> {
    /// The intact student's bottleneck features, L2-normalised.
    pub intact: &'a Var,
    /// The elastic student's, where there is one.
    pub elastic: Option<&'a Var>,
    /// Directions of the prototypes, `[K, D]`.
    pub v: &'a Var,
    /// Their lengths, `[K, 1]`.
    pub g: &'a Var,
    /// What every row is compared with and how much it counts.
    pub rows: &'a LossRows,
    /// The targets; segments need not cover all rows.
    pub segments: &'a [Segment<'a>],
    /// τs.
    pub temperature: f64,
    /// Bytes that the logits of one student may take at a time; two such buffers live. `None`: what suits the
    /// device.
    pub budget: Option<usize>,
    /// In mixed precision, on a GPU, the loss scale, one element: gradients come multiplied by it.
    pub loss_scale: Option<&'a Tensor>,
}

/// What [`prototype_loss`] gives.
pub struct HeadLoss {
    /// `[1]`: Σ over rows of weight·view loss, both students, plus weight·distillation loss.
    pub total: Var,
    /// `[rows, 2]`: view loss of the intact student without weights (the second column is zero). Rows outside
    /// all segments are zero.
    pub intact: Tensor,
    /// `[rows, 2]`: view and distillation loss of the elastic student without weights.
    pub elastic: Option<Tensor>,
}

/// Rows processed at once: their targets lie in one pair of chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    rows: Range<usize>,
    segment: usize,
    chunks: [usize; 2],
}

/// Cuts the segments into runs whose first, and whose second, targets lie in one chunk each, and those into
/// even pieces of at most `limit` rows.
fn plan(rows: &[LossRow], segments: &[Segment], limit: usize) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for (segment, s) in segments.iter().enumerate() {
        let mut runs: Vec<(Range<usize>, [Option<usize>; 2])> = Vec::new();
        for r in s.rows.clone() {
            let chunk = |t: u32| match t {
                NO_TARGET => Ok(None),
                t => s.targets.chunk_of(t as usize).map(Some),
            };
            let at = [chunk(rows[r].targets[0])?, chunk(rows[r].targets[1])?];
            let fits = |(a, b): (&Option<usize>, &Option<usize>)| a.is_none() || b.is_none() || a == b;
            match runs.last_mut() {
                Some((run, chunks)) if chunks.iter().zip(&at).all(fits) => {
                    run.end = r + 1;
                    chunks.iter_mut().zip(at).for_each(|(c, a)| *c = c.or(a));
                }
                _ => runs.push((r..r + 1, at)),
            }
        }
        for (run, chunks) in runs {
            let chunks = chunks.map(|c| c.unwrap_or(0));
            pieces.extend(even_ranges(run, limit).into_iter().map(|rows| Piece { rows, segment, chunks }));
        }
    }
    Ok(pieces)
}

/// A student on its way through the pieces.
struct Student<'a> {
    /// The features as the products take them.
    features: Tensor,
    table: &'a Tensor,
    losses: Tensor,
    /// Gradient of the features, for a cotangent of one.
    gradient: Option<Tensor>,
}

impl<'a> Student<'a> {
    fn new(tape: &Tape, features: &'a Var, table: &'a Tensor, complete: bool, dtype: DType) -> Result<Self> {
        let value = features.value();
        let new = |shape: &[usize]| match complete {
            true => Tensor::empty(value.device(), shape, DType::F32),
            false => Tensor::zeros(value.device(), shape, DType::F32),
        };
        let gradient = if tape.needs([features]) { Some(new(value.shape())?) } else { None };
        let losses = new(&[value.dim(0), 2])?;
        Ok(Self { features: to_type(value, dtype)?, table, losses, gradient })
    }

    /// logits = z·Wᵀ for some rows.
    fn logits(&self, rows: &Range<usize>, weight: &Tensor, out: &Tensor) -> Result<()> {
        let z = self.features.slice(0, rows.clone())?;
        matmul(&Matrix::new(&z)?, &Matrix::new(weight)?.t(), &Matrix::new(out)?, &Options::default())
    }

    /// dz = ds·W and dW (+)= dsᵀ·z for some rows.
    fn backward(
        &self,
        rows: &Range<usize>,
        ds: &Tensor,
        weight: &Tensor,
        dw: Option<(&Tensor, bool)>,
    ) -> Result<()> {
        if let Some(dz) = &self.gradient {
            let dz = dz.slice(0, rows.clone())?;
            matmul(&Matrix::new(ds)?, &Matrix::new(weight)?, &Matrix::new(&dz)?, &Options::default())?;
        }
        if let Some((dw, accumulate)) = dw {
            let z = self.features.slice(0, rows.clone())?;
            let options = Options { accumulate, ..Default::default() };
            matmul(&Matrix::new(ds)?.t(), &Matrix::new(&z)?, &Matrix::new(dw)?, &options)?;
        }
        Ok(())
    }
}

fn check(call: &PrototypeLoss) -> Result<usize> {
    let z = call.intact.value();
    let (rows, prototypes) = (call.rows.rows.len(), call.v.value().dim(0));
    let features = z.shape().len() == 2
        && z.dim(0) == rows
        && z.dim(1) == call.v.value().dim(1)
        && call.elastic.is_none_or(|e| e.value().shape() == z.shape());
    let segments = call.segments.windows(2).all(|w| w[0].rows.end <= w[1].rows.start)
        && call.segments.iter().all(|s| s.rows.end <= rows && s.targets.prototypes() == prototypes);
    if features && segments {
        return Ok(prototypes);
    }
    let ranges: Vec<_> = call.segments.iter().map(|s| (s.rows.clone(), s.targets.prototypes())).collect();
    let elastic = call.elastic.map(Var::value);
    Err(Error::shape(
        "prototype_loss",
        format!(
            "features {z:?} and {elastic:?}, {rows} rows, prototypes {:?}, segments {ranges:?}",
            call.v.value()
        ),
    ))
}

/// The loss of one head; see [`PrototypeLoss`]. Gradients reach the features, v and g. With a loss scale the
/// cotangent of the total must come without it.
pub fn prototype_loss(tape: &Tape, call: &PrototypeLoss) -> Result<HeadLoss> {
    let _span = profile::operation("prototype_loss");
    let prototypes = check(call)?;
    let device = call.v.value().device().clone();
    let norm = weight_norm::effective(call.v.value(), call.g.value())?;
    let operands = if call.loss_scale.is_some() { DType::F16 } else { DType::F32 };
    let weight = &to_type(norm.weight(), operands)?;
    let default = if matches!(device, Device::Cpu(_)) { 16 << 20 } else { 64 << 20 };
    let bytes = call.budget.unwrap_or(default).min(device.max_tensor_bytes());
    let limit = (bytes / (prototypes * ELEMENT_BYTES)).max(1);
    let pieces = plan(&call.rows.rows, call.segments, limit)?;

    let complete = pieces.iter().map(|p| p.rows.len()).sum::<usize>() == call.rows.rows.len();
    let intact = Student::new(tape, call.intact, &call.rows.intact, complete, operands)?;
    let elastic = match call.elastic {
        Some(e) => Some(Student::new(tape, e, &call.rows.elastic, complete, operands)?),
        None => None,
    };
    let dw = match tape.needs([call.v, call.g]) {
        true if pieces.is_empty() => Some(Tensor::zeros(&device, weight.shape(), DType::F32)?),
        true => Some(Tensor::empty(&device, weight.shape(), DType::F32)?),
        false => None,
    };

    // one buffer of logits a student, for the longest piece
    let longest = pieces.iter().map(|p| p.rows.len()).max().unwrap_or(0);
    let students: Vec<&Student> = [Some(&intact), elastic.as_ref()].into_iter().flatten().collect();
    let buffers = students
        .iter()
        .map(|_| Tensor::empty(&device, &[longest, prototypes], DType::F32))
        .collect::<Result<Vec<_>>>()?;
    let halves = match call.loss_scale {
        Some(_) => Some(Tensor::empty(&device, &[longest, prototypes], DType::F16)?),
        None => None,
    };
    let mut first = true;
    for piece in &pieces {
        let segment = &call.segments[piece.segment];
        let logits =
            buffers.iter().map(|b| b.slice(0, 0..piece.rows.len())).collect::<Result<Vec<Tensor>>>()?;
        for (student, logits) in students.iter().zip(&logits) {
            student.logits(&piece.rows, weight, logits)?;
        }
        // the elastic student first: its partner's logits are about to be overwritten
        for (i, student) in students.iter().enumerate().rev() {
            CrossEntropy {
                logits: &logits[i],
                partner: (i == 1 && segment.distill).then_some(&logits[0]),
                targets: segment.targets,
                chunks: piece.chunks,
                table: &student.table.slice(0, piece.rows.clone())?,
                losses: &student.losses.slice(0, piece.rows.clone())?,
                temperature: call.temperature,
                gradient: student.gradient.is_some() || dw.is_some(),
            }
            .run()?;
        }
        for (student, logits) in students.iter().zip(&logits) {
            let ds = match &halves {
                Some(halves) => {
                    let ds = halves.slice(0, 0..piece.rows.len())?;
                    convert(&ds, logits, call.loss_scale, false)?;
                    ds
                }
                None => logits.clone(),
            };
            student.backward(&piece.rows, &ds, weight, dw.as_ref().map(|dw| (dw, !first)))?;
            first = false;
        }
    }

    let total = Tensor::empty(&device, &[1], DType::F32)?;
    weighted_total(&total, &intact.losses, intact.table, false)?;
    if let Some(e) = &elastic {
        weighted_total(&total, &e.losses, e.table, true)?;
    }
    let losses = (intact.losses, elastic.as_ref().map(|e| e.losses.clone()));
    let made = [intact.gradient, elastic.and_then(|e| e.gradient)];
    let norm = norm.without_weight();
    let inputs = [Some(call.intact), call.elastic, Some(call.v), Some(call.g)];
    let total = tape.record("prototype_loss", inputs, total, move |[intact, elastic, v, g], cotangent| {
        for (dz, made) in [intact, elastic].into_iter().zip(made) {
            if let Some(made) = made {
                dz.write(|dz, accumulate| scale_by(dz, &made, &cotangent, accumulate))?;
            }
        }
        match dw {
            Some(dw) => norm.backward(v, g, &dw, &cotangent),
            None => Ok(()),
        }
    });
    Ok(HeadLoss { total, intact: losses.0, elastic: losses.1 })
}

/// out[0] (+)= Σ weight·loss over both columns of `losses` `[n, 2]`, with the weights of a row table.
fn weighted_total(out: &Tensor, losses: &Tensor, table: &Tensor, accumulate: bool) -> Result<()> {
    let rows = losses.dim(0);
    match out.device() {
        Device::Cpu(_) => {
            let (losses, table) =
                (&*losses.cpu_read::<f32>("prototype_loss")?, &*table.cpu_read::<u32>("prototype_loss")?);
            let term =
                |i: usize, c: usize| f32::from_bits(table[4 * i + 2 + c]) as f64 * losses[2 * i + c] as f64;
            let sum: f64 = (0..rows).map(|i| term(i, 0) + term(i, 1)).sum();
            let out = &mut out.cpu_write::<f32>("prototype_loss")?[0];
            *out = sum as f32 + if accumulate { *out } else { 0.0 };
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params = TotalParams {
                rows,
                loss_offset: losses.layout().offset,
                table_offset: table.layout().offset,
                out_offset: out.layout().offset,
                accumulate,
            };
            gpu.dispatch(&total_kernel(), &[out, losses, table], &params, [1, 1, 1])
        }
    }
}

/// out (+)= factor·a with a factor of one element that lives on the device.
pub fn scale_by(out: &Tensor, a: &Tensor, factor: &Tensor, accumulate: bool) -> Result<()> {
    if out.shape() != a.shape() || factor.elements() != 1 {
        return Err(Error::shape("scale_by", format!("{a:?} by {factor:?} into {out:?}")));
    }
    let (ro, ra) = (out.rows("scale_by")?, a.rows("scale_by")?);
    match out.device() {
        Device::Cpu(_) => {
            let (a, factor) = (a.cpu_rows::<f32>("scale_by")?, factor.cpu_read::<f32>("scale_by")?[0]);
            for_rows(
                out.cpu_rows_mut::<f32>("scale_by")?.rows_mut(),
                #[inline(always)]
                |_, i, out| {
                    for (o, a) in out.iter_mut().zip(a.row(i)) {
                        *o = factor * a + if accumulate { *o } else { 0.0 };
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let count = ro.rows * ro.cols;
            let params = ScaleByParams {
                count,
                cols: ro.cols,
                out_offset: ro.offset,
                out_stride: ro.stride,
                a_offset: ra.offset,
                a_stride: ra.stride,
                factor_offset: factor.layout().offset,
                accumulate,
            };
            let grid = gpu.caps().grid(count.div_ceil(WG as usize));
            gpu.dispatch(&scale_by_kernel(), &[out, a, factor], &params, grid)
        }
    }
}

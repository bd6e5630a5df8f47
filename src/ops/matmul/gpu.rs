//! The GPU path: from operands to a problem, its plan, parameters and one or two dispatches.

use super::params::MatmulParams;
use super::plan::COMBINE_WG;
use super::tune::fastest;
use super::{Axis, Epilogue, EpilogueKind, Force, Matrix, Options, Plan, Precision, Problem, Variant, plan};
use crate::error::{Error, Result};
use crate::gpu::{GpuDevice, Params};
use crate::tensor::{DType, Rows, Tensor};

/// One dimension of the product as its two operands lay it out, cut into common groups.
#[derive(Clone, Copy)]
struct Shared {
    length: usize,
    group: usize,
    /// Distance of neighbours and of groups in the first operand.
    first: (usize, usize),
    /// The same in the second.
    second: (usize, usize),
}

impl Shared {
    fn new(x: Axis, y: Axis) -> Result<Self> {
        let group = x.group.min(y.group);
        let far = |axis: Axis| match axis.group {
            g if g == group => Some(axis.group_stride),
            // an axis without groups can be cut anywhere
            g if g == axis.length => Some(group * axis.stride),
            _ => None,
        };
        match (far(x), far(y)) {
            (Some(fx), Some(fy)) => {
                Ok(Self { length: x.length, group, first: (x.stride, fx), second: (y.stride, fy) })
            }
            _ => Err(Error::shape("matmul", format!("axes {x:?} and {y:?} are grouped differently"))),
        }
    }

    fn groups(&self) -> usize {
        self.length / self.group
    }
}

/// Whether a matrix can be read in vectors of four along one dimension: neighbours lie side by side, and
/// every vector begins at a multiple of four. Rows and columns must come in vectors of four; of K kernels
/// take the rest one by one.
fn aligned(x: &Matrix, along: (&Shared, (usize, usize)), across: (usize, usize), along_k: bool) -> bool {
    let whole = along_k || in_vectors(along.0, 4);
    whole && starts_aligned(x, along.1, across, 4)
}

fn in_vectors(axis: &Shared, width: usize) -> bool {
    axis.length.is_multiple_of(width) && axis.group.is_multiple_of(width)
}

/// Whether neighbours along one dimension lie side by side and every run of them begins at a multiple of
/// `width`.
fn starts_aligned(x: &Matrix, (near, far): (usize, usize), across: (usize, usize), width: usize) -> bool {
    let batch = if x.batch == 1 { 0 } else { x.batch_stride };
    let starts = [x.tensor.layout().offset, batch, far, across.0, across.1];
    near == 1 && starts.iter().all(|s| s.is_multiple_of(width))
}

/// What an epilogue reads and writes, with its layout checked.
#[derive(Default)]
struct Extras {
    tensors: Vec<Tensor>,
    bias_offset: usize,
    pre: Option<Rows>,
}

fn extras(
    Options { epilogue, accumulate, .. }: &Options,
    m: usize,
    n: usize,
) -> Result<(EpilogueKind, Extras)> {
    let misfit = |t: &Tensor| Error::shape("matmul", format!("epilogue operand {t:?} of ({m}, {n})"));
    let vector = |t: &Tensor| match t.elements() == n && t.layout().is_contiguous() {
        true => Ok(t.layout().offset),
        false => Err(misfit(t)),
    };
    let matrix = |t: &Tensor| match t.rows("matmul")? {
        r if (r.rows, r.cols) == (m, n) => Ok(Some(r)),
        _ => Err(misfit(t)),
    };
    Ok(match epilogue {
        Epilogue::None if *accumulate => (EpilogueKind::Accumulate, Extras::default()),
        Epilogue::None => (EpilogueKind::Plain, Extras::default()),
        Epilogue::Bias(bias) => {
            let tensors = vec![bias.clone()];
            (EpilogueKind::Bias, Extras { tensors, bias_offset: vector(bias)?, pre: None })
        }
        Epilogue::BiasGelu { bias, pre: None } => {
            let tensors = vec![bias.clone()];
            (EpilogueKind::BiasGelu, Extras { tensors, bias_offset: vector(bias)?, pre: None })
        }
        Epilogue::BiasGelu { bias, pre: Some(pre) } => {
            let tensors = vec![bias.clone(), pre.clone()];
            (EpilogueKind::BiasGeluSaved, Extras { tensors, bias_offset: vector(bias)?, pre: matrix(pre)? })
        }
        Epilogue::GeluGrad { pre } => {
            (EpilogueKind::GeluGrad, Extras { tensors: vec![pre.clone()], bias_offset: 0, pre: matrix(pre)? })
        }
    })
}

pub(super) fn product(
    gpu: &GpuDevice,
    a: &Matrix,
    b: &Matrix,
    c: &Matrix,
    options: &Options,
    force: Force,
) -> Result<()> {
    let m = Shared::new(a.rows, c.rows)?;
    let n = Shared::new(b.cols, c.cols)?;
    let k = Shared::new(a.cols, b.rows)?;
    let (epilogue, extras) = extras(options, m.length, n.length)?;
    let (a_along_m, b_along_k) = (a.rows.stride < a.cols.stride, b.rows.stride < b.cols.stride);
    let c_in_vectors = |width: usize| {
        let pre = extras.pre.is_none_or(|r| [r.offset, r.stride].iter().all(|x| x.is_multiple_of(width)));
        pre && in_vectors(&n, width) && starts_aligned(c, n.second, m.second, width)
    };
    let c_aligned = c_in_vectors(4);
    let problem = Problem {
        batch: c.batch,
        m: m.length,
        n: n.length,
        k: k.group,
        k_groups: k.groups(),
        a_along_m,
        b_along_k,
        a_aligned: match a_along_m {
            true => aligned(a, (&m, m.first), k.first, false),
            false => aligned(a, (&k, k.first), m.first, true),
        },
        b_aligned: match b_along_k {
            true => aligned(b, (&k, k.second), n.first, true),
            false => aligned(b, (&n, n.first), k.second, false),
        },
        c_aligned,
        grouped: m.groups() > 1 || n.groups() > 1,
        window: false,
        precision: Precision::of(a.tensor.dtype(), c.tensor.dtype()),
        wide: {
            let eights = |x: &Matrix, along: &Shared, strides, across| {
                in_vectors(along, 8) && starts_aligned(x, strides, across, 8)
            };
            let left =
                if a_along_m { eights(a, &m, m.first, k.first) } else { eights(a, &k, k.first, m.first) };
            let right =
                if b_along_k { eights(b, &k, k.second, n.first) } else { eights(b, &n, n.first, k.second) };
            left && right && c_aligned
        },
        c_wide: c_in_vectors(8),
        epilogue,
    };
    let mut plan = plan(&problem, gpu.caps());
    plan.variant = force.variant.unwrap_or(plan.variant);
    plan.parts = force.parts.unwrap_or(plan.parts);
    // no part may be empty, and all begin at a vector
    let vector = if matches!(plan.variant, Variant::Cooperative { .. }) { 8 } else { 4 };
    let k_part = k.group.div_ceil(plan.parts).next_multiple_of(vector).min(k.group);
    plan.parts = k.group.div_ceil(k_part);

    let batch_stride = |x: &Matrix| if x.batch == 1 { 0 } else { x.batch_stride };
    let offset = |x: &Matrix| x.tensor.layout().offset;
    let params = MatmulParams {
        m: m.length,
        m_group: m.group,
        a_m: m.first.0,
        a_m_far: m.first.1,
        c_m: m.second.0,
        c_m_far: m.second.1,
        n: n.length,
        n_group: n.group,
        b_n: n.first.0,
        b_n_far: n.first.1,
        c_n: n.second.0,
        c_n_far: n.second.1,
        k: k.group,
        k_groups: k.groups(),
        a_k: k.first.0,
        a_k_far: k.first.1,
        b_k: k.second.0,
        b_k_far: k.second.1,
        a_offset: offset(a),
        b_offset: offset(b),
        c_offset: offset(c),
        a_batch: batch_stride(a),
        b_batch: batch_stride(b),
        c_batch: batch_stride(c),
        batches: c.batch,
        parts: plan.parts,
        k_part,
        alpha: options.alpha,
        bias_offset: extras.bias_offset,
        pre_offset: extras.pre.map_or(0, |r| r.offset),
        pre_stride: extras.pre.map_or(0, |r| r.stride),
    };
    if plan.parts == 1 {
        return first_stage(
            gpu,
            &plan,
            &problem,
            force,
            [&c.tensor, &a.tensor, &b.tensor],
            &extras.tensors,
            &params,
        );
    }
    let (size, batches) = (m.length * n.length, c.batch * plan.parts);
    let partial = Tensor::empty(c.tensor.device(), &[batches, m.length, n.length], DType::F32)?;
    plan.c_aligned = in_vectors(&n, 4) && partial.layout().offset.is_multiple_of(4);
    let partial_params = MatmulParams {
        c_m: n.length,
        c_m_far: m.group * n.length,
        c_n: 1,
        c_n_far: n.group,
        c_offset: partial.layout().offset,
        c_batch: size,
        alpha: 1.0,
        ..params
    };
    first_stage(gpu, &plan, &problem, force, [&partial, &a.tensor, &b.tensor], &[], &partial_params)?;
    let mut tensors = vec![&c.tensor, &partial];
    tensors.extend(&extras.tensors);
    // the scratch's offset travels in a field that the second stage has no other use for
    let params = MatmulParams { a_offset: partial.layout().offset, ..params };
    let grid = gpu.caps().grid((size * c.batch).div_ceil(COMBINE_WG as usize));
    gpu.dispatch(&plan.combine(), &tensors, &params, grid)
}

/// The product itself, or its partial sums; C is the first of the operands.
pub(super) fn first_stage(
    gpu: &GpuDevice,
    plan: &Plan,
    problem: &Problem,
    force: Force,
    operands: [&Tensor; 3],
    extras: &[Tensor],
    params: &impl Params,
) -> Result<()> {
    let tensors: Vec<&Tensor> = operands.into_iter().chain(extras).collect();
    let make = |variant: Variant| {
        let (rows, cols) = variant.tile();
        let tiles = problem.m.div_ceil(rows) * problem.n.div_ceil(cols);
        let grid = gpu.caps().grid(tiles * problem.batch * plan.parts);
        gpu.dispatch(&Plan { variant, ..*plan }.product(), &tensors, params, grid)
    };
    make(match force.variant {
        Some(_) => plan.variant,
        None => fastest(gpu, plan, problem, operands[0], &make)?,
    })
}

//! Elementwise operations on matrices of contiguous rows: addition in place, copies, scaling, GELU. On a GPU operands may
//! be of half precision, all of them.

use crate::autograd::{Tape, Var};
use crate::cpu::{for_rows, math};
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params};
use crate::ops::rows::fours;
use crate::ops::{activation_types, half_define};
use crate::profile;
use crate::tensor::{DType, Device, Rows, Tensor};

const SHADER: Shader =
    Shader { name: "elementwise.wgsl", source: include_str!("../../shaders/elementwise.wgsl") };

/// Invocations in a workgroup of elementwise kernels.
pub(crate) const WG: u32 = 256;

params!(ElementwiseParams {
    count: u32,
    cols: u32,
    out_offset: u32,
    out_stride: u32,
    a_offset: u32,
    a_stride: u32,
    b_offset: u32,
    b_stride: u32,
    scale: f32,
});

/// What is computed from the operands a and b; the output is written (=) unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// out += scale·a
    AddScaled,
    /// out = scale·a
    Scale,
    /// out = gelu(a)
    Gelu,
    /// out = b·gelu'(a)
    GeluGrad,
    /// out += b·gelu'(a)
    GeluGradAdd,
}

impl Op {
    const ALL: [Self; 5] = [Self::AddScaled, Self::Scale, Self::Gelu, Self::GeluGrad, Self::GeluGradAdd];

    fn entry(self) -> &'static str {
        match self {
            Self::AddScaled => "add_scaled",
            Self::Scale => "scale",
            Self::Gelu => "gelu_forward",
            Self::GeluGrad => "gelu_gradient",
            Self::GeluGradAdd => "gelu_gradient_add",
        }
    }

    fn is_binary(self) -> bool {
        matches!(self, Self::GeluGrad | Self::GeluGradAdd)
    }

    fn kernel(self, dtype: DType, vec4: bool, flat: bool) -> Kernel {
        let mut defines = vec![("WG", WG)];
        defines.extend(vec4.then_some(("VEC4", 1)));
        defines.extend(flat.then_some(("FLAT", 1)));
        defines.extend(self.is_binary().then_some(("BINARY", 1)));
        defines.extend(half_define(dtype));
        Kernel::new::<ElementwiseParams>(SHADER, self.entry(), defines)
    }
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    let of = |dtype| Op::ALL.map(|op| kinds.map(|(vec4, flat)| op.kernel(dtype, vec4, flat)));
    activation_types(caps).flat_map(of).flatten().collect()
}

/// Rows of a tensor; dense ones as a single row.
pub(crate) fn flat_rows(t: &Tensor, op: &'static str) -> Result<Rows> {
    let rows = t.rows(op)?;
    Ok(match rows.stride == rows.cols {
        true => Rows { rows: 1, cols: rows.rows * rows.cols, stride: rows.rows * rows.cols, ..rows },
        false => rows,
    })
}

/// Folds several tensors of one shape into rows of one common length.
pub(crate) fn common_rows<const N: usize>(op: &'static str, tensors: [&Tensor; N]) -> Result<[Rows; N]> {
    if tensors.iter().any(|t| t.shape() != tensors[0].shape()) {
        let shapes: Vec<_> = tensors.iter().map(|t| t.shape()).collect();
        return Err(Error::shape(op, format!("operands of one shape expected, got {shapes:?}")));
    }
    let mut rows = [Rows { offset: 0, rows: 0, cols: 0, stride: 0 }; N];
    for (r, t) in rows.iter_mut().zip(tensors) {
        *r = t.rows(op)?;
    }
    if rows.iter().all(|r| r.stride == r.cols) {
        for r in &mut rows {
            *r = Rows { offset: r.offset, rows: 1, cols: r.rows * r.cols, stride: r.rows * r.cols };
        }
    }
    Ok(rows)
}

fn run(op: Op, out: &Tensor, a: &Tensor, b: Option<&Tensor>, scale: f32) -> Result<()> {
    let _span = profile::operation(op.entry());
    let [o, ra, rb] = common_rows(op.entry(), [out, a, b.unwrap_or(a)])?;
    match out.device() {
        Device::Cpu(_) => {
            // long single rows are cut so that all cores take part
            let piece = |r: Rows| match r.rows {
                1 => r.cols.clamp(1, 8192),
                _ => r.cols,
            };
            let width = piece(o);
            let (xa, xb) = (a.cpu::<f32>(), b.unwrap_or(a).cpu::<f32>());
            let each = |r: usize, start: usize, y: &mut [f32]| {
                let xa = &xa[r * ra.stride + start..][..y.len()];
                let xb = &xb[r * rb.stride + start..][..y.len()];
                match op {
                    Op::AddScaled => y.iter_mut().zip(xa).for_each(|(y, a)| *y += scale * a),
                    Op::Scale => y.iter_mut().zip(xa).for_each(|(y, a)| *y = scale * a),
                    Op::Gelu => y.iter_mut().zip(xa).for_each(|(y, a)| *y = math::gelu(*a)),
                    Op::GeluGrad => {
                        y.iter_mut().zip(xa).zip(xb).for_each(|((y, a), b)| *y = b * math::gelu_grad(*a))
                    }
                    Op::GeluGradAdd => {
                        y.iter_mut().zip(xa).zip(xb).for_each(|((y, a), b)| *y += b * math::gelu_grad(*a))
                    }
                }
            };
            let all = out.cpu_mut::<f32>();
            if o.rows == 1 {
                let whole = o.cols / width;
                let (head, tail) = all.split_at_mut(whole * width);
                let view = Rows { offset: 0, rows: whole, cols: width, stride: width };
                for_rows(head, view, |r, y| each(0, r * width, y));
                each(0, whole * width, tail);
            } else {
                for_rows(all, o, |r, y| each(r, 0, y));
            }
            Ok(())
        }
        Device::Gpu(gpu) => {
            let count = o.rows * o.cols;
            let params = ElementwiseParams {
                count: count as u32,
                cols: o.cols as u32,
                out_offset: o.offset as u32,
                out_stride: o.stride as u32,
                a_offset: ra.offset as u32,
                a_stride: ra.stride as u32,
                b_offset: rb.offset as u32,
                b_stride: rb.stride as u32,
                scale,
            };
            let vec4 = fours(&[o, ra, rb], &[]);
            let units = if vec4 { count / 4 } else { count };
            let grid = gpu.caps().grid(units.div_ceil(WG as usize));
            let mut tensors = vec![out, a];
            tensors.extend(b);
            gpu.dispatch(&op.kernel(out.dtype(), vec4, o.rows == 1), &tensors, &params, grid)
        }
    }
}

/// `out += a`
pub fn add_assign(out: &Tensor, a: &Tensor) -> Result<()> {
    run(Op::AddScaled, out, a, None, 1.0)
}

/// `out += scale·a`
pub fn add_scaled(out: &Tensor, a: &Tensor, scale: f32) -> Result<()> {
    run(Op::AddScaled, out, a, None, scale)
}

/// `out = a`
pub fn copy(out: &Tensor, a: &Tensor) -> Result<()> {
    run(Op::Scale, out, a, None, 1.0)
}

/// `out = scale·a`
pub fn scale(out: &Tensor, a: &Tensor, scale: f32) -> Result<()> {
    run(Op::Scale, out, a, None, scale)
}

/// `out = gelu(a)`, the exact GELU.
pub fn gelu_forward(out: &Tensor, a: &Tensor) -> Result<()> {
    run(Op::Gelu, out, a, None, 1.0)
}

/// `out (+)= dy·gelu'(x)`
pub fn gelu_backward(out: &Tensor, x: &Tensor, dy: &Tensor, accumulate: bool) -> Result<()> {
    run(if accumulate { Op::GeluGradAdd } else { Op::GeluGrad }, out, x, Some(dy), 1.0)
}

/// The exact GELU, x·Φ(x).
pub fn gelu(tape: &Tape, x: &Var) -> Result<Var> {
    let out = Tensor::empty(x.value().device(), x.value().shape(), x.value().dtype())?;
    gelu_forward(&out, x.value())?;
    let input = x.value().clone();
    Ok(tape.record("gelu", [x], out, move |[dx], dy| {
        dx.write(|dx, accumulate| gelu_backward(dx, &input, &dy, accumulate))
    }))
}

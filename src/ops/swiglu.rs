//! SwiGLU's gate (Shazeer 2020, arXiv 2002.05202): y = silu(x1)·x2 of rows \[x1 x2\], silu(x) = x / (1 + e⁻ˣ). On a GPU
//! operands may be of half precision, all of them.

use crate::autograd::{Tape, Var};
use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::gpu::{Caps, Kernel, Shader, params, shader};
use crate::layout::Rows;
use crate::profile;
use crate::tensor::{DType, Device, Tensor, WG, activation_types, half_define, vec4_aligned};

const SHADER: Shader = shader!("swiglu.wgsl", kernels);

params!(SwigluParams {
    count: u32,
    cols: u32,
    x_offset: u32,
    x_stride: u32,
    y_offset: u32,
    y_stride: u32,
    dx_offset: u32,
    dx_stride: u32,
    accumulate: bool,
});

fn kernel(backward: bool, vec4: bool, dtype: DType) -> Kernel {
    let (entry, flag) = if backward { ("backward", "BACKWARD") } else { ("forward", "FORWARD") };
    let mut defines = vec![("WG", WG), (flag, 1)];
    defines.extend(vec4.then_some(("VEC4", 1)));
    defines.extend(half_define(dtype));
    Kernel::new::<SwigluParams>(SHADER, entry, defines)
}

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    let kinds = [(false, false), (false, true), (true, false), (true, true)];
    let of = |dtype| kinds.map(|(backward, vec4)| kernel(backward, vec4, dtype));
    activation_types(caps).flat_map(of).collect()
}

/// The rows of x `[rows, 2·h]` and of y `[rows, h]`.
fn rows_of(x: &Tensor, y: &Tensor) -> Result<[Rows; 2]> {
    let rows = [x.rows("swiglu")?, y.rows("swiglu")?];
    match rows[0].rows == rows[1].rows && rows[0].cols == 2 * rows[1].cols {
        true => Ok(rows),
        false => Err(Error::shape("swiglu", format!("gate and value {x:?} for {y:?}, half as wide"))),
    }
}

/// `y = silu(x1)·x2` for x = \[x1 x2\] `[rows, 2·h]` and y `[rows, h]`.
pub fn swiglu_forward(y: &Tensor, x: &Tensor) -> Result<()> {
    let _span = profile::operation("swiglu_forward");
    let [rx, ry] = rows_of(x, y)?;
    match y.device() {
        Device::Cpu(_) => {
            let x = x.cpu_rows::<f32>("swiglu")?;
            for_rows(
                y.cpu_rows_mut::<f32>("swiglu")?.rows_mut(),
                #[inline(always)]
                |math, r, y| {
                    let (gates, values) = x.row(r).split_at(ry.cols);
                    for ((y, gate), value) in y.iter_mut().zip(gates).zip(values) {
                        *y = gate * math.sigmoid(*gate) * value;
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let vec4 = vec4_aligned(&[rx, ry], &[]);
            gpu.dispatch(
                &kernel(false, vec4, y.dtype()),
                &[y, x],
                &operands(rx, ry),
                grid(gpu.caps(), ry, vec4),
            )
        }
    }
}

/// `dx (+)= [dy·x2·silu'(x1)  dy·silu(x1)]`, silu'(x) = s·(1 + x·(1 − s)) with s = 1 / (1 + e⁻ˣ).
pub fn swiglu_backward(dx: &Tensor, x: &Tensor, dy: &Tensor, accumulate: bool) -> Result<()> {
    let _span = profile::operation("swiglu_backward");
    let ([rx, ry], [rdx, _]) = (rows_of(x, dy)?, rows_of(dx, dy)?);
    match dx.device() {
        Device::Cpu(_) => {
            let (x, dy) = (x.cpu_rows::<f32>("swiglu")?, dy.cpu_rows::<f32>("swiglu")?);
            for_rows(
                dx.cpu_rows_mut::<f32>("swiglu")?.rows_mut(),
                #[inline(always)]
                |math, r, dx| {
                    let (gates, values) = x.row(r).split_at(ry.cols);
                    let (dgates, dvalues) = dx.split_at_mut(ry.cols);
                    let both = dgates.iter_mut().zip(dvalues).zip(gates.iter().zip(values));
                    for (((dgate, dvalue), (gate, value)), dy) in both.zip(dy.row(r)) {
                        let s = math.sigmoid(*gate);
                        let [old_gate, old_value] = if accumulate { [*dgate, *dvalue] } else { [0.0; 2] };
                        *dgate = old_gate + dy * value * s * (1.0 + gate * (1.0 - s));
                        *dvalue = old_value + dy * gate * s;
                    }
                },
            );
            Ok(())
        }
        Device::Gpu(gpu) => {
            let params =
                SwigluParams { dx_offset: rdx.offset, dx_stride: rdx.stride, accumulate, ..operands(rx, ry) };
            let vec4 = vec4_aligned(&[rx, ry, rdx], &[]);
            gpu.dispatch(&kernel(true, vec4, dx.dtype()), &[dx, x, dy], &params, grid(gpu.caps(), ry, vec4))
        }
    }
}

fn operands(x: Rows, y: Rows) -> SwigluParams {
    SwigluParams {
        count: y.rows * y.cols,
        cols: y.cols,
        x_offset: x.offset,
        x_stride: x.stride,
        y_offset: y.offset,
        y_stride: y.stride,
        ..Default::default()
    }
}

fn grid(caps: &Caps, y: Rows, vec4: bool) -> [usize; 3] {
    let elements = y.rows * y.cols;
    caps.grid((if vec4 { elements / 4 } else { elements }).div_ceil(WG as usize))
}

/// `silu(x1)·x2` `[rows, h]` of x = \[x1 x2\] `[rows, 2·h]`.
pub fn swiglu(tape: &Tape, x: &Var) -> Result<Var> {
    let [rows, columns] = match *x.value().shape() {
        [rows, columns] if columns.is_multiple_of(2) => [rows, columns],
        _ => return Err(Error::shape("swiglu", format!("{:?}, no rows of two halves", x.value()))),
    };
    let y = Tensor::empty(x.value().device(), &[rows, columns / 2], x.value().dtype())?;
    swiglu_forward(&y, x.value())?;
    let input = x.value().clone();
    Ok(tape.record("swiglu", [x], y, move |[dx], dy| {
        dx.write(|dx, accumulate| swiglu_backward(dx, &input, &dy, accumulate))
    }))
}

//! GELU, the exact one: x·Φ(x). On a GPU operands may be of half precision, all of them.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::gpu::{Caps, Kernel, Shader, shader};
use crate::tensor::{Elementwise, Tensor};

const SHADER: Shader = shader!("elementwise.wgsl", kernels);

/// out = gelu(a)
const FORWARD: Elementwise = Elementwise { shader: SHADER, entry: "gelu_forward", binary: false };
/// out = b·gelu'(a)
const GRADIENT: Elementwise = Elementwise { shader: SHADER, entry: "gelu_gradient", binary: true };
/// out += b·gelu'(a)
const GRADIENT_ADD: Elementwise = Elementwise { shader: SHADER, entry: "gelu_gradient_add", binary: true };

/// All variants.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    [FORWARD, GRADIENT, GRADIENT_ADD].iter().flat_map(|of| of.kernels(caps)).collect()
}

/// `out = gelu(a)`
pub fn gelu_forward(out: &Tensor, a: &Tensor) -> Result<()> {
    FORWARD.run(
        out,
        a,
        None,
        1.0,
        #[inline(always)]
        |math, y, a, _| {
            for (y, a) in y.iter_mut().zip(a) {
                *y = math.gelu(*a);
            }
        },
    )
}

/// `out (+)= dy·gelu'(x)`
pub fn gelu_backward(out: &Tensor, x: &Tensor, dy: &Tensor, accumulate: bool) -> Result<()> {
    match accumulate {
        false => GRADIENT.run(
            out,
            x,
            Some(dy),
            1.0,
            #[inline(always)]
            |math, y, x, dy| {
                for ((y, x), dy) in y.iter_mut().zip(x).zip(dy) {
                    *y = dy * math.gelu_grad(*x);
                }
            },
        ),
        true => GRADIENT_ADD.run(
            out,
            x,
            Some(dy),
            1.0,
            #[inline(always)]
            |math, y, x, dy| {
                for ((y, x), dy) in y.iter_mut().zip(x).zip(dy) {
                    *y += dy * math.gelu_grad(*x);
                }
            },
        ),
    }
}

/// The GELU of `x`.
pub fn gelu(tape: &Tape, x: &Var) -> Result<Var> {
    let out = Tensor::empty(x.value().device(), x.value().shape(), x.value().dtype())?;
    gelu_forward(&out, x.value())?;
    let input = x.value().clone();
    Ok(tape.record("gelu", [x], out, move |[dx], dy| {
        dx.write(|dx, accumulate| gelu_backward(dx, &input, &dy, accumulate))
    }))
}

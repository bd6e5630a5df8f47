//! Conversion between single and half precision, with its gradient.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::tensor::{DType, convert, to_type};

/// The values of `x` in another precision; `x` itself where it has it already. The gradient is converted
/// back.
pub fn cast(tape: &Tape, x: &Var, dtype: DType) -> Result<Var> {
    if x.value().dtype() == dtype {
        return Ok(x.clone());
    }
    let out = to_type(x.value(), dtype)?;
    Ok(tape.record("cast", [x], out, move |[dx], dy| {
        dx.write(|dx, accumulate| convert(dx, &dy, None, accumulate))
    }))
}

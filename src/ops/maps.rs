//! Maps beside and over each other: channels side by side, sums, and channels spread over pixels. Copies alone.

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::ops::conv::MapShape;
use crate::tensor::{DType, Tensor, add_assign, copy, strided_copy};

/// The columns of all `parts`, `[rows, own width]` each, side by side.
pub fn concat_columns(tape: &Tape, parts: &[&Var]) -> Result<Var> {
    let wrong = || {
        let parts: Vec<&Tensor> = parts.iter().map(|part| part.value()).collect();
        Error::shape("concat_columns", format!("{parts:?}"))
    };
    let rows = parts.first().ok_or_else(wrong)?.value().dim(0);
    if parts.iter().any(|part| !matches!(part.value().shape(), [n, _] if *n == rows)) {
        return Err(wrong());
    }
    let widths: Vec<usize> = parts.iter().map(|part| part.value().dim(1)).collect();
    let y = Tensor::empty(parts[0].value().device(), &[rows, widths.iter().sum()], DType::F32)?;
    let mut first = 0;
    for part in parts {
        let width = part.value().dim(1);
        move_columns(&y.slice(1, first..first + width)?, part.value(), false)?;
        first += width;
    }
    Ok(tape.record_list("concat_columns", parts, y, move |gradients, dy| {
        let mut first = 0;
        for (gradient, width) in gradients.into_iter().zip(widths) {
            let dy = dy.slice(1, first..first + width)?;
            gradient.write(|dx, accumulate| move_columns(dx, &dy, accumulate))?;
            first += width;
        }
        Ok(())
    }))
}

/// `out (+)= x` for matrices whose rows may lie apart.
fn move_columns(out: &Tensor, x: &Tensor, accumulate: bool) -> Result<()> {
    let four = |t: &Tensor| t.reshape(&[1, 1, t.dim(0), t.dim(1)]);
    strided_copy(&four(out)?, &four(x)?, accumulate)
}

/// Of every `length` consecutive rows of x all but the first `before`.
pub fn without_first(tape: &Tape, x: &Var, length: usize, before: usize) -> Result<Var> {
    let (count, width) = match *x.value().shape() {
        [rows, width] if length > before && rows % length == 0 && rows > 0 => (rows / length, width),
        _ => {
            return Err(Error::shape(
                "without_first",
                format!("{before} of {length} rows of {:?}", x.value()),
            ));
        }
    };
    let part = move |t: &Tensor| t.reshape(&[1, count, length, width])?.slice(2, before..length);
    let kept = move |t: &Tensor| t.reshape(&[1, count, length - before, width]);
    let y = Tensor::empty(x.value().device(), &[count * (length - before), width], DType::F32)?;
    strided_copy(&kept(&y)?, &part(x.value())?, false)?;
    Ok(tape.record("without_first", [x], y, move |[dx], dy| {
        dx.add_to(|dx| strided_copy(&part(dx)?, &kept(&dy)?, true))
    }))
}

/// The sum of maps of one shape.
pub fn add(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    if a.value().shape() != b.value().shape() {
        return Err(Error::shape("add", format!("{:?} and {:?}", a.value(), b.value())));
    }
    let y = Tensor::empty(a.value().device(), a.value().shape(), DType::F32)?;
    copy(&y, a.value())?;
    add_assign(&y, b.value())?;
    Ok(tape.record("add", [a, b], y, move |[da, db], dy| {
        da.write(|da, accumulate| if accumulate { add_assign(da, &dy) } else { copy(da, &dy) })?;
        db.add(dy)
    }))
}

/// Maps `x` `[rows, 4·channels]` of this shape as maps twice as high and wide: the first quarter of the channels goes to the
/// upper left pixel of four, the second to the upper right, then the lower left and the lower right. After a linear layer
/// it is a transposed convolution of 2×2 pixels two apart.
pub fn spread(tape: &Tape, x: &Var, shape: MapShape) -> Result<(Var, MapShape)> {
    let after = MapShape { images: shape.images, height: 2 * shape.height, width: 2 * shape.width };
    let channels = match *x.value().shape() {
        [rows, columns] if rows == shape.rows() && columns % 4 == 0 && rows * columns > 0 => columns / 4,
        _ => return Err(Error::shape("spread", format!("{:?} as {shape:?}", x.value()))),
    };
    let lines = shape.images * shape.height;
    // [lines, row of the two, pixel, column of the two and channel] of both
    let packed = move |t: &Tensor| Ok(t.reshape(&[lines, shape.width, 2, 2 * channels])?.transpose(1, 2));
    let open = move |t: &Tensor| t.reshape(&[lines, 2, shape.width, 2 * channels]);
    let y = Tensor::empty(x.value().device(), &[after.rows(), channels], DType::F32)?;
    strided_copy(&open(&y)?, &packed(x.value())?, false)?;
    let y = tape.record("spread", [x], y, move |[dx], dy| {
        dx.write(|dx, accumulate| strided_copy(&packed(dx)?, &open(&dy)?, accumulate))
    });
    Ok((y, after))
}

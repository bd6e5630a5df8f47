//! The CPU path: a product of every evenly spaced block, then the epilogue row by row.

use super::block::{At, Block};
use super::multiply::multiply_block;
use super::{Axis, Epilogue, Matrix, Options};
use crate::cpu::for_rows;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Blocks of one axis: (start in elements of memory, position, length).
fn blocks(axis: Axis) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..axis.groups()).map(move |g| (g * axis.group_stride, g * axis.group, axis.group))
}

pub(super) fn product(a: &Matrix, b: &Matrix, c: &Matrix, options: &Options) -> Result<()> {
    multiply(a, b, c, options)?;
    cpu_epilogue(c, &options.epilogue)
}

fn multiply(a: &Matrix, b: &Matrix, c: &Matrix, options: &Options) -> Result<()> {
    let (lent_a, lent_b) = (a.tensor.cpu_elements::<f32>("matmul")?, b.tensor.cpu_elements::<f32>("matmul")?);
    let mut lent_c = c.tensor.cpu_elements_mut::<f32>("matmul")?;
    let bf16 = !options.exact && c.tensor.device().bf16();
    let (pa, pb, pc) = (lent_a.as_ptr(), lent_b.as_ptr(), lent_c.as_mut_ptr());
    // both cut K where either does; one of them is plain
    let k_axis = if a.cols.groups() > 1 { a.cols } else { b.rows };
    for batch in 0..c.batch {
        let at = |m: &Matrix| if m.batch == 1 { 0 } else { batch * m.batch_stride };
        for (cm, am, m) in row_blocks(c.rows, a.rows) {
            for (cn, bn, n) in row_blocks(c.cols, b.cols) {
                for (first, (_, k0, k)) in blocks(k_axis).enumerate() {
                    let place = |axis: Axis, i: usize| {
                        (i / axis.group) * axis.group_stride + (i % axis.group) * axis.stride
                    };
                    let accumulate = options.accumulate || first > 0;
                    let block = Block {
                        m,
                        n,
                        k,
                        c: At {
                            first: pc.wrapping_add(at(c) + cm + cn),
                            row: c.rows.stride,
                            col: c.cols.stride,
                        },
                        a: At {
                            first: pa.wrapping_add(at(a) + am + place(a.cols, k0)),
                            row: a.rows.stride,
                            col: a.cols.stride,
                        },
                        b: At {
                            first: pb.wrapping_add(at(b) + bn + place(b.rows, k0)),
                            row: b.rows.stride,
                            col: b.cols.stride,
                        },
                        alpha: options.alpha,
                        accumulate,
                        all_cores: true,
                        bf16,
                    };
                    // SAFETY: axes and batches are those of the tensors, whose elements are lent, C's to this alone.
                    unsafe { multiply_block(block) };
                }
            }
        }
    }
    Ok(())
}

/// Blocks in which two axes of one length are both evenly spaced: (start in the first, start in the second,
/// length).
fn row_blocks(x: Axis, y: Axis) -> Vec<(usize, usize, usize)> {
    let group = x.group.min(y.group);
    let place = |axis: Axis, i: usize| (i / axis.group) * axis.group_stride + (i % axis.group) * axis.stride;
    (0..x.length).step_by(group.max(1)).map(|i| (place(x, i), place(y, i), group)).collect()
}

fn cpu_epilogue(c: &Matrix, epilogue: &Epilogue) -> Result<()> {
    let (rows, cols) = (c.rows.length, c.cols.length);
    let dense = c.cols.stride == 1 && c.rows.groups() == 1 && c.cols.groups() == 1;
    let misfit =
        |what: &Tensor| Error::shape("matmul", format!("epilogue operand {what:?} of {:?}", c.size()));
    if !dense && !matches!(epilogue, Epilogue::None) {
        return Err(misfit(&c.tensor));
    }
    if matches!(epilogue, Epilogue::None) {
        return Ok(());
    }
    let mut out = c.tensor.cpu_rows_mut::<f32>("matmul")?;
    let out = out.rows_mut();
    if (out.count(), out.cols()) != (rows, cols) {
        return Err(misfit(&c.tensor));
    }
    match epilogue {
        Epilogue::None => {}
        Epilogue::Bias(bias) => {
            let bias = &*bias.cpu_read::<f32>("matmul")?;
            for_rows(
                out,
                #[inline(always)]
                |_, _, row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
            );
        }
        Epilogue::BiasGelu { bias, pre: None } => {
            let bias = &*bias.cpu_read::<f32>("matmul")?;
            for_rows(
                out,
                #[inline(always)]
                |math, _, row| {
                    for (y, b) in row.iter_mut().zip(bias) {
                        *y = math.gelu(*y + b);
                    }
                },
            );
        }
        Epilogue::BiasGelu { bias, pre: Some(pre) } => {
            let (bias, rp) = (&*bias.cpu_read::<f32>("matmul")?, pre.rows("matmul")?);
            if (rp.rows, rp.cols) != (rows, cols) {
                return Err(misfit(pre));
            }
            for_rows(
                (out, pre.cpu_rows_mut::<f32>("matmul")?.rows_mut()),
                #[inline(always)]
                |math, _, (row, saved)| {
                    for ((y, s), b) in row.iter_mut().zip(saved).zip(bias) {
                        *s = *y + b;
                        *y = math.gelu(*s);
                    }
                },
            );
        }
        Epilogue::GeluGrad { pre } => {
            let rp = pre.rows("matmul")?;
            if (rp.rows, rp.cols) != (rows, cols) {
                return Err(misfit(pre));
            }
            let pre = &*pre.cpu_read::<f32>("matmul")?;
            for_rows(
                out,
                #[inline(always)]
                |math, r, row| {
                    for (y, s) in row.iter_mut().zip(&pre[r * rp.stride..]) {
                        *y *= math.gelu_grad(*s);
                    }
                },
            );
        }
    }
    Ok(())
}

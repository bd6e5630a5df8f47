//! The CPU path: the `gemm` crate for every evenly spaced block, then the epilogue row by row.

use super::{Axis, Epilogue, Matrix, Options};
use crate::cpu::{SyncPtr, for_rows};
use crate::error::{Error, Result};
use crate::tensor::{Rows, Tensor};

/// Blocks of one axis: (start in elements of memory, position, length).
fn blocks(axis: Axis) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..axis.groups()).map(move |g| (g * axis.group_stride, g * axis.group, axis.group))
}

pub(super) fn product(a: &Matrix, b: &Matrix, c: &Matrix, options: &Options) -> Result<()> {
    let (pa, pb) = (a.tensor.cpu::<f32>().as_ptr(), b.tensor.cpu::<f32>().as_ptr());
    let pc = c.tensor.cpu_mut::<f32>().as_mut_ptr();
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
                    // SAFETY: the layouts were checked against their storages; C overlaps neither A nor B.
                    unsafe {
                        gemm::gemm(
                            m,
                            n,
                            k,
                            pc.add(at(c) + cm + cn),
                            c.cols.stride as isize,
                            c.rows.stride as isize,
                            accumulate,
                            pa.add(at(a) + am + place(a.cols, k0)),
                            a.cols.stride as isize,
                            a.rows.stride as isize,
                            pb.add(at(b) + bn + place(b.rows, k0)),
                            b.cols.stride as isize,
                            b.rows.stride as isize,
                            1.0f32,
                            options.alpha,
                            false,
                            false,
                            false,
                            gemm::Parallelism::Rayon(0),
                        );
                    }
                }
            }
        }
    }
    cpu_epilogue(c, &options.epilogue)
}

/// Blocks in which two axes of one length are both evenly spaced: (start in the first, start in the second, length).
fn row_blocks(x: Axis, y: Axis) -> Vec<(usize, usize, usize)> {
    let group = x.group.min(y.group);
    let place = |axis: Axis, i: usize| (i / axis.group) * axis.group_stride + (i % axis.group) * axis.stride;
    (0..x.length).step_by(group.max(1)).map(|i| (place(x, i), place(y, i), group)).collect()
}

fn cpu_epilogue(c: &Matrix, epilogue: &Epilogue) -> Result<()> {
    let (rows, cols) = (c.rows.length, c.cols.length);
    let view = Rows { offset: 0, rows, cols, stride: c.rows.stride };
    let dense = c.cols.stride == 1 && c.rows.groups() == 1 && c.cols.groups() == 1;
    let misfit =
        |what: &Tensor| Error::shape("matmul", format!("epilogue operand {what:?} of {:?}", c.size()));
    if !dense && !matches!(epilogue, Epilogue::None) {
        return Err(misfit(&c.tensor));
    }
    let out = c.tensor.cpu_mut::<f32>();
    match epilogue {
        Epilogue::None => {}
        Epilogue::Bias(bias) => {
            let bias = bias.cpu::<f32>();
            for_rows(
                out,
                view,
                #[inline(always)]
                |_, _, row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
            );
        }
        Epilogue::BiasGelu { bias, pre: None } => {
            let bias = bias.cpu::<f32>();
            for_rows(
                out,
                view,
                #[inline(always)]
                |math, _, row| {
                    for (y, b) in row.iter_mut().zip(bias) {
                        *y = math.gelu(*y + b);
                    }
                },
            );
        }
        Epilogue::BiasGelu { bias, pre: Some(pre) } => {
            let (bias, rp) = (bias.cpu::<f32>(), pre.rows("matmul")?);
            if (rp.rows, rp.cols) != (rows, cols) {
                return Err(misfit(pre));
            }
            let saved = SyncPtr(pre.cpu_mut::<f32>().as_mut_ptr());
            for_rows(
                out,
                view,
                #[inline(always)]
                |math, r, row| {
                    // SAFETY: rows are disjoint.
                    let saved = unsafe { saved.slice(r * rp.stride, cols) };
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
            let pre = pre.cpu::<f32>();
            for_rows(
                out,
                view,
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

//! What launches of kernels share: how views are seen as rows, whether they can be read in vectors, types of
//! elements.

use crate::error::{Error, Result};
use crate::gpu::{Bind, Caps, Operand};
use crate::layout::Rows;
use crate::tensor::{DType, Tensor};

/// Invocations in a workgroup of elementwise kernels.
pub(crate) const WG: u32 = 256;

impl Bind for Tensor {
    fn operand(&self) -> Operand<'_> {
        let element_bytes = self.dtype().bytes();
        let bytes = self.elements() * element_bytes;
        Operand { buffer: self.storage().gpu_buffer(), element_bytes, bytes }
    }
}

/// The types that activations have on an adapter with these capabilities.
pub(crate) fn activation_types(caps: &Caps) -> impl Iterator<Item = DType> {
    [DType::F32, DType::F16].into_iter().take(1 + usize::from(caps.f16))
}

/// The constant that builds a kernel for activations of this type.
pub(crate) fn half_define(dtype: DType) -> Option<(&'static str, u32)> {
    (dtype == DType::F16).then_some(("HALF", 1))
}

/// Whether rows, and vectors as long as a row, can be read four elements at a time.
pub(crate) fn vec4_aligned(rows: &[Rows], vectors: &[&Tensor]) -> bool {
    let four = |n: usize| n.is_multiple_of(4);
    rows.iter().all(|r| four(r.cols) && four(r.offset) && four(r.stride))
        && vectors.iter().all(|t| four(t.layout().offset))
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

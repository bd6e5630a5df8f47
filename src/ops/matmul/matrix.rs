//! Operands of products, and what happens to a product on its way out.

use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// One dimension of a matrix: `length` elements, in groups of `group` whose starts are `group_stride` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// Number of elements.
    pub length: usize,
    /// Distance of neighbours inside a group.
    pub stride: usize,
    /// Elements in a group; `length` where there is one group.
    pub group: usize,
    /// Distance between the starts of groups.
    pub group_stride: usize,
}

impl Axis {
    fn plain(length: usize, stride: usize) -> Self {
        Self { length, stride, group: length, group_stride: 0 }
    }

    pub(super) fn groups(&self) -> usize {
        self.length.checked_div(self.group).unwrap_or(0)
    }
}

/// An operand: a batch of matrices over a tensor's memory.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub(super) tensor: Tensor,
    pub(super) batch: usize,
    pub(super) batch_stride: usize,
    pub(super) rows: Axis,
    pub(super) cols: Axis,
}

impl Matrix {
    /// A tensor `[rows, cols]` or `[batch, rows, cols]` with any strides.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        let l = tensor.layout();
        let (n, s) = (&l.shape, &l.strides);
        let (batch, batch_stride, d) = match n.len() {
            2 => (1, 0, 0),
            3 => (n[0], s[0], 1),
            _ => return Err(Error::shape("matmul", format!("a matrix or a batch expected, got {tensor:?}"))),
        };
        let (rows, cols) = (Axis::plain(n[d], s[d]), Axis::plain(n[d + 1], s[d + 1]));
        Ok(Self { tensor: tensor.clone(), batch, batch_stride, rows, cols })
    }

    /// A tensor `[groups, rows, cols]` as one matrix of `groups·rows` rows.
    pub fn grouped_rows(tensor: &Tensor) -> Result<Self> {
        let l = tensor.layout();
        let [groups, rows, cols] = l.shape[..] else {
            return Err(Error::shape("matmul", format!("[groups, rows, cols] expected, got {tensor:?}")));
        };
        let axis =
            Axis { length: groups * rows, stride: l.strides[1], group: rows, group_stride: l.strides[0] };
        let cols = Axis::plain(cols, l.strides[2]);
        Ok(Self { tensor: tensor.clone(), batch: 1, batch_stride: 0, rows: axis, cols })
    }

    /// A parameter `[rows, cols]`, or `[groups, rows, cols]` as one matrix.
    pub fn weight(tensor: &Tensor) -> Result<Self> {
        if tensor.shape().len() == 3 { Self::grouped_rows(tensor) } else { Self::new(tensor) }
    }

    /// The transposed matrix; nothing is moved.
    pub fn t(mut self) -> Self {
        std::mem::swap(&mut self.rows, &mut self.cols);
        self
    }

    /// (batch, rows, columns).
    pub fn size(&self) -> (usize, usize, usize) {
        (self.batch, self.rows.length, self.cols.length)
    }
}

/// What happens to α·A·B on its way into C.
#[derive(Clone, Debug, Default)]
pub enum Epilogue {
    /// Nothing.
    #[default]
    None,
    /// A vector over the columns is added.
    Bias(Tensor),
    /// A vector over the columns is added, the sum is written to `pre`, and C gets its GELU. `pre` may be
    /// left out where no gradient is wanted.
    BiasGelu {
        /// The vector `[N]`.
        bias: Tensor,
        /// The pre-activation `[M, N]`.
        pre: Option<Tensor>,
    },
    /// The product is multiplied by the derivative of GELU at `pre`.
    GeluGrad {
        /// The pre-activation `[M, N]`.
        pre: Tensor,
    },
}

/// How a product is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Factor of the product.
    pub alpha: f32,
    /// Whether the result is added to C instead of replacing it. Only with `Epilogue::None`.
    pub accumulate: bool,
    /// What happens on the way into C.
    pub epilogue: Epilogue,
    /// Whether A and B are multiplied as they are where the device would round them ([`Device::bf16_products`](crate::tensor::Device::bf16_products)).
    pub exact: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { alpha: 1.0, accumulate: false, epilogue: Epilogue::None, exact: false }
    }
}

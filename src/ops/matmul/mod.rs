//! Strided matrix products, `C = epilogue(α·A·B)`: any of the three operands may be transposed, a slice, batched, or
//! have one dimension cut into groups that lie apart (the q, k and v rows of an elastic qkv weight).

use crate::cpu::{SyncPtr, for_rows, math};
use crate::error::{Error, Result};
use crate::tensor::{Device, Rows, Tensor};

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

    fn groups(&self) -> usize {
        if self.group == 0 { 0 } else { self.length / self.group }
    }
}

/// An operand: a batch of matrices over a tensor's memory.
#[derive(Clone, Debug)]
pub struct Matrix {
    tensor: Tensor,
    batch: usize,
    batch_stride: usize,
    rows: Axis,
    cols: Axis,
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
        let axis = Axis { length: groups * rows, stride: l.strides[1], group: rows, group_stride: l.strides[0] };
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
    /// A vector over the columns is added, the sum is written to `pre`, and C gets its GELU. `pre` may be left out
    /// where no gradient is wanted.
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
}

impl Default for Options {
    fn default() -> Self {
        Self { alpha: 1.0, accumulate: false, epilogue: Epilogue::None }
    }
}

/// C = epilogue(α·A·B) with A `[M, K]`, B `[K, N]`, C `[M, N]`, or batches of them (a batch of one serves all).
pub fn matmul(a: &Matrix, b: &Matrix, c: &Matrix, options: &Options) -> Result<()> {
    let ((ba, m, k), (bb, kb, n), (bc, mc, nc)) = (a.size(), b.size(), c.size());
    let batches = [ba, bb].iter().all(|&x| x == bc || x == 1);
    let bad_epilogue = !matches!(options.epilogue, Epilogue::None) && (options.accumulate || bc != 1);
    if k != kb || m != mc || n != nc || !batches || bad_epilogue {
        return Err(Error::shape(
            "matmul",
            format!("{:?} by {:?} into {:?} with {options:?}", a.size(), b.size(), c.size()),
        ));
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    match c.tensor.device() {
        Device::Cpu(_) => cpu(a, b, c, options),
        Device::Gpu(_) => Err(Error::shape("matmul", "no GPU kernel yet")),
    }
}

/// Blocks of one axis: (start in elements of memory, position, length).
fn blocks(axis: Axis) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..axis.groups()).map(move |g| (g * axis.group_stride, g * axis.group, axis.group))
}

fn cpu(a: &Matrix, b: &Matrix, c: &Matrix, options: &Options) -> Result<()> {
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
    let misfit = |what: &Tensor| Error::shape("matmul", format!("epilogue operand {what:?} of {:?}", c.size()));
    if !dense && !matches!(epilogue, Epilogue::None) {
        return Err(misfit(&c.tensor));
    }
    let out = c.tensor.cpu_mut::<f32>();
    match epilogue {
        Epilogue::None => {}
        Epilogue::Bias(bias) => {
            let bias = bias.cpu::<f32>();
            for_rows(out, view, |_, row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }
        Epilogue::BiasGelu { bias, pre: None } => {
            let bias = bias.cpu::<f32>();
            for_rows(out, view, |_, row| row.iter_mut().zip(bias).for_each(|(y, b)| *y = math::gelu(*y + b)));
        }
        Epilogue::BiasGelu { bias, pre: Some(pre) } => {
            let (bias, rp) = (bias.cpu::<f32>(), pre.rows("matmul")?);
            if (rp.rows, rp.cols) != (rows, cols) {
                return Err(misfit(pre));
            }
            let saved = SyncPtr(pre.cpu_mut::<f32>().as_mut_ptr());
            for_rows(out, view, |r, row| {
                // SAFETY: rows are disjoint.
                let saved = unsafe { saved.slice(r * rp.stride, cols) };
                for ((y, s), b) in row.iter_mut().zip(saved).zip(bias) {
                    *s = *y + b;
                    *y = math::gelu(*s);
                }
            });
        }
        Epilogue::GeluGrad { pre } => {
            let rp = pre.rows("matmul")?;
            if (rp.rows, rp.cols) != (rows, cols) {
                return Err(misfit(pre));
            }
            let pre = pre.cpu::<f32>();
            for_rows(out, view, |r, row| {
                row.iter_mut().zip(&pre[r * rp.stride..]).for_each(|(y, s)| *y *= math::gelu_grad(*s));
            });
        }
    }
    Ok(())
}

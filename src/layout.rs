//! Shape, strides and offset of a view, in elements.

use std::ops::Range;

use crate::error::{Error, Result};

/// How a view's elements lie in memory: element `(i, j, ..)` is at `offset + i·strides[0] + j·strides[1] +
/// ..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Position of the first element.
    pub offset: usize,
    /// Lengths of the dimensions.
    pub shape: Vec<usize>,
    /// Distance between neighbours in each dimension.
    pub strides: Vec<usize>,
}

/// A view seen as a matrix whose rows are contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Position of the first element in the storage.
    pub offset: usize,
    /// Number of rows.
    pub rows: usize,
    /// Elements in a row.
    pub cols: usize,
    /// Distance between the starts of neighbouring rows.
    pub stride: usize,
}

impl Layout {
    /// Row-major layout from element 0.
    pub fn contiguous(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for d in (1..shape.len()).rev() {
            strides[d - 1] = strides[d] * shape[d];
        }
        Self { offset: 0, shape: shape.to_vec(), strides }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Distance from the first element to one past the last.
    pub fn span(&self) -> usize {
        if self.elements() == 0 {
            return 0;
        }
        1 + self.shape.iter().zip(&self.strides).map(|(n, s)| (n - 1) * s).sum::<usize>()
    }

    /// Whether the elements are row-major without gaps.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&n, &s)| {
            let fits = n == 1 || s == expected;
            expected *= n;
            fits
        })
    }

    /// The same view, `by` elements further on.
    pub fn shifted(mut self, by: usize) -> Self {
        self.offset += by;
        self
    }

    /// `range` along dimension `dim`.
    pub fn slice(&self, dim: usize, range: Range<usize>) -> Result<Self> {
        if dim >= self.shape.len() || range.start > range.end || range.end > self.shape[dim] {
            return Err(Error::shape(
                "slice",
                format!("{range:?} of dimension {dim} of a tensor of shape {:?}", self.shape),
            ));
        }
        let mut out = self.clone();
        out.offset += range.start * self.strides[dim];
        out.shape[dim] = range.len();
        Ok(out)
    }

    /// Dimensions `a` and `b` exchanged.
    pub fn transpose(&self, a: usize, b: usize) -> Self {
        let mut out = self.clone();
        out.shape.swap(a, b);
        out.strides.swap(a, b);
        out
    }

    /// Another shape over the same elements, where the strides allow it: each old dimension is split or runs
    /// of old dimensions that lie densely are merged.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        let failed =
            || Error::shape("reshape", format!("{:?} (strides {:?}) as {shape:?}", self.shape, self.strides));
        if shape.iter().product::<usize>() != self.elements() {
            return Err(failed());
        }
        // merge the old dimensions into dense runs (length, stride)
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (&n, &s) in self.shape.iter().zip(&self.strides).filter(|(n, _)| **n != 1) {
            match runs.last_mut() {
                Some((length, stride)) if *stride == n * s => (*length, *stride) = (*length * n, s),
                _ => runs.push((n, s)),
            }
        }
        let mut strides = vec![1; shape.len()];
        let mut d = shape.len();
        while let Some((mut length, mut stride)) = runs.pop() {
            while length > 1 {
                if d == 0 {
                    return Err(failed());
                }
                d -= 1;
                if shape[d] == 0 || length % shape[d] != 0 {
                    return Err(failed());
                }
                strides[d] = stride;
                stride *= shape[d];
                length /= shape[d];
            }
        }
        // leading dimensions of length one
        for d in (0..d).rev() {
            strides[d] = strides.get(d + 1).map_or(1, |s| s * shape[d + 1]);
        }
        Ok(Self { offset: self.offset, shape: shape.to_vec(), strides })
    }

    /// The view as a matrix with contiguous rows, if it is one.
    pub fn rows(&self) -> Option<Rows> {
        let (&cols, lead) = self.shape.split_last()?;
        if cols > 1 && self.strides[lead.len()] != 1 {
            return None;
        }
        let rows: usize = lead.iter().product();
        let stride = match lead.len() {
            0 => cols,
            _ => {
                let folded =
                    Self { offset: 0, shape: lead.to_vec(), strides: self.strides[..lead.len()].to_vec() };
                folded.reshape(&[rows]).ok()?.strides[0]
            }
        };
        Some(Rows { offset: self.offset, rows, cols, stride: if rows <= 1 { cols } else { stride } })
    }

    /// Positions of all elements relative to `offset`, in row-major order.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.elements()).map(move |mut flat| {
            let mut at = 0;
            for (n, s) in self.shape.iter().zip(&self.strides).rev() {
                at += (flat % n) * s;
                flat /= n;
            }
            at
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_of_views() {
        let l = Layout::contiguous(&[6, 8]);
        assert_eq!(l.reshape(&[2, 3, 8]).unwrap().strides, [24, 8, 1]);
        let s = l.slice(1, 0..4).unwrap();
        assert!(!s.is_contiguous());
        assert_eq!(s.reshape(&[2, 3, 4]).unwrap().strides, [24, 8, 1]);
        assert!(s.reshape(&[24]).is_err());
        assert_eq!(s.rows().unwrap(), Rows { offset: 0, rows: 6, cols: 4, stride: 8 });
        assert!(l.transpose(0, 1).rows().is_none());
        assert_eq!(l.slice(0, 2..3).unwrap().reshape(&[8]).unwrap().offset, 16);
        assert_eq!(Layout::contiguous(&[1, 5]).reshape(&[5, 1, 1]).unwrap().shape, [5, 1, 1]);
    }

    #[test]
    fn indices_follow_strides() {
        let l = Layout::contiguous(&[2, 3]).transpose(0, 1);
        assert_eq!(l.indices().collect::<Vec<_>>(), [0, 3, 1, 4, 2, 5]);
        assert_eq!(l.span(), 6);
    }
}

//! Of which precision products are.

use crate::tensor::DType;

/// Of which precision the matrices of a product are. Sums are always single.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// All are single.
    Single,
    /// A and B are half, C is single.
    HalfToSingle,
    /// All are half.
    Half,
}

impl Precision {
    /// All there are.
    pub(super) const ALL: [Self; 3] = [Self::Single, Self::HalfToSingle, Self::Half];

    /// That of products of matrices like A into matrices like C.
    pub(super) fn of(a: DType, c: DType) -> Self {
        match [a, c] {
            [DType::F16, DType::F16] => Self::Half,
            [DType::F16, _] => Self::HalfToSingle,
            _ => Self::Single,
        }
    }

    /// The constants of the kernels.
    pub(super) fn defines(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::Single => &[],
            Self::HalfToSingle => &[("HALF", 1)],
            Self::Half => &[("HALF", 1), ("C_HALF", 1)],
        }
    }
}

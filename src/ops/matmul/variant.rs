//! The ways to make a product, and what each needs of an adapter.

use super::precision::Precision;
use crate::gpu::Caps;

/// A way to make the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Tiles staged through workgroup memory, a block of results an invocation: for hardware.
    Tiled {
        /// Rows of C a workgroup makes.
        rows: u32,
        /// Columns of C a workgroup makes.
        cols: u32,
        /// Length of K that is staged at a time.
        depth: u32,
        /// Rows of C an invocation makes, a multiple of four.
        thread_rows: u32,
        /// Columns of C an invocation makes, a multiple of four.
        thread_cols: u32,
    },
    /// Small matrices that subgroups multiply as a whole (tensor cores); tiles staged through workgroup
    /// memory while the ones before are multiplied. **Not yet run on hardware.**
    Cooperative {
        /// Rows of C a workgroup makes.
        rows: u32,
        /// Columns of C a workgroup makes.
        cols: u32,
        /// Length of K that is staged at a time.
        depth: u32,
        /// Whether A and B are of single precision instead of half.
        single: bool,
        /// Side of the small matrices: 8 or 16.
        fragment: u32,
        /// Small matrices of C a subgroup makes, down and across: 2 or 4.
        fragments: u32,
        /// Invocations of a subgroup, at least and at most.
        subgroups: (u32, u32),
        /// Plain arithmetic in place of cooperative matrices; see [`PLAIN`].
        plain: bool,
    },
    /// Results in the registers of one subgroup of eight, which shares what its lanes load: for software
    /// adapters.
    Broadcast {
        /// Rows of C a subgroup makes, a multiple of eight; it makes 32 columns.
        rows: u32,
    },
}

impl Variant {
    const fn tiled(rows: u32, cols: u32, depth: u32, thread_rows: u32, thread_cols: u32) -> Self {
        Self::Tiled { rows, cols, depth, thread_rows, thread_cols }
    }

    const fn cooperative(side: u32, fragment: u32, fragments: u32) -> Self {
        let subgroups = (32, 32);
        let (single, plain) = (false, false);
        Self::Cooperative { rows: side, cols: side, depth: 32, single, fragment, fragments, subgroups, plain }
    }

    /// Of single precision, staged half as deep, in as many bytes.
    const fn single(self) -> Self {
        match self {
            Self::Cooperative { rows, cols, depth, fragment, fragments, subgroups, plain, .. } => {
                let (depth, single) = (depth / 2, true);
                Self::Cooperative { rows, cols, depth, single, fragment, fragments, subgroups, plain }
            }
            other => other,
        }
    }

    /// With plain arithmetic, in subgroups of `least` that are laid out for `most`.
    const fn plainly(self, least: u32, most: u32) -> Self {
        match self {
            Self::Cooperative { rows, cols, depth, single, fragment, fragments, .. } => {
                let (subgroups, plain) = ((least, most), true);
                Self::Cooperative { rows, cols, depth, single, fragment, fragments, subgroups, plain }
            }
            other => other,
        }
    }

    /// In the subgroups that an adapter has.
    pub(super) fn on(mut self, caps: &Caps) -> Self {
        if let (Self::Cooperative { subgroups, plain: false, .. }, Some(there)) =
            (&mut self, caps.cooperative_subgroups())
        {
            *subgroups = there;
        }
        self
    }

    /// Rows and columns of C that one workgroup makes.
    pub fn tile(self) -> (usize, usize) {
        match self {
            Self::Tiled { rows, cols, .. } | Self::Cooperative { rows, cols, .. } => {
                (rows as usize, cols as usize)
            }
            Self::Broadcast { rows } => (rows as usize, 32),
        }
    }

    /// Whether it makes products of this precision.
    pub(super) fn makes(self, precision: Precision) -> bool {
        match self {
            Self::Cooperative { single, .. } => single == (precision == Precision::Single),
            _ => true,
        }
    }

    /// Invocations in a workgroup.
    pub(super) fn invocations(self) -> u32 {
        match self {
            Self::Tiled { rows, cols, thread_rows, thread_cols, .. } => {
                (rows / thread_rows) * (cols / thread_cols)
            }
            Self::Cooperative { rows, cols, fragment, fragments, subgroups, .. } => {
                subgroups.1 * (rows * cols) / (fragment * fragments).pow(2)
            }
            Self::Broadcast { .. } => 8,
        }
    }

    pub(super) fn fits(self, caps: &Caps) -> bool {
        match self {
            Self::Tiled { rows, cols, depth, .. } => {
                let bytes = depth * (rows + cols) * 4;
                self.invocations() <= caps.workgroup_size && bytes <= caps.workgroup_bytes
            }
            Self::Cooperative { rows, cols, depth, single, fragment, subgroups, plain, .. } => {
                let there = caps.cooperative;
                let has = match (fragment, single) {
                    (16, false) => there.sixteen,
                    (8, false) => there.eight,
                    (8, true) => there.eight_single,
                    _ => false,
                };
                let runs = plain || (has && caps.cooperative_subgroups() == Some(subgroups));
                // two tiles of either operand, each row with its padding, and two small matrices of sums a
                // subgroup
                let bytes = if single { 4 } else { 2 };
                let staged = 2 * bytes * ((rows + cols) * (depth + 8)).max(depth * (rows + cols + 16));
                let bytes = staged + 2 * self.invocations() / subgroups.0 * fragment * fragment * 4;
                let fits = self.invocations() <= caps.workgroup_size && bytes <= caps.workgroup_bytes;
                runs && (caps.f16 || single) && fits
            }
            Self::Broadcast { rows } => {
                caps.fixed_subgroup_size() == Some(8) && rows * 8 * 16 <= caps.workgroup_bytes
            }
        }
    }
}

/// For large products.
pub(super) const LARGE: Variant = Variant::tiled(128, 128, 16, 8, 8);
/// For products that would leave a large GPU idle with larger tiles.
pub(super) const MEDIUM: Variant = Variant::tiled(64, 64, 32, 4, 4);
/// For few rows and columns.
pub(super) const SMALL: Variant = Variant::tiled(32, 32, 32, 4, 4);
/// For few rows.
pub(super) const FLAT: Variant = Variant::tiled(16, 128, 16, 4, 4);
/// For software adapters; more rows a load, and longer to compile.
pub(super) const SHARED: Variant = Variant::Broadcast { rows: 24 };
/// The same for few rows.
pub(super) const SHARED_FLAT: Variant = Variant::Broadcast { rows: 8 };

/// For large products of half precision: 64×64 results a subgroup.
pub(super) const TENSOR: Variant = Variant::cooperative(128, 16, 4);
/// For those that would leave a large GPU idle with larger tiles: 32×32 results a subgroup.
pub(super) const TENSOR_SMALL: Variant = Variant::cooperative(64, 16, 2);
/// For adapters with small matrices of 8×8: 32×32 results a subgroup.
pub(super) const TENSOR_EIGHT: Variant = Variant::cooperative(64, 8, 4);
/// The same of single precision.
pub(super) const TENSOR_SINGLE: Variant = TENSOR_EIGHT.single();
/// The kernels for cooperative matrices with plain arithmetic in their place, for tests of all the rest on
/// adapters without them, the last laid out for larger subgroups than it has: no plan has them.
pub const PLAIN: [Variant; 3] =
    [TENSOR_SMALL.plainly(32, 32), TENSOR_EIGHT.plainly(32, 32), TENSOR_EIGHT.plainly(32, 64)];
/// The same of single precision.
pub const PLAIN_SINGLE: Variant = TENSOR_SINGLE.plainly(32, 32);

/// All variants that an adapter can run for matrices of this precision.
pub fn variants(caps: &Caps, precision: Precision) -> Vec<Variant> {
    [LARGE, MEDIUM, SMALL, FLAT, SHARED, SHARED_FLAT, TENSOR, TENSOR_SMALL, TENSOR_EIGHT, TENSOR_SINGLE]
        .into_iter()
        .map(|v| v.on(caps))
        .filter(|v| v.fits(caps) && v.makes(precision))
        .filter(|_| caps.f16 || precision == Precision::Single)
        .collect()
}

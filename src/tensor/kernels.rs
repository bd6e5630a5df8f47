//! The list of this floor's kernels.

use super::{cast, elementwise, fill, strided_copy};
use crate::gpu::{Caps, Kernel};

/// Every kernel variant of this floor that an adapter with these capabilities may be asked for.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    [cast::kernels(caps), elementwise::kernels(caps), fill::kernels(caps), strided_copy::kernels(caps)]
        .concat()
}

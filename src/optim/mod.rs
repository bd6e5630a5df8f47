//! AdamW, whole or split over ranks, parameter groups, schedules; SGD for linear probes.

pub mod adamw;
pub mod adamw_own;
pub mod groups;
pub mod loss_scale;
pub mod schedules;
pub mod settings;
pub mod sgd;
pub mod shard;

use crate::gpu::{Caps, Kernel};

/// Every kernel variant of the optimisers that an adapter with these capabilities may be asked for.
pub fn kernels(caps: &Caps) -> Vec<Kernel> {
    [adamw::kernels(caps), sgd::kernels(caps)].concat()
}

//! What several ranks (processes with a device each) share out: which of how many one is, and how far they have come
//! through the samples together.

use serde::{Deserialize, Serialize};

/// Which of how many ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The rank, from 0.
    pub rank: usize,
    /// Number of ranks, at least 1.
    pub ranks: usize,
}

impl Share {
    /// The share of the only rank: all of it.
    pub const ALL: Self = Self { rank: 0, ranks: 1 };

    /// The number of this rank's `index`-th of `each` things that every rank has, counted through all ranks.
    pub const fn number(self, each: usize, index: usize) -> usize {
        self.rank * each + index
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::ALL
    }
}

/// A place in the samples of a run: a number that means the same for any number of ranks and any size of batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The epoch, from 0.
    pub epoch: u64,
    /// Samples of that epoch that were used before, by all ranks together.
    pub position: u64,
}

//! Throughput of the kernels and of whole training steps: the cases of `cargo bench`, and of `poa-gpu bench`,
//! which runs the short set on a user's own device. Every case is compared with plain arithmetic on a few
//! elements before it is timed, and its rate is held against what the device does at best.

mod attention;
pub mod block;
pub mod collective;
mod harness;
mod losses;
mod optimizer;
mod products;
mod rows;
mod steps;

use crate::error::Result;

pub use harness::{Bench, Case, Event, Set, Sink, median};

/// What the names of the cases of [`Set::Short`] begin with.
pub const SHORT: [&str; 7] =
    ["matmul", "attention", "layernorm", "cross_entropy", "sinkhorn", "adamw", "step"];

impl Bench {
    /// Runs all that is wanted.
    pub fn run(&self, sink: &mut Sink) -> Result<()> {
        products::run(self, sink)?;
        attention::run(self, sink)?;
        rows::run(self, sink)?;
        block::run(self, sink)?;
        losses::run(self, sink)?;
        optimizer::run(self, sink)?;
        steps::run(self, sink)
    }
}

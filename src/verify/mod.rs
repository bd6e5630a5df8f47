//! Replaying recorded training steps: what a machine computes is compared, quantity by quantity, with numbers
//! recorded from the official code, on one rank or several.

mod compare;
mod fixture;
mod replay;
mod threads;

pub use compare::Check;
pub use fixture::Fixture;
pub use replay::{Replay, replay};
pub use threads::replay_on_threads;

//! Replaying recorded training steps: what a machine computes is compared, quantity by quantity, with numbers
//! recorded from the official code.

mod fixture;
mod replay;

pub use fixture::Fixture;
pub use replay::{Check, Replay, replay};

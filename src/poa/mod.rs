//! POA: three branches, their targets and losses, and the training step.

pub mod losses;
pub mod model;
pub mod step;

pub use model::PoaModel;
pub use step::StepInputs;

//! POA: three branches, their targets and losses, and the training step.

pub mod losses;
pub mod model;
pub mod schedules;
pub mod settings;
pub mod step;

pub use model::PoaModel;
pub use settings::Settings;
pub use step::StepInputs;

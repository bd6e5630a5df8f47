//! POA: three branches, their targets and losses, the training step, and POA as a task of the trainer.

pub mod advice;
pub mod ahead;
pub mod branches;
pub mod draws;
pub mod evaluation;
pub mod forecast;
pub mod health;
pub mod losses;
pub mod model;
pub mod numbers;
pub mod rows;
pub mod schedules;
pub mod settings;
pub mod step;
mod targets;
pub mod task;
pub mod traffic;

pub use model::PoaModel;
pub use settings::Settings;
pub use step::StepInputs;
pub use task::PoaTask;

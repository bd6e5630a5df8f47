//! Distillation from a frozen teacher: a student of any size learns without labels to be as similar to a queue of images as
//! the teacher is (SEED, Fang et al. 2021): what the paper compares POA's sub-networks with.
//!
//! ```text
//! settings.rs    the sections of its recipes: distill, crops, train, evaluation
//! length.rs      how long a run is, its learning rate, its loader
//! teacher.rs     the frozen network whose embeddings are the targets
//! model.rs       the student with its head, its average, AdamW, the step
//! queue.rs       the teacher's embeddings of earlier images
//! task.rs        as a task of the trainer
//! evaluation.rs  k-NN of the student while it learns
//! ```

mod evaluation;
mod length;
mod model;
mod queue;
mod settings;
mod task;
mod teacher;

pub use model::DistillModel;
pub use queue::Queue;
pub use settings::{Distill, DistillCrops, DistillEvaluation, DistillTrain, Settings, TeacherOutput};
pub use task::DistillTask;
pub use teacher::FrozenTeacher;

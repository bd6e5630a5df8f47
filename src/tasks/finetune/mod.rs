//! Fine-tuning: a network that was pre-trained is trained as a whole, with a linear classifier on top, on images with
//! labels (official `poa/eval/{finetuning,transfer_learning}.py`).
//!
//! ```text
//! settings.rs    the sections of its recipes
//! model.rs       network, classifier, their moving average, AdamW
//! data.rs        the images to train on, those to be judged by
//! task.rs        as a task of the trainer
//! evaluation.rs  what the average is right about, and the best so far as a network for timm
//! tuned.rs       that network with its classifier, to be looked at
//! ```

mod data;
mod evaluation;
mod model;
mod settings;
mod task;
mod tuned;

pub use data::{FinetuneData, open};
pub use evaluation::Accuracy;
pub use model::FinetuneModel;
pub use settings::{Finetune, FinetuneSource, FinetuneTrain, Settings};
pub use task::FinetuneTask;
pub use tuned::Tuned;

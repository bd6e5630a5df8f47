//! Semantic segmentation: a head that makes a class of every pixel is trained on a network's maps, the network frozen or tuned
//! with it (official `poa/eval/semantic_segmentation`, which configures mmsegmentation).
//!
//! ```text
//! settings.rs    the sections of its recipes
//! heads/         linear, UPerNet
//! model.rs       network, head, running statistics, AdamW
//! loss.rs        cross-entropy of every pixel, with logits brought to their size
//! data.rs        the images to train on, those to be judged by
//! judging.rs     a class for every pixel of whole images, window by window
//! task.rs        as a task of the trainer
//! results.rs     the best so far as files, pictures of what is predicted
//! ```

mod data;
pub mod heads;
mod judging;
mod loss;
mod model;
mod results;
mod settings;
mod task;

pub use data::{SegmentData, open};
pub use loss::pixel_loss;
pub use model::SegmentModel;
pub use results::Quality;
pub use settings::{Segment, SegmentSource, Settings};
pub use task::SegmentTask;

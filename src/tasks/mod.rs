//! Tasks beside POA, in the same trainer: fine-tuning, segmentation.

mod best;
pub mod finetune;
pub mod segment;

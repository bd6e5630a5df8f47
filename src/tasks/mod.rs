//! Tasks beside POA, in the same trainer: fine-tuning, segmentation, distillation from a frozen teacher.

mod best;
pub mod distill;
pub mod finetune;
pub mod segment;

//! Tasks beside POA, in the same trainer: fine-tuning, distillation from a frozen teacher.

pub mod distill;
pub mod finetune;

//! Tasks beside POA, in the same trainer: fine-tuning.

pub mod finetune;

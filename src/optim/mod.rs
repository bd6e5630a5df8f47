//! AdamW, parameter groups, schedules; SGD for linear probes.

pub mod adamw;
pub mod groups;
pub mod loss_scale;
pub mod schedules;
pub mod settings;
pub mod sgd;

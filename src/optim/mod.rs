//! AdamW, parameter groups, schedules; SGD for linear probes.

pub mod adamw;
pub mod groups;
pub mod schedules;
pub mod sgd;

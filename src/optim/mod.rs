//! AdamW, parameter groups, schedules.

pub mod adamw;
pub mod groups;
pub mod schedules;

//! AdamW, parameter groups, schedules.

pub mod groups;
pub mod schedules;

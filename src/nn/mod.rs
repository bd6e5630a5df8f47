//! Parameters in flat buffers, and the layers that read slices of them.

pub mod elastic;
pub mod head;
pub mod parameters;

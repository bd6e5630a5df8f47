//! The heads by their kinds.

use crate::error::Result;
use crate::models::maps::MapPlace;
use crate::tasks::segment::heads::head::{Head, HeadKind, HeadSizes};
use crate::tasks::segment::heads::linear::Linear;
use crate::tasks::segment::heads::upernet::Upernet;

/// A head for maps of these places. What does not go is an error.
pub fn open(kind: HeadKind, sizes: HeadSizes, places: &[MapPlace]) -> Result<Box<dyn Head>> {
    Ok(match kind {
        HeadKind::Linear => Box::new(Linear::new(sizes, places)),
        HeadKind::Upernet => Box::new(Upernet::new(sizes, places)?),
    })
}

//! Queries of some tokens alone: a sequence's keys and values are of all its tokens.

use super::SequenceGroup;
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// How many queries each sequence has, in the order of the sequences.
#[derive(Clone)]
pub struct Queries {
    pub(super) counts: Vec<usize>,
    /// [`Queries::words`] on the device.
    pub(super) table: Tensor,
}

impl Queries {
    /// What kernels know of the sequences, four words each: its first query, its queries, its first key, its keys.
    pub fn words(groups: &[SequenceGroup], counts: &[usize]) -> Vec<u32> {
        let (mut words, mut query, mut key) = (Vec::with_capacity(4 * counts.len()), 0, 0);
        for (&count, length) in counts.iter().zip(SequenceGroup::lengths(groups)) {
            words.extend([query, count, key, length].map(|n| n as u32));
            query += count;
            key += length;
        }
        words
    }

    /// Queries with their [`Queries::words`] on the device.
    pub fn new(counts: Vec<usize>, table: Tensor) -> Result<Self> {
        if table.elements() != 4 * counts.len() || table.dtype() != DType::U32 {
            return Err(Error::shape("attention", format!("{table:?} for {} sequences", counts.len())));
        }
        Ok(Self { counts, table })
    }
}

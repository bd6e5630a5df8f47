//! What it takes ranks to meet, and to add up lists. What comes out is checked before anything is timed.

use std::time::Instant;

use super::harness::{median, wrong};
use crate::collective::Collective;
use crate::error::Result;
use crate::memory;

/// Bytes of the smallest and of the largest list that is added up.
pub const SIZES: (usize, usize) = (4 << 10, 256 << 20);

/// Times that a small message is timed.
const ROUNDS: usize = 500;

/// Seconds that one size is timed for, about.
const TIME: f64 = 1.0;

/// Lists that a rank holds during a sum: what goes in, a copy of it, what is sent, what is received, and what comes out.
const HELD: u64 = 5;

/// How long a sum over ranks takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sum {
    /// Bytes of the list.
    pub bytes: usize,
    /// Seconds on the rank that takes longest, the middle of several.
    pub seconds: f64,
}

impl Sum {
    /// Bytes of the list a second.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    /// Bytes a second that each of `ranks` ranks sends, and receives, at least: 2·(R−1)/R of the list.
    pub fn bus_rate(&self, ranks: usize) -> f64 {
        2.0 * (ranks - 1) as f64 / ranks as f64 * self.rate()
    }
}

/// Seconds until all ranks have met, with a message of so many bytes from each to each.
pub fn meeting(ranks: &Collective, bytes: usize) -> Result<f64> {
    let own = |rank: usize| (0..bytes).map(|i| (1 + i * 7 + rank * 31) as u8).collect::<Vec<u8>>();
    let got = ranks.gather(own(ranks.rank()))?;
    if got.len() != ranks.size() || got.iter().enumerate().any(|(rank, got)| **got != own(rank)) {
        return Err(wrong("gather", "other messages than were sent"));
    }
    for _ in 0..ROUNDS / 10 {
        ranks.gather(own(ranks.rank()))?;
    }
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let message = own(ranks.rank());
        let start = Instant::now();
        ranks.gather(message)?;
        times.push(start.elapsed().as_secs_f64());
    }
    slowest(ranks, times)
}

/// How long the sum of lists of so many bytes takes; `None` where some rank has too little memory for it.
pub fn sum(ranks: &Collective, bytes: usize) -> Result<Option<Sum>> {
    let beside = ranks.on_host().1 as u64;
    let fits = memory::available().is_none_or(|free| beside * HELD * bytes as u64 <= free);
    if ranks.tell(fits)?.contains(&false) {
        return Ok(None);
    }
    let count = bytes / size_of::<f32>();
    let values: Vec<f32> = (0..count).map(|i| value(ranks.rank(), i)).collect();
    let once = || -> Result<(Vec<f32>, f64)> {
        let values = values.clone();
        ranks.barrier()?;
        let start = Instant::now();
        let sums = match ranks.sum_later(values)? {
            Some(sums) => sums.wait()?,
            None => Vec::new(),
        };
        Ok((sums, start.elapsed().as_secs_f64()))
    };
    let (sums, first) = once()?;
    let expected = |i: usize| (0..ranks.size()).map(|rank| f64::from(value(rank, i))).sum::<f64>() as f32;
    if sums.len() != count || sums.iter().enumerate().any(|(i, sum)| *sum != expected(i)) {
        return Err(wrong("sum", format!("other sums of {count} elements")));
    }
    drop(sums);
    let repeats = ranks.hear_first((TIME / first.max(1e-9)).clamp(5.0, 300.0) as usize)?;
    let times = (0..repeats).map(|_| once().map(|(_, seconds)| seconds)).collect::<Result<_>>()?;
    Ok(Some(Sum { bytes, seconds: slowest(ranks, times)? }))
}

/// Something of a list, from −1 to 1, other on every rank.
fn value(rank: usize, i: usize) -> f32 {
    let mixed = ((i as u32) ^ (rank as u32).rotate_left(20)).wrapping_mul(0x9e37_79b9);
    ((mixed ^ mixed >> 15) >> 8) as f32 / (1 << 23) as f32 - 1.0
}

/// The middle over repeats of the time of the rank that was slowest at each.
fn slowest(ranks: &Collective, own: Vec<f64>) -> Result<f64> {
    let all = ranks.tell(own)?;
    let repeats = all.iter().map(Vec::len).min().unwrap_or(0);
    Ok(median((0..repeats).map(|i| all.iter().map(|times| times[i]).fold(0.0, f64::max)).collect()))
}

//! What ranks make of each other's messages: sums in rank order above all. Every element is added up by one
//! rank, from what all ranks have sent it, and the result goes back to all: each rank sends and receives
//! 2·(R−1)/R of the elements, as a ring does, and what is added in which order depends on ranks alone.

use std::ops::Range;
use std::sync::Arc;

use crate::collective::transport::{Message, Transport, Watch};
use crate::cpu::Arch;
use crate::error::{Error, Result};

/// Elements up to which every rank adds up all of them itself: one message less to wait for.
const FEW: usize = 1024;

/// Elements that are added up at a time.
const BLOCK: usize = 1024;

/// A transport with what is made of its messages.
pub struct Exchanger {
    transport: Box<dyn Transport>,
    watch: Watch,
}

/// A number that travels between ranks.
pub(super) trait Number: Copy {
    const BYTES: usize;
    fn write(values: &[Self], to: &mut Vec<u8>);
    /// The elements of `bytes`, appended to `to`.
    fn read(bytes: &[u8], to: &mut Vec<Self>);
}

macro_rules! number {
    ($type:ty) => {
        impl Number for $type {
            const BYTES: usize = size_of::<$type>();

            fn write(values: &[Self], to: &mut Vec<u8>) {
                match cfg!(target_endian = "little") {
                    true => to.extend_from_slice(bytemuck::cast_slice(values)),
                    false => values.iter().for_each(|v| to.extend_from_slice(&v.to_le_bytes())),
                }
            }

            fn read(bytes: &[u8], to: &mut Vec<Self>) {
                let elements = bytes.as_chunks::<{ size_of::<$type>() }>().0.iter();
                to.extend(elements.map(|b| <$type>::from_le_bytes(*b)));
            }
        }
    };
}
number!(f32);
number!(f64);

/// Adds up the elements of all ranks, in their order.
type Add<T> = fn(&[&[u8]], &mut Vec<T>);

impl Exchanger {
    pub(super) fn new(transport: Box<dyn Transport>, watch: Watch) -> Self {
        Self { transport, watch }
    }

    pub(super) fn set_watch(&mut self, watch: Watch) {
        self.watch = watch;
    }

    pub(super) fn rank(&self) -> usize {
        self.transport.rank()
    }

    pub(super) fn size(&self) -> usize {
        self.transport.size()
    }

    pub(super) fn abort(&mut self, why: &str) {
        self.transport.abort(why);
    }

    /// One message to every rank, and one from every rank.
    pub(super) fn exchange(&mut self, messages: Vec<Message>) -> Result<Vec<Message>> {
        debug_assert_eq!(messages.len(), self.size());
        let got = self.transport.exchange(messages, &self.watch);
        if let Err(e @ Error::Ranks(_)) = &got {
            // those that wait as this one did
            self.transport.abort(&e.to_string());
        }
        got
    }

    /// The same message to all ranks.
    pub(super) fn gather(&mut self, message: Vec<u8>) -> Result<Vec<Message>> {
        let (message, size) = (Arc::new(message), self.size());
        self.exchange(vec![message; size])
    }

    /// Rank `root`'s message, on all ranks.
    pub(super) fn broadcast(&mut self, root: usize, message: Message) -> Result<Message> {
        let mine = if self.rank() == root { message } else { Message::default() };
        let size = self.size();
        let mut got = self.exchange(vec![mine; size])?;
        Ok(got.swap_remove(root))
    }

    /// The sums over ranks, element by element.
    pub(super) fn sum(&mut self, values: Vec<f32>) -> Result<Vec<f32>> {
        self.reduce(values, add_up)
    }

    /// The sums over ranks of the elements that this rank has in `parts`, one part for each rank.
    pub(super) fn sum_part(&mut self, values: &[f32], parts: &[Range<usize>]) -> Result<Vec<f32>> {
        debug_assert_eq!(parts.len(), self.size());
        let messages = parts.iter().map(|part| message(&values[part.clone()])).collect();
        self.reduced(messages, parts[self.rank()].len(), add_up)
    }

    /// The elements of all ranks, of which rank `r` has `lengths[r]`, one after the other.
    pub(super) fn join<T: Number>(&mut self, own: &[T], lengths: &[usize]) -> Result<Vec<T>> {
        let size = self.size();
        let got = self.exchange(vec![message(own); size])?;
        self.check(&got, |r| lengths[r] * T::BYTES)?;
        let mut all = Vec::with_capacity(lengths.iter().sum());
        got.iter().for_each(|part| T::read(part, &mut all));
        Ok(all)
    }

    /// What every rank says, on rank 0; nothing on the others.
    pub(super) fn gather_first(&mut self, own: Vec<u8>) -> Result<Vec<Message>> {
        let mut messages = vec![Message::default(); self.size()];
        messages[0] = Arc::new(own);
        self.exchange(messages)
    }

    /// log Σ exp over ranks, element by element; −∞ stands for nothing.
    pub(super) fn log_sum_exp(&mut self, values: Vec<f64>) -> Result<Vec<f64>> {
        self.reduce(values, log_add_up)
    }

    fn reduce<T: Number>(&mut self, values: Vec<T>, add: Add<T>) -> Result<Vec<T>> {
        let (rank, size, count) = (self.rank(), self.size(), values.len());
        if count <= FEW.max(size) {
            return self.reduced(vec![message(&values); size], count, add);
        }
        let parts = || (0..size).map(|r| part_of(count, r, size));
        let messages = parts().map(|part| message(&values[part])).collect();
        let sums = self.reduced(messages, part_of(count, rank, size).len(), add)?;
        self.join(&sums, &parts().map(|part| part.len()).collect::<Vec<_>>())
    }

    /// Sends each rank its message, and adds up `count` elements that all have sent here.
    fn reduced<T: Number>(&mut self, messages: Vec<Message>, count: usize, add: Add<T>) -> Result<Vec<T>> {
        let got = self.exchange(messages)?;
        self.check(&got, |_| count * T::BYTES)?;
        let got: Vec<&[u8]> = got.iter().map(|m| m.as_slice()).collect();
        let mut sums = Vec::with_capacity(count);
        add(&got, &mut sums);
        Ok(sums)
    }

    /// That all ranks take part in the same exchange: each has sent as much as belongs here.
    fn check(&self, got: &[Message], bytes: impl Fn(usize) -> usize) -> Result<()> {
        match got.iter().enumerate().find(|(r, m)| m.len() != bytes(*r)) {
            None => Ok(()),
            Some((r, m)) => Err(unequal(
                &format!("{} bytes from {}", m.len(), self.watch.name(r)),
                &format!("{} here", bytes(r)),
            )),
        }
    }
}

/// Numbers as they travel.
fn message<T: Number>(values: &[T]) -> Message {
    let mut bytes = Vec::with_capacity(values.len() * T::BYTES);
    T::write(values, &mut bytes);
    Arc::new(bytes)
}

fn unequal(there: &str, here: &str) -> Error {
    Error::Ranks(format!(
        "ranks are out of step: {there} where {here} belong; this is an error of the program"
    ))
}

/// Which elements rank `rank` of `ranks` adds up: as even parts as whole blocks allow.
pub(super) fn part_of(count: usize, rank: usize, ranks: usize) -> Range<usize> {
    const ALIGN: usize = 16;
    let blocks = count.div_ceil(ALIGN);
    let at = |r: usize| (blocks * r / ranks * ALIGN).min(count);
    at(rank)..at(rank + 1)
}

/// What one rank sends so that a list is added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SumCost {
    /// Times that all ranks send each other a message.
    pub exchanges: usize,
    /// Bytes to all other ranks together.
    pub sent: usize,
}

impl SumCost {
    /// What rank `rank` of `ranks` sends for a sum of `count` elements of `bytes` bytes each.
    pub fn of(count: usize, bytes: usize, rank: usize, ranks: usize) -> Self {
        let others = ranks.saturating_sub(1);
        if others == 0 {
            return Self::default();
        }
        if count <= FEW.max(ranks) {
            return Self { exchanges: 1, sent: count * bytes * others };
        }
        let own = part_of(count, rank, ranks).len();
        Self { exchanges: 2, sent: (count - own + own * others) * bytes }
    }
}

/// Adds up the elements of all ranks in rank order, in double precision.
fn add_up(parts: &[&[u8]], sums: &mut Vec<f32>) {
    let arch = Arch::get();
    let parts: Vec<&[[u8; 4]]> = parts.iter().map(|part| part.as_chunks().0).collect();
    let Some(count) = parts.first().map(|part| part.len()) else { return };
    sums.resize(count, 0.0);
    for (start, out) in (0..).step_by(BLOCK).zip(sums.chunks_mut(BLOCK)) {
        let range = start..start + out.len();
        arch.run(
            #[inline(always)]
            |_| {
                let mut all = [0.0f64; BLOCK];
                for part in &parts {
                    for (sum, v) in all.iter_mut().zip(&part[range.clone()]) {
                        *sum += f64::from(f32::from_le_bytes(*v));
                    }
                }
                for (out, sum) in out.iter_mut().zip(&all) {
                    *out = *sum as f32;
                }
            },
        );
    }
}

/// log Σ exp of the elements of all ranks, in rank order.
fn log_add_up(parts: &[&[u8]], sums: &mut Vec<f64>) {
    let parts: Vec<&[[u8; 8]]> = parts.iter().map(|part| part.as_chunks().0).collect();
    let Some(count) = parts.first().map(|part| part.len()) else { return };
    sums.extend((0..count).map(|i| {
        let all = parts.iter().map(|part| f64::from_le_bytes(part[i]));
        let max = all.clone().fold(f64::NEG_INFINITY, f64::max);
        match max == f64::NEG_INFINITY {
            true => max,
            false => max + all.map(|v| (v - max).exp()).sum::<f64>().ln(),
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_elements_once() {
        for (count, ranks) in [(0, 3), (1, 4), (1025, 4), (4096, 3), (100, 7), (17, 2)] {
            let parts: Vec<_> = (0..ranks).map(|r| part_of(count, r, ranks)).collect();
            assert_eq!(parts[0].start, 0);
            assert_eq!(parts[ranks - 1].end, count);
            assert!(parts.windows(2).all(|w| w[0].end == w[1].start), "{count} over {ranks}");
        }
    }

    #[test]
    fn a_rank_with_nothing_adds_nothing_to_a_log_sum_exp() {
        let bytes = |values: &[f64]| {
            let mut bytes = Vec::new();
            f64::write(values, &mut bytes);
            bytes
        };
        let (a, b) =
            (bytes(&[0.0, 900.0, f64::NEG_INFINITY]), bytes(&[f64::NEG_INFINITY, 900.0, f64::NEG_INFINITY]));
        let mut sums = Vec::new();
        log_add_up(&[&a, &b], &mut sums);
        assert_eq!(sums, [0.0, 900.0 + 2f64.ln(), f64::NEG_INFINITY]);
    }
}

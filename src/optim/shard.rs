//! Which part of the parameters a rank updates where AdamW is split over ranks (`optim.shard`), and what ranks
//! tell each other for it. A bucket, what gradients travel in, is shared out among all ranks by whole norm
//! blocks, so that every bucket keeps all of them busy alike.

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use crate::collective::{Collective, Pending};
use crate::error::Result;
use crate::nn::parameters::{FlatBuffers, FlatLayout, NORM_BLOCK, Place};
use crate::profile;
use crate::share::Share;
use crate::tensor::{Device, PendingRead, Tensor};

/// Elements of a bucket: large enough that its way costs more than its start, small enough that the last one, for
/// which nothing is left to hide behind, is soon there.
pub const BUCKET: usize = 1 << 20;

/// A part of a flat buffer that travels at once: the buffer's number, and the elements.
pub type Bucket = (usize, Range<usize>);

/// Buckets that are on their way from the device, and between ranks, at a time.
const AHEAD: usize = 3;

/// Parts of flat buffers of at most `most` elements, a multiple of [`NORM_BLOCK`]: those of the last parameters first.
pub fn buckets(layout: &FlatLayout, most: usize) -> Vec<Bucket> {
    const { assert!(BUCKET.is_multiple_of(NORM_BLOCK)) };
    let mut buckets = Vec::new();
    for (buffer, &elements) in layout.buffers().iter().enumerate().rev() {
        let starts = (0..elements).step_by(most).rev();
        buckets.extend(starts.map(|start| (buffer, start..(start + most).min(elements))));
    }
    buckets
}

/// What of a bucket's elements rank `rank` of `ranks` updates: as even parts as whole norm blocks allow.
fn part(bucket: &Range<usize>, rank: usize, ranks: usize) -> Range<usize> {
    let blocks = bucket.len() / NORM_BLOCK;
    let at = |r: usize| bucket.start + blocks * r / ranks * NORM_BLOCK;
    at(rank)..at(rank + 1)
}

/// A rank's part of the parameters.
pub struct Shard {
    layout: Rc<FlatLayout>,
    share: Share,
    ranks: Collective,
    buckets: Vec<Bucket>,
    /// The norm blocks of its part, by buffer: where they lie in the buffer, in norm blocks, ascending.
    blocks: Vec<Vec<u32>>,
    /// The same on the device.
    places: Vec<Tensor>,
    /// The norm blocks of all ranks, in rank order, counted through all buffers; and how many each rank has.
    order: Vec<usize>,
    counts: Vec<usize>,
}

/// A piece of a parameter that lies in a rank's part.
pub(super) struct Piece {
    /// Elements of the parameter.
    pub of_parameter: Range<usize>,
    /// The first of them within the rank's part of the buffer.
    pub start: usize,
}

impl Shard {
    /// The part of `share`, which is that of this rank of `ranks`. Where `ranks` is alone although there are others
    /// in `share`, as in a rehearsal, nothing is exchanged.
    pub fn new(layout: &Rc<FlatLayout>, device: &Device, share: Share, ranks: &Collective) -> Result<Self> {
        let buckets = buckets(layout, BUCKET);
        let mut all: Vec<Vec<Vec<u32>>> =
            (0..share.ranks).map(|rank| blocks(layout, &buckets, rank, share.ranks)).collect();
        let mut firsts = vec![0];
        for elements in layout.buffers() {
            firsts.push(firsts[firsts.len() - 1] + elements / NORM_BLOCK);
        }
        let counts = all.iter().map(|rank| rank.iter().map(Vec::len).sum()).collect();
        let order = all.iter().flat_map(|rank| rank.iter().zip(&firsts));
        let order =
            order.flat_map(|(blocks, first)| blocks.iter().map(move |b| first + *b as usize)).collect();
        let blocks = all.swap_remove(share.rank);
        // there are no tensors without elements
        let on_device = |own: &Vec<u32>| match own.is_empty() {
            true => Tensor::from_slice(device, &[1], &[0u32]),
            false => Tensor::from_slice(device, &[own.len()], own),
        };
        let places = blocks.iter().map(on_device).collect::<Result<_>>()?;
        Ok(Self {
            layout: layout.clone(),
            share,
            ranks: ranks.clone(),
            buckets,
            blocks,
            places,
            order,
            counts,
        })
    }

    /// The parts of all ranks of a bucket, in rank order, counted from its start.
    pub fn parts(&self, bucket: &Range<usize>) -> Vec<Range<usize>> {
        (0..self.share.ranks).map(|rank| part(&(0..bucket.len()), rank, self.share.ranks)).collect()
    }

    /// The elements of a bucket that are this rank's, counted from the start of the buffer.
    pub fn own(&self, bucket: &Range<usize>) -> Range<usize> {
        part(bucket, self.share.rank, self.share.ranks)
    }

    /// The ranks.
    pub(super) fn ranks(&self) -> &Collective {
        &self.ranks
    }

    /// Which ranks, in numbers.
    pub(super) fn share(&self) -> Share {
        self.share
    }

    /// The norm blocks of this rank's part of a buffer: where they lie in it, in norm blocks.
    pub(super) fn blocks(&self, buffer: usize) -> &[u32] {
        &self.blocks[buffer]
    }

    /// The same on the device; one element where there are none.
    pub(super) fn places(&self, buffer: usize) -> &Tensor {
        &self.places[buffer]
    }

    /// Norm blocks of this rank's part of all buffers.
    pub(super) fn count(&self) -> usize {
        self.counts[self.share.rank]
    }

    /// Zeros for this rank's part of every buffer; a norm block at least.
    pub(super) fn zeros(&self, device: &Device) -> Result<FlatBuffers> {
        let sizes: Vec<usize> = self.blocks.iter().map(|own| own.len().max(1) * NORM_BLOCK).collect();
        FlatBuffers::zeros_of_sizes(&self.layout, device, &sizes)
    }

    /// One number for each norm block of all buffers, in their order, from those of this rank's own.
    pub(super) fn numbers_of_all(&self, own: Vec<f32>) -> Result<Vec<f32>> {
        let mut numbers = vec![0.0; self.order.len()];
        if let Some(joined) = self.ranks.join_later(own, self.counts.clone())? {
            for (place, number) in self.order.iter().zip(joined.wait()?) {
                numbers[*place] = number;
            }
        }
        Ok(numbers)
    }

    /// Gives all ranks each other's parts of `values`.
    pub(super) fn gather(&self, values: &FlatBuffers) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        let _phase = profile::phase("gather parameters");
        let mut all = Gathering { shard: self, values, reading: VecDeque::new(), coming: VecDeque::new() };
        for bucket in &self.buckets {
            let own = values.buffers()[bucket.0].slice(0, self.own(&bucket.1))?;
            all.reading.push_back((bucket, own.read_later()?));
            all.pass_on(AHEAD)?;
            all.take(AHEAD)?;
        }
        all.pass_on(0)?;
        all.take(0)
    }

    /// The pieces of a parameter that lie in a rank's part, in order.
    pub(super) fn pieces(&self, rank: usize, place: &Place) -> Vec<Piece> {
        let (mut pieces, mut start) = (Vec::new(), 0);
        for (_, bucket) in self.buckets.iter().rev().filter(|(buffer, _)| *buffer == place.buffer) {
            let own = part(bucket, rank, self.share.ranks);
            let common = own.start.max(place.range.start)..own.end.min(place.range.end);
            if common.start < common.end {
                let of_parameter = common.start - place.range.start..common.end - place.range.start;
                pieces.push(Piece { of_parameter, start: start + common.start - own.start });
            }
            start += own.len();
        }
        pieces
    }
}

/// The norm blocks of a rank, by buffer, ascending.
fn blocks(layout: &FlatLayout, buckets: &[Bucket], rank: usize, ranks: usize) -> Vec<Vec<u32>> {
    let mut blocks = vec![Vec::new(); layout.buffers().len()];
    for (buffer, bucket) in buckets.iter().rev() {
        let own = part(bucket, rank, ranks);
        blocks[*buffer].extend((own.start / NORM_BLOCK..own.end / NORM_BLOCK).map(|b| b as u32));
    }
    blocks
}

/// Buckets on their way to all ranks.
struct Gathering<'a> {
    shard: &'a Shard,
    values: &'a FlatBuffers,
    /// From the device.
    reading: VecDeque<(&'a Bucket, PendingRead)>,
    /// Between ranks.
    coming: VecDeque<(&'a Bucket, Pending<Vec<f32>>)>,
}

impl Gathering<'_> {
    /// Passes what has come from the device on to the other ranks, but for the last `behind` buckets.
    fn pass_on(&mut self, behind: usize) -> Result<()> {
        while self.reading.len() > behind {
            let Some((bucket, read)) = self.reading.pop_front() else { break };
            let lengths = self.shard.parts(&bucket.1).iter().map(ExactSizeIterator::len).collect();
            let joined = self.shard.ranks.join_later(read.wait()?, lengths)?;
            self.coming.extend(joined.map(|joined| (bucket, joined)));
        }
        Ok(())
    }

    /// Takes the parts of other ranks, but for those of the last `behind` buckets.
    fn take(&mut self, behind: usize) -> Result<()> {
        while self.coming.len() > behind {
            let Some((bucket, joined)) = self.coming.pop_front() else { break };
            let (joined, own) = (joined.wait()?, self.shard.own(&bucket.1));
            for others in [bucket.1.start..own.start, own.end..bucket.1.end] {
                let came = others.start - bucket.1.start..others.end - bucket.1.start;
                if !came.is_empty() {
                    self.values.buffers()[bucket.0].slice(0, others)?.upload(&joined[came])?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::parameters::{Init, ParameterSpec};

    #[test]
    fn every_norm_block_has_one_rank_and_every_element_of_a_parameter_lies_in_one_piece() {
        let sizes = [3, BUCKET / 2, BUCKET / 2, 2 * BUCKET + 5, 64, 1];
        let spec = |(i, n): (usize, &usize)| ParameterSpec::new(format!("a.{i}"), &[*n], Init::Constant(0.0));
        for (limit, ranks) in [(usize::MAX, 2), (4 * 3 * BUCKET, 3), (usize::MAX, 5)] {
            let layout =
                FlatLayout::new(&sizes.iter().enumerate().map(spec).collect::<Vec<_>>(), limit).unwrap();
            let of = |rank| {
                Shard::new(&layout, &Device::cpu(), Share { rank, ranks }, &Collective::alone()).unwrap()
            };
            let shards: Vec<Shard> = (0..ranks).map(of).collect();
            for (buffer, elements) in layout.buffers().iter().enumerate() {
                let mut all: Vec<u32> = shards.iter().flat_map(|s| s.blocks(buffer).to_vec()).collect();
                all.sort_unstable();
                assert!(all.into_iter().eq(0..(elements / NORM_BLOCK) as u32), "{ranks} ranks");
            }
            let counts: Vec<usize> = shards.iter().map(Shard::count).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= shards[0].buckets.len(), "{counts:?}");
            for place in layout.places() {
                let mut seen = vec![0; place.range.len()];
                for (rank, shard) in shards.iter().enumerate() {
                    for piece in shards[0].pieces(rank, place) {
                        for (k, element) in piece.of_parameter.clone().enumerate() {
                            seen[element] += 1;
                            let (at, inside) =
                                ((piece.start + k) / NORM_BLOCK, (piece.start + k) % NORM_BLOCK);
                            let block = shard.blocks(place.buffer)[at] as usize;
                            assert_eq!(block * NORM_BLOCK + inside, place.range.start + element);
                        }
                    }
                }
                assert!(seen.iter().all(|n| *n == 1), "{place:?}");
            }
        }
    }
}

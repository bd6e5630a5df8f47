//! The gradients of a step over all ranks. They travel in buckets, which are added up while the way back goes
//! on: a bucket leaves as soon as the gradients of all its parameters are complete, the last parameters first.
//! All ranks send the same buckets in the same order, whatever sub-network each of them trains.
//!
//! The losses of micro-batches and ranks have their shares in them ([`super::step::MicroBatch`]), so the sum
//! over ranks is the gradient of the mean (poa-facts "Several ranks"). Where the optimiser is split over ranks, a
//! rank gets the sums of its own part alone.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use crate::autograd::Listener;
use crate::collective::{Collective, Pending};
use crate::error::{Error, Result};
use crate::nn::parameters::{FlatBuffers, FlatLayout, NORM_BLOCK, Parameters, Place};
use crate::optim::shard::{BUCKET, Bucket, Shard, buckets};
use crate::profile;
use crate::tensor::{Device, PendingRead, Tensor};

/// Buckets that a device may be behind before their copies are waited for: so much work it has meanwhile.
const LAG: usize = 3;

/// Adds up gradients over ranks, step by step.
pub struct GradientSum(Rc<Buckets>);

struct Buckets {
    ranks: Collective,
    parameters: Parameters,
    gradients: FlatBuffers,
    /// What this rank gets of the sums, where that is not all.
    shard: Option<Rc<Shard>>,
    /// In the order in which they are sent: parts of buffers.
    buckets: Vec<Bucket>,
    /// Those that each parameter has elements in.
    of_parameter: Vec<Range<usize>>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Of every bucket, how many parameters are used and not complete.
    open: Vec<usize>,
    /// The next to be sent.
    next: usize,
    /// On their way from the device.
    reading: VecDeque<(usize, PendingRead)>,
    /// On their way between ranks.
    sums: VecDeque<(usize, Pending<Vec<f32>>)>,
}

impl GradientSum {
    /// For the parameters of a task; `None` where there is one rank, whose gradients are the sum.
    pub fn new(ranks: &Collective, parameters: &Parameters) -> Option<Self> {
        Self::of_shard(ranks, parameters, None)
    }

    /// As [`Self::new`] in buckets of so many elements, which change no bit.
    pub fn in_buckets(ranks: &Collective, parameters: &Parameters, elements: usize) -> Option<Self> {
        Self::of(ranks, parameters, None, elements)
    }

    /// The same where the optimiser is split over ranks.
    pub fn of_shard(ranks: &Collective, parameters: &Parameters, shard: Option<&Rc<Shard>>) -> Option<Self> {
        Self::of(ranks, parameters, shard.cloned(), BUCKET)
    }

    fn of(
        ranks: &Collective,
        parameters: &Parameters,
        shard: Option<Rc<Shard>>,
        elements: usize,
    ) -> Option<Self> {
        let gradients = parameters.gradients().filter(|_| !ranks.is_alone())?.clone();
        let (buckets, of_parameter) = buckets_of(gradients.layout(), elements);
        let (ranks, parameters) = (ranks.clone(), parameters.clone());
        let state = RefCell::default();
        Some(Self(Rc::new(Buckets { ranks, parameters, gradients, shard, buckets, of_parameter, state })))
    }

    /// The next backward pass is the last of its step: gradients leave as they are complete.
    pub fn begin(&self) {
        let open = vec![0; self.0.buckets.len()];
        *self.0.state.borrow_mut() = State { open, ..State::default() };
        self.0.parameters.listen(Some(self.0.clone()));
    }

    /// How many buckets have left, and how many there are.
    pub fn sent(&self) -> (usize, usize) {
        (self.0.state.borrow().next, self.0.buckets.len())
    }

    /// After that pass: all gradients, or those of this rank's part, become the sums over ranks, and a parameter whose
    /// module got a gradient on any rank counts as touched. `loss` is this rank's, one element; the mean over ranks is returned.
    pub fn finish(&self, loss: &Tensor) -> Result<Tensor> {
        let all = &self.0;
        all.parameters.listen(None);
        {
            let _phase = profile::phase("send gradients");
            while all.state.borrow().next < all.buckets.len() {
                all.send()?;
            }
            all.pass_on(0)?;
        }
        let own = loss.to_vec::<f32>()?;
        let mut words = vec![own[0] / all.ranks.size() as f32];
        words.extend(all.parameters.touched_modules().iter().map(|touched| f32::from(u8::from(*touched))));
        let words = all.ranks.sum_later(words)?;
        loop {
            let Some((bucket, sums)) = all.state.borrow_mut().sums.pop_front() else { break };
            all.take(bucket, &sums.wait()?)?;
        }
        let Some(words) = words else { return Ok(loss.clone()) };
        let words = words.wait()?;
        let touched: Vec<bool> = words[1..].iter().map(|count| *count > 0.0).collect();
        all.parameters.touch_modules(&touched);
        Tensor::from_slice(loss.device(), &[1], &words[..1])
    }
}

impl Buckets {
    fn device(&self) -> &Device {
        self.gradients.buffers()[0].device()
    }

    fn elements(&self, bucket: usize) -> Result<Tensor> {
        let (buffer, range) = &self.buckets[bucket];
        self.gradients.buffers()[*buffer].slice(0, range.clone())
    }

    /// Sends the next bucket on its way.
    fn send(&self) -> Result<()> {
        let bucket = self.state.borrow().next;
        self.state.borrow_mut().next += 1;
        let read = self.elements(bucket)?.read_later()?;
        self.state.borrow_mut().reading.push_back((bucket, read));
        match self.device() {
            Device::Cpu(_) => {
                self.pass_on(0)?;
                self.take_arrived()
            }
            // sums are taken at the end: writing to a buffer in use would cut the recorded commands
            Device::Gpu(_) => self.pass_on(LAG),
        }
    }

    /// Passes what has come from the device on to the other ranks, but for the last `behind` buckets.
    fn pass_on(&self, behind: usize) -> Result<()> {
        loop {
            let mut state = self.state.borrow_mut();
            if state.reading.len() <= behind {
                return Ok(());
            }
            let Some((bucket, read)) = state.reading.pop_front() else { return Ok(()) };
            drop(state);
            let values = read.wait()?;
            let sums = match &self.shard {
                None => self.ranks.sum_later(values)?,
                Some(shard) => self.ranks.sum_part_later(values, shard.parts(&self.buckets[bucket].1))?,
            };
            self.state.borrow_mut().sums.extend(sums.map(|sums| (bucket, sums)));
        }
    }

    /// Takes the sums that are there.
    fn take_arrived(&self) -> Result<()> {
        loop {
            let mut state = self.state.borrow_mut();
            let Some(arrived) = state.sums.front().and_then(|(_, sums)| sums.poll()) else { return Ok(()) };
            let bucket = state.sums.pop_front().map_or(0, |(bucket, _)| bucket);
            drop(state);
            self.take(bucket, &arrived?)?;
        }
    }

    fn take(&self, bucket: usize, sums: &[f32]) -> Result<()> {
        let Some(shard) = &self.shard else { return self.elements(bucket)?.upload(sums) };
        let (buffer, range) = &self.buckets[bucket];
        let own = shard.own(range);
        match own.is_empty() {
            true => Ok(()),
            false => self.gradients.buffers()[*buffer].slice(0, own)?.upload(sums),
        }
    }
}

impl Listener for Buckets {
    fn used(&self, parameter: usize) {
        let mut state = self.state.borrow_mut();
        self.of_parameter[parameter].clone().for_each(|bucket| state.open[bucket] += 1);
    }

    fn complete(&self, parameter: usize) -> Result<()> {
        {
            let mut state = self.state.borrow_mut();
            self.of_parameter[parameter].clone().for_each(|bucket| state.open[bucket] -= 1);
        }
        loop {
            let state = self.state.borrow();
            if state.open.get(state.next) != Some(&0) {
                return Ok(());
            }
            drop(state);
            self.send()?;
        }
    }

    fn arrives(&self, parameter: usize) -> Result<()> {
        if self.state.borrow().next <= self.of_parameter[parameter].start {
            return Ok(());
        }
        let name = &self.gradients.layout().places()[parameter].spec.name;
        let problem =
            format!("that of {name} comes after it was sent: an operation has not recorded its use");
        Err(Error::shape("gradients of ranks", problem))
    }
}

/// Elements of each list that the gradients of such parameters are added up in, in the order in which they are sent.
pub fn lists_of(layout: &FlatLayout) -> Vec<usize> {
    buckets(layout, BUCKET).into_iter().map(|(_, range)| range.len()).collect()
}

/// The buckets of a layout, of at most `most` elements, and which of them each parameter has elements in.
fn buckets_of(layout: &FlatLayout, most: usize) -> (Vec<Bucket>, Vec<Range<usize>>) {
    let most = most.next_multiple_of(NORM_BLOCK);
    let buckets = buckets(layout, most);
    let of = |place: &Place| {
        let first = buckets.iter().position(|(buffer, _)| *buffer == place.buffer).unwrap_or(0);
        let last = layout.buffers()[place.buffer].div_ceil(most) - 1;
        let at = |element: usize| first + last - element / most;
        match place.range.is_empty() {
            true => 0..0,
            false => at(place.range.end - 1)..at(place.range.start) + 1,
        }
    };
    let of_parameter = layout.places().iter().map(of).collect();
    (buckets, of_parameter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::parameters::{Init, ParameterSpec};

    #[test]
    fn buckets_hold_every_element_once_and_the_last_come_first() {
        let sizes = [3, BUCKET / 2, BUCKET / 2, 2 * BUCKET + 5, 64, 1];
        let spec = |(i, n): (usize, &usize)| ParameterSpec::new(format!("a.{i}"), &[*n], Init::Constant(0.0));
        for limit in [usize::MAX, 4 * 3 * BUCKET] {
            let layout =
                FlatLayout::new(&sizes.iter().enumerate().map(spec).collect::<Vec<_>>(), limit).unwrap();
            let (buckets, of_parameter) = buckets_of(&layout, BUCKET);
            for (place, own) in layout.places().iter().zip(&of_parameter) {
                let shares = |(buffer, r): &Bucket| {
                    *buffer == place.buffer && r.start < place.range.end && place.range.start < r.end
                };
                for (i, bucket) in buckets.iter().enumerate() {
                    assert_eq!(shares(bucket), own.contains(&i), "{place:?} and {bucket:?}");
                }
            }
            let mut all = buckets.clone();
            all.sort_by_key(|(buffer, range)| (*buffer, range.start));
            for (buffer, elements) in layout.buffers().iter().enumerate() {
                let own: Vec<_> = all.iter().filter(|(b, _)| *b == buffer).map(|(_, r)| r.clone()).collect();
                assert_eq!((own[0].start, own[own.len() - 1].end), (0, *elements));
                assert!(own.windows(2).all(|w| w[0].end == w[1].start));
            }
            assert!(of_parameter[0].start > of_parameter[5].start);
        }
    }
}

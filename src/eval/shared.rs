//! Passes over images that several ranks share. Each rank takes whole batches, the same that one rank alone would make,
//! and what it finds in one travels to all ranks with those of the others: a *round*. All ranks go through equally many.
//!
//! ```text
//! round        0      1      2
//! rank 0       batch  batch  batch     each: computed while the one before travels
//! rank 1       batch  batch  -         and with it one byte: does this rank wish to end?
//! ```
//! So a wish to end is known to all ranks after the same round, and all leave there.

use crate::collective::Collective;
use crate::data::batch::Batch;
use crate::error::{Error, Interruption, Result};
use crate::eval::classification::Classification;
use crate::eval::images::LabelledImages;
use crate::eval::pass::{labels_of, through_networks};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::stop::Stop;
use crate::tensor::{PendingRead, Tensor};

/// Bytes of a class or a feature.
const WORD: usize = 4;

/// Networks of one pass, on one of several ranks.
#[derive(Clone, Copy)]
pub(super) struct Ranked<'a> {
    pub ranks: &'a Collective,
    pub encoder: Encoder<'a>,
    pub networks: &'a [Network],
}

impl Ranked<'_> {
    /// Hands the cls features `[n, width]` of this rank's part of `images` through every network to `take`; `advance`
    /// gets numbers of images of all ranks. Returns the classes of this rank's images, and how many images all ranks have.
    pub fn own_features(
        &self,
        images: &LabelledImages,
        advance: &mut dyn FnMut(usize),
        mut take: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<(Vec<u32>, usize)> {
        let (rank, size, batches) = (self.ranks.rank(), self.ranks.size(), images.batches());
        let own = batches * rank / size..batches * (rank + 1) / size;
        let (mut labels, mut total) = (Vec::new(), 0);
        let begin = |batch: &Batch| {
            let mut last = None;
            through_networks(self.encoder, self.networks, batch, images.stop(), |i, part| {
                let (cls, _) = self.encoder.features(self.networks[i], part, false)?;
                take(i, &cls)?;
                last = Some(cls.slice(0, 0..1)?);
                Ok(())
            })?;
            labels.extend(labels_of(batch)?);
            let last = last.map(|last| last.read_later()).transpose()?;
            Ok((batch.images() as u32, last))
        };
        // the host is at most one batch ahead of the device
        let pack = |(count, last): (u32, Option<PendingRead>)| {
            last.map_or(Ok(Vec::new()), PendingRead::wait)?;
            Ok(count.to_le_bytes().to_vec())
        };
        self.rounds(images, own.collect(), begin, pack, |all| {
            let counts = all.iter().flat_map(|own| words(own)).map(u32::from_le_bytes);
            let count = counts.map(|count| count as usize).sum();
            total += count;
            advance(count);
            Ok(())
        })?;
        self.some(images, total)?;
        Ok((labels, total))
    }

    /// Hands the cls features `[n, width]` of all images through every network to `take`, on all ranks, in the order
    /// that they have on one. Each rank computes those of its part of every round. Returns the images' classes.
    pub fn all_features(
        &self,
        images: &LabelledImages,
        advance: &mut dyn FnMut(usize),
        mut take: impl FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<Vec<u32>> {
        let own = (self.ranks.rank()..images.batches()).step_by(self.ranks.size());
        let widths: Vec<usize> =
            self.networks.iter().map(|n| self.encoder.backbone.feature_width(*n)).collect();
        let mut labels = Vec::new();
        let begin = |batch: &Batch| {
            let mut parts: Vec<Vec<PendingRead>> = self.networks.iter().map(|_| Vec::new()).collect();
            through_networks(self.encoder, self.networks, batch, images.stop(), |i, part| {
                let (cls, _) = self.encoder.features(self.networks[i], part, false)?;
                parts[i].push(cls.read_later()?);
                Ok(())
            })?;
            Ok((labels_of(batch)?.to_vec(), parts))
        };
        let pack = |(labels, parts): (Vec<u32>, Vec<Vec<PendingRead>>)| {
            let mut message: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
            for part in parts.into_iter().flatten() {
                message.extend(part.wait()?.iter().flat_map(|v| v.to_le_bytes()));
            }
            Ok(message)
        };
        self.rounds(images, own.collect(), begin, pack, |all| {
            let before = labels.len();
            let mut features: Vec<Vec<f32>> = vec![Vec::new(); widths.len()];
            for own in all {
                let rows = rows_of(own, &widths)?;
                let (classes, mut rest) = own.split_at(rows * WORD);
                labels.extend(words(classes).map(u32::from_le_bytes));
                for (features, width) in features.iter_mut().zip(&widths) {
                    let (these, others) = rest.split_at(rows * width * WORD);
                    features.extend(words(these).map(f32::from_le_bytes));
                    rest = others;
                }
            }
            let rows = labels.len() - before;
            for (i, (features, width)) in features.iter().zip(&widths).enumerate().filter(|_| rows > 0) {
                take(i, &Tensor::from_slice(self.encoder.device, &[rows, *width], features)?)?;
            }
            advance(rows);
            Ok(())
        })?;
        self.some(images, labels.len())?;
        Ok(labels)
    }

    /// What a classifier on the first network makes of all images, on all ranks: `logits` gives those of cls features
    /// `[n, width]`, `[n, classes]`. Each rank computes its part of every round.
    pub fn classified(
        &self,
        images: &LabelledImages,
        logits: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
    ) -> Result<Classification> {
        let own = (self.ranks.rank()..images.batches()).step_by(self.ranks.size());
        let mut found = Classification::new(images.classes().len());
        let begin = |batch: &Batch| {
            let mut parts = Vec::new();
            through_networks(self.encoder, &self.networks[..1], batch, images.stop(), |_, part| {
                parts.push(logits(&self.encoder.features(self.networks[0], part, false)?.0)?);
                Ok(())
            })?;
            Ok((labels_of(batch)?.to_vec(), parts))
        };
        let pack = |(labels, parts): (Vec<u32>, Vec<Tensor>)| {
            let (mut own, mut first) = (Classification::new(images.classes().len()), 0);
            for part in parts {
                own.add_logits(&part, &labels[first..first + part.dim(0)])?;
                first += part.dim(0);
            }
            serde_json::to_vec(&own).map_err(|_| out_of_step())
        };
        self.rounds(images, own.collect(), begin, pack, |all| {
            for own in all.iter().filter(|own| !own.is_empty()) {
                found.merge(&serde_json::from_slice(own).map_err(|_| out_of_step())?)?;
            }
            Ok(())
        })?;
        self.some(images, found.images() as usize)?;
        Ok(found)
    }

    /// Goes through this rank's batches: `begin` hands one to the device, `pack` waits for what came of it and makes a
    /// message, and `take` gets those of a round, in rank order.
    fn rounds<P>(
        &self,
        images: &LabelledImages,
        own: Vec<usize>,
        mut begin: impl FnMut(&Batch) -> Result<P>,
        mut pack: impl FnMut(P) -> Result<Vec<u8>>,
        mut take: impl FnMut(&[&[u8]]) -> Result<()>,
    ) -> Result<()> {
        let left = images.batches().div_ceil(self.ranks.size());
        let mut rounds = Rounds { ranks: self.ranks, stop: images.stop(), left, all_leave: false };
        let mut begun = None;
        let passed = images.for_these_batches(own, |batch| {
            let now = begin(batch)?;
            match begun.replace(now) {
                Some(before) => rounds.next(pack(before)?, &mut take),
                None => Ok(()),
            }
        });
        match passed {
            // the others hear of it in the next round
            Err(Error::Interrupted(_)) if !rounds.all_leave => {}
            passed => {
                passed?;
                if let Some(last) = begun {
                    rounds.next(pack(last)?, &mut take)?;
                }
            }
        }
        while rounds.left > 0 {
            rounds.next(Vec::new(), &mut take)?;
        }
        Ok(())
    }

    /// An error on all ranks where none of them could read an image.
    fn some(&self, images: &LabelledImages, readable: usize) -> Result<()> {
        images.share_bad_samples(self.ranks)?;
        match readable {
            0 if self.ranks.leads() => Err(images.nothing()),
            0 => Err(Error::Elsewhere(images.nothing().to_string())),
            _ => Ok(()),
        }
    }
}

/// The rounds that are left of a pass.
struct Rounds<'a> {
    ranks: &'a Collective,
    stop: &'a Stop,
    left: usize,
    /// Whether all ranks know that one of them wishes to end.
    all_leave: bool,
}

impl Rounds<'_> {
    /// Brings `own` to all ranks, and hands what all have brought to `take`. Where any rank wishes to end, all get an
    /// error in its place.
    fn next(&mut self, mut own: Vec<u8>, take: &mut dyn FnMut(&[&[u8]]) -> Result<()>) -> Result<()> {
        self.left -= 1;
        let wish = Interruption::ALL.iter().position(|why| self.stop.asked() == Some(*why));
        own.push(wish.map_or(0, |wish| wish as u8 + 1));
        let all = self.ranks.gather(own)?;
        let mut parts = Vec::with_capacity(all.len());
        for message in &all {
            let Some((wish, own)) = message.split_last() else { return Err(out_of_step()) };
            if let Some(why) = Interruption::ALL.get(usize::from(*wish).wrapping_sub(1)) {
                self.all_leave = true;
                return Err(Error::Interrupted(*why));
            }
            parts.push(own);
        }
        take(&parts)
    }
}

/// Rows of a message: each has a class, and a row of features for every network.
fn rows_of(message: &[u8], widths: &[usize]) -> Result<usize> {
    let bytes = WORD * (1 + widths.iter().sum::<usize>());
    if message.len().is_multiple_of(bytes) { Ok(message.len() / bytes) } else { Err(out_of_step()) }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; WORD]> {
    bytes.as_chunks().0.iter().copied()
}

fn out_of_step() -> Error {
    Error::Ranks("ranks are out of step in an evaluation; this is an error of the program".into())
}

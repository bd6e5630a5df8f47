//! What all evaluations over images share: groups of networks that fit memory, images through all networks of
//! a group, progress, and a device that is never far behind.

use crate::data::batch::{Batch, WHOLE};
use crate::error::{Error, Result};
use crate::eval::images::LabelledImages;
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::tensor::{PendingRead, Tensor};

/// Is told what is done, how much of it, and how much there is.
pub type Progress<'a> = &'a mut dyn FnMut(&str, usize, usize);

/// Both sets of images must have the same classes, or their labels mean different things.
pub(super) fn same_classes(train: &LabelledImages, val: &LabelledImages) -> Result<()> {
    if train.classes() == val.classes() {
        return Ok(());
    }
    let (ours, theirs) = (train.classes().len(), val.classes().len());
    let problem = format!("its {theirs} classes are not the {ours} of {}", train.describe());
    Err(Error::file(val.describe(), problem))
}

/// Consecutive networks, as many as `memory` bytes hold, but at least one a group.
pub(super) fn groups(
    networks: &[Network],
    memory: usize,
    bytes: impl Fn(Network) -> usize,
) -> Vec<&[Network]> {
    let (mut groups, mut rest) = (Vec::new(), networks);
    while let Some(first) = rest.first() {
        let mut held = bytes(*first);
        let more = rest[1..].iter().take_while(|n| {
            held += bytes(**n);
            held <= memory
        });
        let (group, after) = rest.split_at(1 + more.count());
        groups.push(group);
        rest = after;
    }
    groups
}

/// Runs the images of a batch, a part at a time, through all networks: `features` gets the number of the
/// network and the images of the part.
pub(super) fn through_networks(
    encoder: Encoder<'_>,
    networks: &[Network],
    batch: &Batch,
    mut features: impl FnMut(usize, &Tensor) -> Result<()>,
) -> Result<()> {
    let group = batch.group(WHOLE)?;
    let (one, size) = (group.crop_len(), group.size);
    let at_once = networks.iter().map(|n| encoder.images_at_once(*n, size)).min().unwrap_or(1);
    for part in group.pixels.chunks(at_once.max(1) * one) {
        let shape = [part.len() / one, group.channels, size, size];
        let images = Tensor::from_slice(encoder.device, &shape, part)?;
        (0..networks.len()).try_for_each(|i| features(i, &images))?;
    }
    Ok(())
}

/// The classes of a batch of labelled images.
pub(super) fn labels_of(batch: &Batch) -> Result<&[u32]> {
    batch.labels().ok_or_else(|| Error::shape("batch", "images without labels"))
}

/// Keeps the host at most one batch ahead of the device, whose queue would else grow with every batch
/// uploaded.
#[derive(Default)]
pub(super) struct Pace {
    before: Option<PendingRead>,
}

impl Pace {
    /// Waits until the device has done what came before the last call. `last` (small, contiguous `f32`) is
    /// what was computed last.
    pub(super) fn keep(&mut self, last: &Tensor) -> Result<()> {
        match self.before.replace(last.read_later()?) {
            Some(before) => before.wait().map(|_| ()),
            None => Ok(()),
        }
    }
}

//! What all evaluations over images share: groups of networks that fit memory, images through all networks of
//! a group, progress, and a device that is never far behind.

use rayon::prelude::*;

use crate::data::batch::{Batch, WHOLE};
use crate::error::{Error, Result};
use crate::eval::images::LabelledImages;
use crate::models::backbone::OnDevice;
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::stop::Stop;
use crate::tensor::{Device, PendingRead, Tensor};

/// Operations that a slow device does between two looks at the wish to end: seconds' worth.
const SLOW_WORK: u64 = 100_000_000_000;

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
/// network and the images of the part. Ends with an error as soon as `stop` wishes for it.
pub(super) fn through_networks(
    encoder: Encoder<'_>,
    networks: &[Network],
    batch: &Batch,
    stop: &Stop,
    mut features: impl FnMut(usize, &Tensor) -> Result<()>,
) -> Result<()> {
    let group = batch.group(WHOLE)?;
    let at_once = networks.iter().map(|n| images_at_once(encoder, *n, group.size)).min().unwrap_or(1);
    let images = OnDevice::new(encoder.device, group)?;
    let count = group.crops();
    for first in (0..count).step_by(at_once.max(1)) {
        let images = images.upload(first..count.min(first + at_once.max(1)))?.normalised()?;
        for i in 0..networks.len() {
            stop.check()?;
            features(i, &images)?;
        }
    }
    Ok(())
}

/// Hands the cls features `[n, width]` of all images through every network to `take`. Returns the images'
/// classes.
pub(super) fn cls_features(
    encoder: Encoder<'_>,
    networks: &[Network],
    images: &LabelledImages,
    advance: &mut dyn FnMut(usize),
    mut take: impl FnMut(usize, &Tensor) -> Result<()>,
) -> Result<Vec<u32>> {
    let (mut labels, mut pace) = (Vec::with_capacity(images.len()), Pace::default());
    images.for_each_batch(|batch| {
        let mut last = None;
        through_networks(encoder, networks, batch, images.stop(), |i, part| {
            let (cls, _) = encoder.features(networks[i], part, false)?;
            take(i, &cls)?;
            last = Some(cls.slice(0, 0..1)?);
            Ok(())
        })?;
        labels.extend(labels_of(batch)?);
        advance(batch.images());
        last.map_or(Ok(()), |last| pace.keep(&last))
    })?;
    Ok(labels)
}

/// As many images as fit, and no more on a slow device than it does in a few seconds.
pub(super) fn images_at_once(encoder: Encoder<'_>, network: Network, side: usize) -> usize {
    let fit = encoder.images_at_once(network, side);
    let slow = match encoder.device {
        Device::Cpu(_) => true,
        Device::Gpu(gpu) => gpu.caps().software,
    };
    match slow {
        true => fit.min((SLOW_WORK / encoder.backbone.cost(network).flops.max(1)).max(1) as usize),
        false => fit,
    }
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

/// All of a network's features, rows of `width` values, must be finite.
pub(super) fn finite(
    network: Network,
    features: &[f32],
    width: usize,
    images: &LabelledImages,
) -> Result<()> {
    let rows = features.par_chunks_exact(width.max(1));
    match rows.filter(|row| row.iter().any(|v| !v.is_finite())).count() {
        0 => Ok(()),
        bad => Err(Error::file(
            images.describe(),
            format!(
                "{network} makes features that are not finite of {bad} or more of its images: the weights have gone \
                 wrong; take an earlier checkpoint, or another network"
            ),
        )),
    }
}

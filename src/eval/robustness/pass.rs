//! Images through all changes, and each changed image through all networks and their classifiers.

use rayon::prelude::*;

use crate::data::batch::{Batch, WHOLE};
use crate::error::{Error, Result};
use crate::eval::images::LabelledImages;
use crate::eval::pass::{Progress, images_at_once, labels_of};
use crate::eval::robustness::changes::{Change, Draws, cover, shuffled};
use crate::eval::robustness::heads::Head;
use crate::eval::robustness::salience::{covered, mass};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::tensor::Tensor;

/// A network of an encoder with its classifier.
pub struct Subject<'a> {
    /// The network.
    pub network: Network,
    /// The classifier.
    pub head: &'a Head,
}

/// Whose attention says what is salient.
#[derive(Clone, Copy)]
pub struct Salience<'a> {
    /// A network for all; none for each its own.
    pub of: Option<(Encoder<'a>, Network)>,
    /// One of its heads, from 0; none for the mean of all.
    pub head: Option<usize>,
}

/// What is done to images.
pub struct Robustness<'a> {
    /// The changes.
    pub changes: &'a [Change],
    /// How draws follow from images.
    pub draws: Draws,
    /// Cells a side of the grid that random cells are of.
    pub cells: usize,
    /// Pixels that this grid is moved to the right and down.
    pub offset: usize,
    /// Whose attention says what is salient.
    pub salience: Salience<'a>,
    /// Of every class of the classifiers that of the images which it counts as, if any; without it they are the same.
    pub classes: Option<&'a [Option<u32>]>,
}

/// What a classifier makes of changed images.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Share of the images whose class is found.
    pub top1: f64,
    /// Mean share of the cells that are covered.
    pub covered: f64,
}

/// The scores of every subject at every change, `[subject][change]`. What is drawn for an image depends on the seed and the
/// image alone. A change by attention of a network that has none is an error.
pub fn accuracies(
    encoder: Encoder<'_>,
    subjects: &[Subject<'_>],
    images: &LabelledImages,
    options: &Robustness<'_>,
    progress: Progress<'_>,
) -> Result<Vec<Vec<Score>>> {
    let at_once = subjects.iter().map(|s| images_at_once(encoder, s.network, images.size())).min();
    let at_once = at_once.unwrap_or(1).max(1);
    let mut right = vec![vec![(0usize, 0.0f64); options.changes.len()]; subjects.len()];
    let mut seen = 0;
    images.for_each_batch(|batch| {
        let labels = labels_of(batch)?;
        for first in (0..batch.images()).step_by(at_once) {
            let part = Part::of(batch, first..batch.images().min(first + at_once))?;
            let mut maps = Maps::new(encoder, options, &part)?;
            for (at, change) in options.changes.iter().enumerate() {
                let mut shared: Option<(Tensor, f64)> = None;
                for (subject, right) in subjects.iter().zip(&mut right) {
                    images.stop().check()?;
                    let own = change.needs_salience() && options.salience.of.is_none();
                    let (changed, covered) = match shared.take().filter(|_| !own) {
                        Some(made) => made,
                        None => part.changed(*change, options, encoder, &mut maps, subject.network)?,
                    };
                    let guesses = subject.head.guesses(encoder, subject.network, &changed)?;
                    let labels = &labels[part.first..part.first + part.count];
                    let found = guesses.iter().zip(labels).filter(|(guess, label)| {
                        let meant = |class: u32| match options.classes {
                            Some(map) => map.get(class as usize).copied().flatten(),
                            None => Some(class),
                        };
                        guess.and_then(meant) == Some(**label)
                    });
                    right[at].0 += found.count();
                    right[at].1 += covered;
                    shared = Some((changed, covered));
                }
            }
        }
        seen += batch.images();
        progress("changed images", seen, images.len());
        Ok(())
    })?;
    let score = |(right, covered): (usize, f64)| Score {
        top1: right as f64 / seen as f64,
        covered: covered / seen as f64,
    };
    Ok(right.into_iter().map(|all| all.into_iter().map(score).collect()).collect())
}

/// Some images of a batch.
struct Part {
    /// `[count, channels, side, side]`, normalised.
    pixels: Vec<f32>,
    /// Their numbers in the source.
    numbers: Vec<usize>,
    first: usize,
    count: usize,
    shape: [usize; 3],
}

impl Part {
    fn of(batch: &Batch, range: std::ops::Range<usize>) -> Result<Self> {
        let group = batch.group(WHOLE)?;
        let one = group.crop_len();
        let pixels = group.normalised()[range.start * one..range.end * one].to_vec();
        let numbers = batch.indices().ok_or_else(|| Error::shape("batch", "images without numbers"))?;
        Ok(Self {
            pixels,
            numbers: numbers[range.clone()].to_vec(),
            first: range.start,
            count: range.len(),
            shape: [group.channels, group.size, group.size],
        })
    }

    fn upload(&self, encoder: Encoder<'_>, pixels: &[f32]) -> Result<Tensor> {
        let [channels, side, _] = self.shape;
        Tensor::from_slice(encoder.device, &[self.count, channels, side, side], pixels)
    }

    /// The images as a change makes them, and the sum over them of the share of cells that is covered.
    fn changed(
        &self,
        change: Change,
        options: &Robustness<'_>,
        encoder: Encoder<'_>,
        maps: &mut Maps,
        network: Network,
    ) -> Result<(Tensor, f64)> {
        let [_, side, _] = self.shape;
        let one = self.shape.iter().product::<usize>();
        let (draws, grid, offset) = (options.draws, options.cells, options.offset);
        let each = self.pixels.par_chunks_exact(one).zip(&self.numbers);
        let (pixels, share): (Vec<Vec<f32>>, Vec<f64>) = match change {
            Change::Clean => return Ok((self.upload(encoder, &self.pixels)?, 0.0)),
            Change::Shuffle(pieces) => each
                .map(|(pixels, image)| {
                    let order = draws.order(pieces, *image);
                    (shuffled(pixels, side, pieces, &order), 0.0)
                })
                .unzip(),
            Change::Random(ratio) => each
                .map(|(pixels, image)| {
                    let cells = draws.covered(ratio, grid, *image);
                    covering(pixels, side, &cells, offset)
                })
                .unzip(),
            Change::Salient(_) | Change::NonSalient(_) => {
                let masses = maps.of(self, options, encoder, network)?;
                each.zip(masses)
                    .map(|((pixels, _), mass)| covering(pixels, side, &covered(change, mass), 0))
                    .unzip()
            }
        };
        Ok((self.upload(encoder, &pixels.concat())?, share.iter().sum()))
    }
}

/// An image with covered cells, and the share of these.
fn covering(pixels: &[f32], side: usize, cells: &[bool], offset: usize) -> (Vec<f32>, f64) {
    let mut pixels = pixels.to_vec();
    cover(&mut pixels, side, cells, offset);
    (pixels, cells.iter().filter(|covered| **covered).count() as f64 / cells.len() as f64)
}

/// The attention of the networks that were asked, of the images of a part.
struct Maps {
    /// By network, image by image.
    known: Vec<(Network, Vec<Vec<f64>>)>,
}

impl Maps {
    /// Nothing but the attention of a network for all, where there is one.
    fn new(encoder: Encoder<'_>, options: &Robustness<'_>, part: &Part) -> Result<Self> {
        let mut maps = Self { known: Vec::new() };
        if let Some((_, network)) = options.salience.of
            && options.changes.iter().any(|change| change.needs_salience())
        {
            maps.of(part, options, encoder, network)?;
        }
        Ok(maps)
    }

    /// The mass of every cell of every image.
    fn of(
        &mut self,
        part: &Part,
        options: &Robustness<'_>,
        encoder: Encoder<'_>,
        network: Network,
    ) -> Result<&[Vec<f64>]> {
        let (encoder, network) = options.salience.of.unwrap_or((encoder, network));
        let at = match self.known.iter().position(|(known, _)| *known == network) {
            Some(at) => at,
            None => {
                let attention = encoder.class_attention(network, &part.upload(encoder, &part.pixels)?)?;
                let attention = attention.ok_or_else(no_attention)?;
                let heads = attention.len() / (part.count * encoder.backbone.cells(part.shape[1]).pow(2));
                let each = attention.chunks_exact(attention.len() / part.count);
                let masses = each.map(|one| mass(one, heads, options.salience.head));
                self.known.push((network, masses.collect::<Result<_>>()?));
                self.known.len() - 1
            }
        };
        Ok(&self.known[at].1)
    }
}

fn no_attention() -> Error {
    Error::Usage(
        "the network has no class token whose attention says what is salient; give --salience-of a ViT, or --kind \
         random,shuffle"
            .into(),
    )
}

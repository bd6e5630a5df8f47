//! Retrieval: every query image ranks a gallery by the cosine of features, and images of its class should come first.
//! Similarities are made on the device, a few queries with the whole gallery at a time; the host finds the ranks of the
//! images that should be found, without sorting the rest.

use std::cmp::Ordering;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::eval::images::LabelledImages;
use crate::eval::knn::FeatureBlocks;
use crate::eval::pass::{Progress, cls_features, finite, groups, same_classes};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::ops::matmul::{Matrix, Options, matmul};
use crate::tensor::{DType, ELEMENT_BYTES, Tensor};

/// Bytes of similarities on the host at a time, at most (but one query).
const SIMILARITIES: usize = 256 << 20;

/// What is measured.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrievalOptions {
    /// Numbers of images that are looked at; each gives a recall and a share of hits.
    pub ks: Vec<usize>,
    /// Bytes on the device that features of the networks evaluated together may take.
    pub memory: usize,
}

impl Default for RetrievalOptions {
    fn default() -> Self {
        Self { ks: vec![1, 5, 10], memory: 4 << 30 }
    }
}

/// Means over all queries of whose class the gallery has an image; NaN where there is none.
#[derive(Clone, Debug, PartialEq)]
pub struct RetrievalScores {
    /// Mean average precision over the whole ranking.
    pub map: f64,
    /// The share whose first image is of their class.
    pub precision_at_1: f64,
    /// For each k the share of the images of a query's class that is among the first k.
    pub recall: Vec<f64>,
    /// For each k the share of the queries with an image of their class among the first k: what metric learning calls
    /// recall at k.
    pub hits: Vec<f64>,
    /// Queries that are scored.
    pub queries: usize,
    /// Queries of whose class the gallery has no image; they are left out.
    pub without: usize,
}

/// The scores of every network: `queries` rank the images of `gallery`, or, where there are none, each image of
/// `gallery` the others. As many networks as `options.memory` allows share a pass over the images. Progress counts
/// images of all passes, then queries.
///
/// Features that are not finite are an error.
pub fn retrieval_scores(
    encoder: Encoder<'_>,
    networks: &[Network],
    (gallery, queries): (&LabelledImages, Option<&LabelledImages>),
    options: &RetrievalOptions,
    progress: Progress<'_>,
) -> Result<Vec<RetrievalScores>> {
    queries.map_or(Ok(()), |queries| same_classes(gallery, queries))?;
    let images = gallery.len() + queries.map_or(0, LabelledImages::len);
    let groups = groups(networks, options.memory, |network| {
        images * encoder.backbone.feature_width(network) * ELEMENT_BYTES
    });
    let (mut done, total, mut scores) = (0, groups.len() * images, Vec::new());
    for group in groups {
        let mut advance = |count: usize| {
            done += count;
            progress("features", done, total);
        };
        let (bank, bank_classes) = normalised(encoder, group, gallery, &mut advance)?;
        let asked = queries.map(|queries| normalised(encoder, group, queries, &mut advance)).transpose()?;
        for (i, bank) in bank.iter().enumerate() {
            let before = scores.len();
            let ranking = Ranking {
                gallery: bank,
                classes: &bank_classes,
                queries: asked.as_ref().map(|(blocks, classes)| (&blocks[i][..], &classes[..])),
                ks: &options.ks,
            };
            scores.push(
                ranking.scores(|done, of| progress("retrieval", before * of + done, networks.len() * of))?,
            );
        }
    }
    Ok(scores)
}

/// The features of all images by network, each of length 1, in blocks; and the images' classes.
fn normalised(
    encoder: Encoder<'_>,
    networks: &[Network],
    images: &LabelledImages,
    advance: &mut dyn FnMut(usize),
) -> Result<(Vec<Vec<Tensor>>, Vec<u32>)> {
    let mut features: Vec<FeatureBlocks> = networks.iter().map(|_| FeatureBlocks::default()).collect();
    let classes = cls_features(encoder, networks, images, advance, |i, cls| features[i].add(cls))?;
    let mut blocks = Vec::with_capacity(networks.len());
    for (network, mut features) in networks.iter().zip(features) {
        let these = features.take(true)?;
        // a feature that is not finite is none either once it is divided by its length
        for block in &these {
            finite(*network, &block.to_vec::<f32>()?, block.dim(1), images)?;
        }
        blocks.push(these);
    }
    Ok((blocks, classes))
}

/// A gallery and those who ask for its images. All features are of length 1, in blocks `[n, width]`.
pub struct Ranking<'a> {
    /// The features that are ranked.
    pub gallery: &'a [Tensor],
    /// Their classes.
    pub classes: &'a [u32],
    /// The features that ask, and their classes; none where each of the gallery asks for the others.
    pub queries: Option<(&'a [Tensor], &'a [u32])>,
    /// Numbers of images that are looked at.
    pub ks: &'a [usize],
}

impl Ranking<'_> {
    /// Ranks the gallery for every query by their product, of equal ones the first image first; `progress` gets how
    /// many are done, and of how many.
    pub fn scores(&self, mut progress: impl FnMut(usize, usize)) -> Result<RetrievalScores> {
        let (queries, classes) = self.queries.unwrap_or((self.gallery, self.classes));
        let rows = |blocks: &[Tensor]| blocks.iter().map(|block| block.dim(0)).sum::<usize>();
        if rows(queries) != classes.len() || rows(self.gallery) != self.classes.len() {
            let problem = format!("{} and {} rows of features", rows(queries), rows(self.gallery));
            return Err(Error::shape("retrieval", format!("{problem}, other numbers of classes")));
        }
        let at_once = (SIMILARITIES / (self.classes.len() * ELEMENT_BYTES).max(1)).max(1);
        let (mut at, mut sums) = (0, Sums::none(self.ks));
        for block in queries {
            for first in (0..block.dim(0)).step_by(at_once) {
                let part = block.slice(0, first..block.dim(0).min(first + at_once))?;
                let (similarities, bank, within) =
                    (self.similarities(&part)?, self.classes, self.queries.is_none());
                let count = part.dim(0);
                let ranks: Vec<Vec<usize>> = (0..count)
                    .into_par_iter()
                    .map(|q| {
                        let rows = similarities.iter().map(|block| {
                            let n = block.len() / count;
                            &block[q * n..(q + 1) * n]
                        });
                        let scores = rows.flatten().copied().enumerate();
                        let scores = scores.filter(|(i, _)| !(within && *i == at + q));
                        ranks(scores, bank, classes[at + q])
                    })
                    .collect();
                ranks.iter().for_each(|ranks| sums.add(ranks, self.ks));
                at += part.dim(0);
                progress(at, classes.len());
            }
        }
        Ok(sums.means())
    }

    /// Products of some queries with the gallery, by block of the gallery: `[queries, block]`, row by row.
    fn similarities(&self, queries: &Tensor) -> Result<Vec<Vec<f32>>> {
        let (mut all, mut before) = (Vec::with_capacity(self.gallery.len()), None);
        for block in self.gallery {
            let out = Tensor::empty(block.device(), &[queries.dim(0), block.dim(0)], DType::F32)?;
            let (a, b) = (Matrix::new(queries)?, Matrix::new(block)?.t());
            matmul(&a, &b, &Matrix::new(&out)?, &Options::default())?;
            // one block travels while the next one is computed
            if let Some(before) = before.replace(out.read_later()?) {
                all.push(before.wait()?);
            }
        }
        if let Some(last) = before {
            all.push(last.wait()?);
        }
        Ok(all)
    }
}

/// The ranks, from 1 and ascending, of all images of `class` among those with these (number, similarity).
fn ranks(scores: impl Iterator<Item = (usize, f32)> + Clone, classes: &[u32], class: u32) -> Vec<usize> {
    let mut wanted: Vec<(usize, f32)> = scores.clone().filter(|(i, _)| classes[*i] == class).collect();
    wanted.sort_unstable_by(before);
    // how many others come between one that is wanted and the next
    let mut between = vec![0; wanted.len() + 1];
    for other in scores.filter(|(i, _)| classes[*i] != class) {
        between[wanted.partition_point(|w| before(w, &other).is_lt())] += 1;
    }
    let mut rank = 0;
    let ranks = between.iter().take(wanted.len()).map(|others| {
        rank += others + 1;
        rank
    });
    ranks.collect()
}

/// (number, similarity): larger similarities first, of equal ones the first image.
fn before(a: &(usize, f32), b: &(usize, f32)) -> Ordering {
    // both zeros are equal
    (b.1 + 0.0).total_cmp(&(a.1 + 0.0)).then(a.0.cmp(&b.0))
}

/// Scores of all queries so far, added up.
struct Sums {
    precision: f64,
    first: usize,
    recall: Vec<f64>,
    hits: Vec<usize>,
    queries: usize,
    without: usize,
}

impl Sums {
    fn none(ks: &[usize]) -> Self {
        let (recall, hits) = (vec![0.0; ks.len()], vec![0; ks.len()]);
        Self { precision: 0.0, first: 0, recall, hits, queries: 0, without: 0 }
    }

    /// Adds a query that has found the images of its class at these ranks.
    fn add(&mut self, ranks: &[usize], ks: &[usize]) {
        let Some(first) = ranks.first() else {
            self.without += 1;
            return;
        };
        self.queries += 1;
        let precisions = ranks.iter().enumerate().map(|(i, rank)| (i + 1) as f64 / *rank as f64);
        self.precision += precisions.sum::<f64>() / ranks.len() as f64;
        self.first += usize::from(*first == 1);
        for (i, k) in ks.iter().enumerate() {
            let found = ranks.partition_point(|rank| rank <= k);
            self.recall[i] += found as f64 / ranks.len() as f64;
            self.hits[i] += usize::from(found > 0);
        }
    }

    fn means(self) -> RetrievalScores {
        let queries = self.queries as f64;
        RetrievalScores {
            map: self.precision / queries,
            precision_at_1: self.first as f64 / queries,
            recall: self.recall.iter().map(|sum| sum / queries).collect(),
            hits: self.hits.iter().map(|count| *count as f64 / queries).collect(),
            queries: self.queries,
            without: self.without,
        }
    }
}

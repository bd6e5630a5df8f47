//! Unsupervised classification: features of images in clusters by k-means, compared with the images' classes, as in the
//! paper's Table 11.

use crate::error::{Error, Result};
use crate::eval::agreement::{Agreement, agreement};
use crate::eval::images::LabelledImages;
use crate::eval::kmeans::{KMeansOptions, Points};
use crate::eval::pass::{Progress, cls_features, finite, groups};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::tensor::ELEMENT_BYTES;

/// Lengths are taken to be at least this.
const EPS: f64 = 1e-12;

/// How images are put into clusters.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterOptions {
    /// Number of clusters, at most that of the images.
    pub clusters: usize,
    /// How they are sought.
    pub k_means: KMeansOptions,
    /// Whether features are divided by their length first, so that angles count.
    pub normalize: bool,
    /// Bytes on the host that features of the networks evaluated together may take.
    pub memory: usize,
}

impl ClusterOptions {
    /// This many clusters, in all else as scikit-learn's defaults.
    pub fn new(clusters: usize) -> Self {
        Self { clusters, k_means: KMeansOptions::default(), normalize: false, memory: 4 << 30 }
    }
}

/// What clusters of a network's features are worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClusterScores {
    /// How well they agree with the classes.
    pub agreement: Agreement,
    /// Squared distances of all features from their centres, added up.
    pub inertia: f64,
    /// Iterations of the start that was kept.
    pub iterations: usize,
}

/// The scores of every network on the same images. As many networks as `options.memory` allows share a pass over the
/// images. Progress counts images of all passes, then starts of k-means.
///
/// Features that are not finite are an error, and fewer readable images than clusters.
pub fn cluster_scores(
    encoder: Encoder<'_>,
    networks: &[Network],
    images: &LabelledImages,
    options: &ClusterOptions,
    progress: Progress<'_>,
) -> Result<Vec<ClusterScores>> {
    let width = |network: Network| encoder.backbone.feature_width(network);
    let groups = groups(networks, options.memory, |network| images.len() * width(network) * ELEMENT_BYTES);
    let (mut done, total, mut scores) = (0, groups.len() * images.len(), Vec::new());
    for group in groups {
        let mut features: Vec<Vec<f32>> = group.iter().map(|_| Vec::new()).collect();
        let mut advance = |count: usize| {
            done += count;
            progress("features", done, total);
        };
        let classes = cls_features(encoder, group, images, &mut advance, |i, cls| {
            features[i].extend(cls.to_vec::<f32>()?);
            Ok(())
        })?;
        if classes.len() < options.clusters {
            let problem = format!("has {} readable images for {} clusters", classes.len(), options.clusters);
            return Err(Error::file(images.describe(), problem));
        }
        for (network, rows) in group.iter().zip(&features) {
            finite(*network, rows, width(*network), images)?;
        }
        for (network, mut rows) in group.iter().zip(features) {
            if options.normalize {
                rows.chunks_exact_mut(width(*network)).for_each(normalize);
            }
            let points = Points::new(encoder.device, rows, width(*network))?;
            let (starts, before) = (options.k_means.starts, scores.len());
            let started = |done| progress("k-means", before * starts + done, networks.len() * starts);
            let found = points.k_means(options.clusters, &options.k_means, started)?;
            scores.push(ClusterScores {
                agreement: agreement(&classes, &found.clusters),
                inertia: found.inertia,
                iterations: found.iterations,
            });
        }
    }
    Ok(scores)
}

fn normalize(row: &mut [f32]) {
    let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(EPS);
    row.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
}

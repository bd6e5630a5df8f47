//! Features of labelled images through sub-networks of a model, and their k-NN accuracy.

use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::data::{Source, evaluation_view};
use crate::error::{Error, Result};
use crate::eval::knn::knn_top1;
use crate::models::grid::Network;
use crate::poa::PoaModel;
use crate::tensor::Tensor;

/// Images that go through a network at once.
const BATCH: usize = 100;

/// Labelled images that are kept ready for evaluation: normalised, `[3, size, size]` each.
pub struct LabelledImages {
    size: usize,
    images: Vec<Vec<f32>>,
    labels: Vec<u32>,
}

impl LabelledImages {
    /// At most `most` images of a source (0 for all), the same random ones every time; unreadable ones are left out.
    pub fn load(source: &Arc<dyn Source>, most: usize, size: usize) -> Result<Self> {
        let count = if most == 0 { source.len() } else { most.min(source.len()) };
        let mut picked = sample(&mut ChaCha8Rng::seed_from_u64(0), source.len(), count).into_vec();
        picked.sort_unstable();
        let loaded: Vec<(Vec<f32>, u32)> = picked
            .into_par_iter()
            .filter_map(|at| {
                let label = source.label(at)?;
                Some((evaluation_view(&source.load(at).ok()?, size), label))
            })
            .collect();
        if loaded.is_empty() {
            return Err(Error::file(source.describe(), "has no readable labelled image to evaluate on"));
        }
        let (images, labels) = loaded.into_iter().unzip();
        Ok(Self { size, images, labels })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Normed cls features `[len, width]` on the host.
    fn features(&self, model: &PoaModel, network: Network) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(self.len() * network.width);
        for batch in self.images.chunks(BATCH) {
            let images =
                Tensor::from_slice(&model.device, &[batch.len(), 3, self.size, self.size], &batch.concat())?;
            all.extend(model.teacher_encoder().features(network, &images, false)?.0.to_vec::<f32>()?);
        }
        Ok(all)
    }
}

/// k-NN top-1 accuracies, one for every k, of the teacher's sub-network.
pub fn network_knn(
    model: &PoaModel,
    network: Network,
    (train, val): (&LabelledImages, &LabelledImages),
    ks: &[usize],
    temperature: f64,
) -> Result<Vec<f64>> {
    let bank = train.features(model, network)?;
    let queries = val.features(model, network)?;
    Ok(knn_top1(&bank, &train.labels, &queries, &val.labels, network.width, ks, temperature as f32))
}

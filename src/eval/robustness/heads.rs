//! What turns a network into a classifier.

use crate::error::Result;
use crate::eval::knn_bank::KnnBank;
use crate::eval::linear::TrainedProbe;
use crate::eval::probe::linear_logits;
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::ops::top_k::argmax;
use crate::tensor::Tensor;

/// A classifier on a network.
pub enum Head {
    /// Weights `[classes, width]` and bias `[classes]` on the cls features: what fine-tuning leaves behind.
    Linear(Tensor, Tensor),
    /// The best linear probe.
    Probe(TrainedProbe),
    /// Labelled features that vote.
    Neighbours(KnnBank),
}

impl Head {
    /// The class of each of these normalised images `[n, channels, side, side]`; none where no vote counts.
    pub fn guesses(
        &self,
        encoder: Encoder<'_>,
        network: Network,
        images: &Tensor,
    ) -> Result<Vec<Option<u32>>> {
        let first = |logits: &Tensor| -> Result<_> { Ok(argmax(logits)?.into_iter().map(Some).collect()) };
        match self {
            Self::Linear(weight, bias) => {
                let (cls, _) = encoder.features(network, images, false)?;
                first(&linear_logits(&cls, weight, bias)?)
            }
            Self::Probe(probe) => first(&probe.logits(encoder, network, images)?),
            Self::Neighbours(bank) => bank.guesses(&encoder.features(network, images, false)?.0),
        }
    }
}

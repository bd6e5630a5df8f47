//! A classifier on a network's features, on labelled images.

use crate::collective::Collective;
use crate::error::Result;
use crate::eval::classification::Classification;
use crate::eval::images::LabelledImages;
use crate::eval::shared::Ranked;
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::tensor::Tensor;

/// Classifies all readable `images` by cls features of `network` and the logits `[n, classes]` that `logits` makes of
/// them, `[n, width]`. Several ranks share the work, and all have the result.
pub fn classify(
    ranks: &Collective,
    encoder: Encoder<'_>,
    network: Network,
    images: &LabelledImages,
    logits: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Classification> {
    Ranked { ranks, encoder, networks: &[network] }.classified(images, logits)
}

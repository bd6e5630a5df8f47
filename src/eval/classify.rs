//! A classifier on a network's features, on labelled images.

use crate::collective::Collective;
use crate::error::Result;
use crate::eval::choice::Choice;
use crate::eval::images::LabelledImages;
use crate::eval::shared::Ranked;
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::tensor::Tensor;

/// What a classifier made of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Classified {
    choices: Vec<Choice>,
}

impl Classified {
    /// Number of images.
    pub fn images(&self) -> usize {
        self.choices.len()
    }

    /// One of each image.
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// Share of images whose class comes first.
    pub fn top1(&self) -> f64 {
        self.share_within(1)
    }

    /// Share of images whose class is one of the first five.
    pub fn top5(&self) -> f64 {
        self.share_within(5)
    }

    fn share_within(&self, first: u32) -> f64 {
        let right = self.choices.iter().filter(|choice| choice.before < first).count();
        right as f64 / self.choices.len().max(1) as f64
    }
}

/// Classifies all readable `images` by cls features of `network` and the logits `[n, classes]` that `logits` makes of
/// them, `[n, width]`. Several ranks share the work, and all have the result.
pub fn classify(
    ranks: &Collective,
    encoder: Encoder<'_>,
    network: Network,
    images: &LabelledImages,
    logits: &mut dyn FnMut(&Tensor) -> Result<Tensor>,
) -> Result<Classified> {
    let ranked = Ranked { ranks, encoder, networks: &[network] };
    Ok(Classified { choices: ranked.choices(images, logits)? })
}

//! The frozen network whose embeddings are the targets.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::backbone::{Backbone, CropBatch, Token};
use crate::models::grid::Network;
use crate::nn::head::ProjectionHead;
use crate::nn::parameters::Parameters;
use crate::ops::l2_normalize::l2_normalize;
use crate::tensor::Tensor;

/// Norms are taken to be at least this.
pub(super) const EPS: f32 = 1e-12;

/// A teacher: nothing of it changes during a run.
pub struct FrozenTeacher {
    /// The backbone.
    pub backbone: Box<dyn Backbone>,
    /// Which sub-network of it.
    pub network: Network,
    /// Its parameters, and those of the head.
    pub parameters: Parameters,
    /// The projection head whose output is embedded, where it is not the features themselves.
    pub head: Option<ProjectionHead>,
}

impl FrozenTeacher {
    /// Channels of its embeddings.
    pub fn width(&self) -> usize {
        match &self.head {
            Some(head) => head.sizes.bottleneck,
            None => self.backbone.feature_width(self.network),
        }
    }

    /// Its embeddings `[crops of all groups, width]`, group by group, each of length one.
    pub fn embed(&self, crops: &[CropBatch]) -> Result<Tensor> {
        let tape = Tape::no_grad();
        let tokens = self.backbone.forward(&tape, &self.parameters, self.network, crops, None)?;
        let features = tokens.features(&tape, &cls(crops))?;
        let embedded: Var = match &self.head {
            Some(head) => head.forward(&tape, &self.parameters, &features)?,
            None => l2_normalize(&tape, &features, EPS)?,
        };
        Ok(embedded.value().clone())
    }

    /// A checksum of all its values: a run that goes on must have the teacher that it had.
    pub fn checksum(&self) -> Result<u32> {
        let values = self.parameters.values();
        values.layout().places().iter().try_fold(0, |sum, place| {
            let own: Vec<f32> = values.read(&place.spec.name)?;
            Ok(crc32c::crc32c_append(sum, bytemuck::cast_slice(&own)))
        })
    }
}

/// What stands for each crop, group by group.
pub(super) fn cls(crops: &[CropBatch]) -> Vec<Token> {
    let of = |(group, batch): (usize, &CropBatch)| {
        let count = batch.images.dim(0);
        (0..count).map(move |crop| Token::Cls { group, crop })
    };
    crops.iter().enumerate().flat_map(of).collect()
}

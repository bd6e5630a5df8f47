//! What a head is.

use serde::{Deserialize, Serialize};

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::maps::FeatureMap;
use crate::nn::parameters::{ParameterSpec, Parameters};
use crate::ops::conv::MapShape;
use crate::tasks::segment::heads::layers::{Mode, Running};

/// Which head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadKind {
    /// One linear layer on all maps.
    #[default]
    Linear,
    /// UPerNet, with an auxiliary head of one convolution.
    Upernet,
}

/// What a head is made with.
#[derive(Clone, Copy, Debug)]
pub struct HeadSizes {
    /// Classes.
    pub classes: usize,
    /// Channels of UPerNet's maps.
    pub channels: usize,
    /// Channels of the auxiliary head.
    pub auxiliary_channels: usize,
    /// Whether the linear head norms the maps by BatchNorm first, as DINOv2's does.
    pub norm: bool,
}

/// Logits of a head.
pub struct Logits {
    /// `[n·height·width, classes]`
    pub main: (Var, MapShape),
    /// The auxiliary head's, where there is one and it is trained.
    pub auxiliary: Option<(Var, MapShape)>,
}

/// A head: what it has to be trained, and its forward pass.
pub trait Head {
    /// Its parameters.
    fn specs(&self) -> Vec<ParameterSpec>;

    /// Names and channels of its BatchNorms, which have running statistics.
    fn norms(&self) -> Vec<(String, usize)>;

    /// Channels whose dropout is drawn for every image, in the order of [`Mode::Training`]'s factors.
    fn dropouts(&self) -> Vec<usize>;

    /// Logits of maps from places that it was made for.
    fn forward(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        running: &Running,
        maps: &[FeatureMap],
        mode: &Mode<'_>,
    ) -> Result<Logits>;
}

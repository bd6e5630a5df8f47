//! Four maps of one size, of a ViT's blocks, as a pyramid: four times and twice as large by transposed convolutions, as they
//! are, and half as large (official `VisionTransformer2`, after BEiT).

use crate::autograd::Tape;
use crate::error::Result;
use crate::models::maps::FeatureMap;
use crate::nn::parameters::{ParameterSpec, Parameters};
use crate::ops::gelu::gelu;
use crate::ops::max_pool::max_pool_2;
use crate::tasks::segment::heads::layers::{Mode, Running, norm, norm_specs, spread, spread_specs};

/// The layers between maps and head.
pub struct Neck {
    pub width: usize,
}

impl Neck {
    pub fn specs(&self) -> Vec<ParameterSpec> {
        let mut specs = Vec::new();
        specs.extend(spread_specs("neck.fpn1.0", self.width));
        specs.extend(norm_specs("neck.fpn1.1", self.width));
        specs.extend(spread_specs("neck.fpn1.3", self.width));
        specs.extend(spread_specs("neck.fpn2.0", self.width));
        specs
    }

    pub fn norms(&self) -> Vec<(String, usize)> {
        vec![("neck.fpn1.1".into(), self.width)]
    }

    pub fn forward(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        running: &Running,
        [a, b, c, d]: [&FeatureMap; 4],
        mode: &Mode<'_>,
    ) -> Result<[FeatureMap; 4]> {
        let mut first = spread(tape, parameters, "neck.fpn1.0", a)?;
        first.rows = norm(tape, parameters, running, "neck.fpn1.1", &first.rows, false, mode)?;
        first.rows = gelu(tape, &first.rows)?;
        let first = spread(tape, parameters, "neck.fpn1.3", &first)?;
        let second = spread(tape, parameters, "neck.fpn2.0", b)?;
        let (rows, shape) = max_pool_2(tape, &d.rows, d.shape)?;
        Ok([first, second, c.clone(), FeatureMap { rows, shape }])
    }
}

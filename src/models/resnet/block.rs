//! A bottleneck: 1×1, 3×3 and 1×1 convolutions with GroupNorm, of which the two in the middle are elastic,
//! added to the input or, in the first block of a stage, to a 1×1 convolution of it.

use super::sizes::{BlockPlace, NORM_EPS, ResNetShape};
use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::parameters::Parameters;
use crate::ops::conv::{Conv, MapShape, conv2d};
use crate::ops::group_norm::{GroupNorm, group_norm};

/// A block with its parameters.
pub(super) struct Block {
    pub shape: ResNetShape,
    pub parameters: Parameters,
    pub at: BlockPlace,
}

impl Block {
    fn name(&self, part: &str) -> String {
        let BlockPlace { stage, block, .. } = self.at;
        format!("backbone.layer{}.layers.{block}.{part}", stage + 1)
    }

    fn var(&self, part: &str) -> Result<Var> {
        self.parameters.var(&self.name(part))
    }

    /// A convolution's weights.
    fn weight(&self, part: &str) -> Result<Var> {
        self.parameters.operand(&self.name(part))
    }

    /// GroupNorm with the first `channels` of a norm's parameters.
    fn norm(
        &self,
        tape: &Tape,
        x: &Var,
        shape: MapShape,
        name: &str,
        relu: bool,
        residual: Option<&Var>,
    ) -> Result<Var> {
        let channels = x.value().dim(1);
        let part = |part: &str| self.var(&format!("{name}.{part}"))?.view(|v| v.slice(0, 0..channels));
        let norm = GroupNorm { images: shape.images, groups: self.shape.groups, eps: NORM_EPS, relu };
        group_norm(tape, x, &part("weight")?, &part("bias")?, residual, norm)
    }

    fn stride(&self) -> usize {
        if self.at.block == 0 { self.shape.strides[self.at.stage] } else { 1 }
    }

    /// Shape of the block's output, for an input of this one.
    pub fn after(&self, shape: MapShape) -> MapShape {
        shape.after(3, self.stride(), 1)
    }

    /// The block's output.
    pub fn forward(&self, tape: &Tape, x: &Var, shape: MapShape) -> Result<Var> {
        let BlockPlace { stage, block, middle } = self.at;
        let stride = self.stride();
        let alpha = self.shape.input_scale.alpha(self.shape.middle(stage), middle);
        let slice = |name: &str, out: usize, input: usize| {
            self.weight(name)?.view(|w| w.slice(0, 0..out)?.slice(1, 0..input))
        };
        let (inputs, outputs) = (x.value().dim(1), self.shape.outputs(stage));
        let first = slice("conv1.conv.weight", middle, inputs)?;
        let (y, _) = conv2d(tape, x, shape, &Conv { weight: first, stride: 1, padding: 0, alpha: 1.0 })?;
        let y = self.norm(tape, &y, shape, "norm1", true, None)?;
        let second = slice("conv2.conv.weight", middle, middle)?;
        let (y, after) = conv2d(tape, &y, shape, &Conv { weight: second, stride, padding: 1, alpha })?;
        let y = self.norm(tape, &y, after, "norm2", true, None)?;
        let third = slice("conv3.conv.weight", outputs, middle)?;
        let (y, _) = conv2d(tape, &y, after, &Conv { weight: third, stride: 1, padding: 0, alpha })?;
        let residual = match block {
            0 => {
                let weight = self.weight("downsample.0.weight")?;
                let conv = Conv { weight, stride, padding: 0, alpha: 1.0 };
                let (shortcut, _) = conv2d(tape, x, shape, &conv)?;
                self.norm(tape, &shortcut, after, "downsample.1", false, None)?
            }
            _ => x.clone(),
        };
        self.norm(tape, &y, after, "norm3", true, Some(&residual))
    }
}

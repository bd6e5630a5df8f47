//! Projection heads: an elastic linear layer, two plain ones, L2 normalisation; the prototypes follow in the
//! loss (poa-facts: projection heads).

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::nn::elastic::InputScale;
use crate::nn::parameters::{Init, ParameterSpec, Parameters};
use crate::ops::cast::cast;
use crate::ops::gelu::gelu;
use crate::ops::l2_normalize::l2_normalize;
use crate::ops::linear::{LinearWeights, linear, mlp};
use crate::tensor::DType;

/// Sizes of a projection head.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadSizes {
    /// Largest input width.
    pub input: usize,
    /// Hidden width.
    pub hidden: usize,
    /// Bottleneck width.
    pub bottleneck: usize,
    /// Number of prototypes K.
    pub prototypes: usize,
    /// Whether its first layer has its α.
    pub input_scale: InputScale,
    /// Standard deviation of the first weights, as [`Init::linear`] takes it.
    pub init_std: f64,
}

/// One projection head by its official names: `{module}.mlp{index}.*` and `{module}.last_layer{index}.*`.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionHead {
    /// `dino_head` or `ibot_head`.
    pub module: String,
    /// Number of the head.
    pub index: usize,
    /// Sizes.
    pub sizes: HeadSizes,
}

impl ProjectionHead {
    fn name(&self, part: &str) -> String {
        format!("{}.mlp{}.{part}", self.module, self.index)
    }

    fn last(&self, part: &str) -> String {
        format!("{}.last_layer{}.{part}", self.module, self.index)
    }

    /// The MLP's parameters.
    pub fn mlp_specs(&self) -> Vec<ParameterSpec> {
        let s = &self.sizes;
        let weight = |part: &str, shape: [usize; 2]| {
            ParameterSpec::new(self.name(part), &shape, Init::linear(s.init_std, shape[1]))
        };
        let bias = |part: &str, n: usize| ParameterSpec::new(self.name(part), &[n], Init::Constant(0.0));
        vec![
            weight("0.linear.weight", [s.hidden, s.input]),
            bias("0.linear.bias", s.hidden),
            weight("2.weight", [s.hidden, s.hidden]),
            bias("2.bias", s.hidden),
            weight("4.weight", [s.bottleneck, s.hidden]),
            bias("4.bias", s.bottleneck),
        ]
    }

    /// The prototypes' parameters: direction v and length g.
    pub fn prototype_specs(&self) -> Vec<ParameterSpec> {
        let s = &self.sizes;
        vec![
            ParameterSpec::new(self.last("weight_g"), &[s.prototypes, 1], Init::Constant(1.0)),
            ParameterSpec::new(
                self.last("weight_v"),
                &[s.prototypes, s.bottleneck],
                Init::linear(s.init_std, s.bottleneck),
            ),
        ]
    }

    /// Bottleneck features `[rows, bottleneck]` of unit length and single precision, of x `[rows, width]`.
    pub fn forward(&self, tape: &Tape, parameters: &Parameters, x: &Var) -> Result<Var> {
        let width = x.value().dim(1);
        let layer = |part: &str, alpha: f32| -> Result<LinearWeights> {
            Ok(LinearWeights {
                weight: parameters.operand(&self.name(&format!("{part}.weight")))?,
                bias: Some(parameters.var(&self.name(&format!("{part}.bias")))?),
                alpha,
            })
        };
        let mut first = layer("0.linear", self.sizes.input_scale.alpha(self.sizes.input, width))?;
        first.weight = first.weight.view(|w| w.slice(1, 0..width))?;
        let hidden = mlp(tape, x, &first, &layer("2", 1.0)?)?;
        let hidden = gelu(tape, &hidden)?;
        let bottleneck = linear(tape, &hidden, &layer("4", 1.0)?)?;
        l2_normalize(tape, &cast(tape, &bottleneck, DType::F32)?, 1e-12)
    }

    /// The prototypes (v, g).
    pub fn prototypes(&self, parameters: &Parameters) -> Result<(Var, Var)> {
        Ok((parameters.var(&self.last("weight_v"))?, parameters.var(&self.last("weight_g"))?))
    }
}

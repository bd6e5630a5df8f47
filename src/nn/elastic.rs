//! Slices of elastic parameters (poa-facts: elastic linear): the first entries along every axis, and α =
//! largest input / input as the factor of the product, where the network scales its inputs.

use std::ops::Range;

use crate::autograd::Var;
use crate::error::Result;
use crate::nn::parameters::Parameters;
use crate::ops::linear::LinearWeights;

/// The first `width` entries of a vector parameter of any official shape.
pub fn vector(parameters: &Parameters, name: &str, width: usize) -> Result<Var> {
    parameters.var(name)?.view(|v| v.reshape(&[v.elements()])?.slice(0, 0..width))
}

/// Whether elastic layers multiply their inputs by α; a network that does not has its sub-networks' inputs as they are
/// (the paper's Table 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputScale(pub bool);

impl InputScale {
    /// α of a layer that takes `input` of `most` inputs.
    pub fn alpha(self, most: usize, input: usize) -> f32 {
        if self.0 { most as f32 / input as f32 } else { 1.0 }
    }
}

/// The elastic linear layer `{name}.linear`: its first `out` rows and `input` columns.
pub fn elastic_linear(
    parameters: &Parameters,
    name: &str,
    (out, input): (usize, usize),
    scale: InputScale,
) -> Result<LinearWeights> {
    let weight = parameters.operand(&format!("{name}.linear.weight"))?;
    let alpha = scale.alpha(weight.value().dim(1), input);
    Ok(LinearWeights {
        weight: weight.view(|w| w.slice(0, 0..out)?.slice(1, 0..input))?,
        bias: Some(vector(parameters, &format!("{name}.linear.bias"), out)?),
        alpha,
    })
}

/// Some of the q, k and v parts of the elastic layer `{name}.linear`, the first `width` rows of each.
pub fn elastic_qkv(
    parameters: &Parameters,
    name: &str,
    width: usize,
    parts: Range<usize>,
    scale: InputScale,
) -> Result<LinearWeights> {
    elastic_groups(parameters, name, (3, parts), (width, width), scale)
}

/// Some of the `groups` equal groups of rows of the elastic layer `{name}.linear`: of each its first `out` rows and
/// `input` columns.
pub fn elastic_groups(
    parameters: &Parameters,
    name: &str,
    (groups, parts): (usize, Range<usize>),
    (out, input): (usize, usize),
    scale: InputScale,
) -> Result<LinearWeights> {
    let weight = parameters.operand(&format!("{name}.linear.weight"))?;
    let bias = parameters.var(&format!("{name}.linear.bias"))?;
    let (most, inputs) = (weight.value().dim(0) / groups, weight.value().dim(1));
    Ok(LinearWeights {
        weight: weight.view(|t| {
            t.reshape(&[groups, most, inputs])?.slice(0, parts.clone())?.slice(1, 0..out)?.slice(2, 0..input)
        })?,
        bias: Some(bias.view(|t| t.reshape(&[groups, most])?.slice(0, parts.clone())?.slice(1, 0..out))?),
        alpha: scale.alpha(inputs, input),
    })
}

//! Slices of elastic parameters (poa-facts: elastic linear): the first entries along every axis, and α =
//! largest input / input as the factor of the product.

use std::ops::Range;

use crate::autograd::Var;
use crate::error::Result;
use crate::nn::parameters::Parameters;
use crate::ops::linear::LinearWeights;

/// The first `width` entries of a vector parameter of any official shape.
pub fn vector(parameters: &Parameters, name: &str, width: usize) -> Result<Var> {
    parameters.var(name)?.view(|v| v.reshape(&[v.elements()])?.slice(0, 0..width))
}

/// The elastic linear layer `{name}.linear`: its first `out` rows and `input` columns.
pub fn elastic_linear(
    parameters: &Parameters,
    name: &str,
    out: usize,
    input: usize,
) -> Result<LinearWeights> {
    let weight = parameters.operand(&format!("{name}.linear.weight"))?;
    let alpha = weight.value().dim(1) as f32 / input as f32;
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
) -> Result<LinearWeights> {
    elastic_groups(parameters, name, (3, parts), width, width)
}

/// Some of the `groups` equal groups of rows of the elastic layer `{name}.linear`: of each its first `out` rows and
/// `input` columns.
pub fn elastic_groups(
    parameters: &Parameters,
    name: &str,
    (groups, parts): (usize, Range<usize>),
    out: usize,
    input: usize,
) -> Result<LinearWeights> {
    let weight = parameters.operand(&format!("{name}.linear.weight"))?;
    let bias = parameters.var(&format!("{name}.linear.bias"))?;
    let (most, inputs) = (weight.value().dim(0) / groups, weight.value().dim(1));
    Ok(LinearWeights {
        weight: weight.view(|t| {
            t.reshape(&[groups, most, inputs])?.slice(0, parts.clone())?.slice(1, 0..out)?.slice(2, 0..input)
        })?,
        bias: Some(bias.view(|t| t.reshape(&[groups, most])?.slice(0, parts.clone())?.slice(1, 0..out))?),
        alpha: inputs as f32 / input as f32,
    })
}

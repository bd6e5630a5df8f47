//! The layers that heads are made of.

use std::collections::BTreeMap;

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::models::maps::FeatureMap;
use crate::nn::parameters::{Init, ParameterSpec, Parameters};
use crate::ops::batch_norm::{batch_norm, batch_norm_by};
use crate::ops::conv::{Conv, conv2d};
use crate::ops::linear::{LinearWeights, linear};
use crate::ops::resample::{Resampling, resample};
use crate::ops::scale_channels::scale_channels;
use crate::tensor::{Device, Tensor};

/// Share of a batch's statistics in running ones: PyTorch's.
const MOMENTUM: f32 = 0.1;

/// Factors `[images, channels]` of a dropout.
pub type Factors = Tensor;

/// A part of a layer among the parameters.
pub fn part(parameters: &Parameters, name: &str, part: &str) -> Result<Var> {
    parameters.var(&format!("{name}.{part}"))
}

/// How a head is run.
pub enum Mode<'a> {
    /// By the statistics of the batch, which the running ones follow, with the factors of every dropout.
    Training(&'a [Factors]),
    /// By running statistics.
    Judging,
}

impl Mode<'_> {
    /// The factors of a dropout.
    pub fn dropout(&self, tape: &Tape, number: usize, x: &Var) -> Result<Var> {
        match self {
            Self::Training(factors) if !factors.is_empty() => scale_channels(tape, x, &factors[number]),
            _ => Ok(x.clone()),
        }
    }
}

/// Running statistics of BatchNorms by name, `[channels, 2]` each.
pub struct Running {
    by_name: BTreeMap<String, Tensor>,
}

impl Running {
    /// Means of zero and variances of one.
    pub fn new(device: &Device, norms: &[(String, usize)]) -> Result<Self> {
        let of = |(name, channels): &(String, usize)| {
            let values: Vec<f32> = [0.0, 1.0].repeat(*channels);
            Ok((name.clone(), Tensor::from_slice(device, &[*channels, 2], &values)?))
        };
        Ok(Self { by_name: norms.iter().map(of).collect::<Result<_>>()? })
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.by_name.iter()
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        self.by_name.get(name).ok_or_else(|| Error::shape("batch_norm", format!("no statistics of `{name}`")))
    }
}

/// BatchNorm `name` of `channels`.
pub fn norm_specs(name: &str, channels: usize) -> [ParameterSpec; 2] {
    [("weight", 1.0), ("bias", 0.0)]
        .map(|(part, value)| ParameterSpec::new(format!("{name}.{part}"), &[channels], Init::Constant(value)))
}

/// BatchNorm, then ReLU where asked for.
pub fn norm(
    tape: &Tape,
    parameters: &Parameters,
    running: &Running,
    name: &str,
    x: &Var,
    relu: bool,
    mode: &Mode<'_>,
) -> Result<Var> {
    let (gamma, beta) = (part(parameters, name, "weight")?, part(parameters, name, "bias")?);
    let statistics = running.get(name)?;
    match mode {
        Mode::Training(_) => batch_norm(tape, x, [&gamma, &beta], statistics, MOMENTUM, relu),
        Mode::Judging => {
            Ok(Var::constant(batch_norm_by(x.value(), [gamma.value(), beta.value()], statistics, relu)?))
        }
    }
}

/// A convolution of `kernel`² pixels without bias, BatchNorm, ReLU.
#[derive(Clone, Debug)]
pub struct ConvNorm {
    pub name: String,
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: usize,
}

impl ConvNorm {
    pub fn specs(&self) -> Vec<ParameterSpec> {
        let (n, k) = (self.outputs, self.kernel);
        // Kaiming, as mmsegmentation's convolutions in front of ReLU
        let init = Init::Normal((2.0 / (self.inputs * k * k) as f32).sqrt());
        let mut specs =
            vec![ParameterSpec::new(format!("{}.conv.weight", self.name), &[n, self.inputs, k, k], init)];
        specs.extend(norm_specs(&self.norm(), n));
        specs
    }

    /// The name of its BatchNorm.
    pub fn norm(&self) -> String {
        format!("{}.bn", self.name)
    }

    pub fn forward(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        running: &Running,
        x: &FeatureMap,
        mode: &Mode<'_>,
    ) -> Result<FeatureMap> {
        let weight = part(parameters, &self.name, "conv.weight")?;
        let conv = Conv { weight, stride: 1, padding: self.kernel / 2, alpha: 1.0 };
        let (y, shape) = conv2d(tape, &x.rows, x.shape, &conv)?;
        Ok(FeatureMap { rows: norm(tape, parameters, running, &self.norm(), &y, true, mode)?, shape })
    }
}

/// One linear layer for every pixel: mmsegmentation's `conv_seg`.
pub fn pixel_specs(name: &str, inputs: usize, outputs: usize) -> [ParameterSpec; 2] {
    [
        ParameterSpec::new(format!("{name}.weight"), &[outputs, inputs], Init::Normal(0.01)),
        ParameterSpec::new(format!("{name}.bias"), &[outputs], Init::Constant(0.0)),
    ]
}

/// The layer of [`pixel_specs`].
pub fn pixel_layer(tape: &Tape, parameters: &Parameters, name: &str, x: &Var) -> Result<Var> {
    let layer = LinearWeights {
        weight: part(parameters, name, "weight")?,
        bias: Some(part(parameters, name, "bias")?),
        alpha: 1.0,
    };
    linear(tape, x, &layer)
}

/// A map at the size of another one.
pub fn resized(tape: &Tape, x: &FeatureMap, to: &FeatureMap) -> Result<FeatureMap> {
    let sizes = [x, to].map(|map| [map.shape.height, map.shape.width]);
    if sizes[0] == sizes[1] {
        return Ok(x.clone());
    }
    let by = Resampling::bilinear(x.rows.value().device(), sizes[0], sizes[1])?;
    let (rows, shape) = resample(tape, &x.rows, x.shape, &by)?;
    Ok(FeatureMap { rows, shape })
}

/// A convolution of 2×2 pixels two apart, transposed: `[4, out, in]`, the upper two taps first.
pub fn spread_specs(name: &str, width: usize) -> [ParameterSpec; 2] {
    // PyTorch's, by the outputs of a tap
    let init = Init::Uniform(1.0 / (4.0 * width as f32).sqrt());
    [
        ParameterSpec::new(format!("{name}.weight"), &[4, width, width], init),
        ParameterSpec::new(format!("{name}.bias"), &[width], init),
    ]
}

/// The layer of [`spread_specs`].
pub fn spread(tape: &Tape, parameters: &Parameters, name: &str, x: &FeatureMap) -> Result<FeatureMap> {
    let bias = part(parameters, name, "bias")?;
    let layer = LinearWeights {
        weight: part(parameters, name, "weight")?,
        // the same for all four pixels
        bias: Some(bias.view(|b| b.repeated(4))?),
        alpha: 1.0,
    };
    let (rows, shape) = crate::ops::maps::spread(tape, &linear(tape, &x.rows, &layer)?, x.shape)?;
    Ok(FeatureMap { rows, shape })
}

/// Factors `[images, channels]` of a dropout that leaves out channels with probability `rate`.
pub fn dropout_factors(
    device: &Device,
    images: usize,
    channels: usize,
    rate: f64,
    rng: &mut impl rand::RngExt,
) -> Result<Factors> {
    let kept = (1.0 / (1.0 - rate)) as f32;
    let values: Vec<f32> =
        (0..images * channels).map(|_| if rng.random::<f64>() < rate { 0.0 } else { kept }).collect();
    Tensor::from_slice(device, &[images, channels], &values)
}

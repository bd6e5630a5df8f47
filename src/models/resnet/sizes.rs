//! Sizes of a ResNet, the names and shapes of its parameters, and what a sub-network of it costs.

use super::settings::{STAGES, Settings};
use crate::error::{Error, Result};
use crate::models::backbone::Cost;
use crate::models::grid::{Network, block_ids};
use crate::nn::elastic::InputScale;
use crate::nn::parameters::{Init, ParameterSpec};

/// ε of every GroupNorm.
pub const NORM_EPS: f32 = 1e-5;

/// Sizes of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetShape {
    /// Channels of the images.
    pub channels: usize,
    /// Pixels of the side of the global crops.
    pub image: usize,
    /// Channels after the first convolution.
    pub stem: usize,
    /// Output channels of the first stage's blocks, which double from stage to stage.
    pub outputs: usize,
    /// Middle channels of the first stage's blocks, which double too.
    pub middle: usize,
    /// Blocks of each stage.
    pub depths: [usize; STAGES],
    /// Stride of each stage's first block.
    pub strides: [usize; STAGES],
    /// Groups of every GroupNorm.
    pub groups: usize,
    /// Whether elastic convolutions have their α.
    pub input_scale: InputScale,
    /// Patch tokens along a pixel of the last map.
    pub patches: usize,
}

/// Which block a block of a sub-network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockPlace {
    /// Its stage.
    pub stage: usize,
    /// Its number among the intact network's blocks of the stage.
    pub block: usize,
    /// Its middle channels.
    pub middle: usize,
}

/// Side of the map after a convolution with this stride whose padding keeps the size.
fn after(side: usize, stride: usize) -> usize {
    side.div_ceil(stride)
}

impl ResNetShape {
    /// The sizes that settings ask for, for global crops of `image` pixels a side.
    pub fn from_settings(s: &Settings, image: usize) -> Self {
        Self {
            channels: s.elastic.in_chans,
            image,
            stem: s.stem_channels,
            outputs: 4 * s.base_channels,
            middle: s.widest(),
            depths: s.max_depths,
            strides: s.strides,
            groups: s.num_gn_groups,
            input_scale: InputScale(s.elastic.input_scale),
            patches: s.ibot_scale_factor,
        }
    }

    /// Middle channels of a stage of the intact network.
    pub fn middle(&self, stage: usize) -> usize {
        self.middle << stage
    }

    /// Output channels of a stage.
    pub fn outputs(&self, stage: usize) -> usize {
        self.outputs << stage
    }

    /// Channels that enter a stage.
    pub fn inputs(&self, stage: usize) -> usize {
        if stage == 0 { self.stem } else { self.outputs(stage - 1) }
    }

    /// Patch tokens along a side of so many pixels.
    pub fn cells(&self, pixels: usize) -> usize {
        // the first convolution and the max-pooling halve it twice
        pixels / 4 / self.strides.iter().product::<usize>() * self.patches
    }

    /// The sizes of the plain network that a sub-network is.
    pub fn plain(&self, network: Network) -> Self {
        Self { middle: network.width, depths: network.stages, ..self.clone() }
    }

    /// Refuses a sub-network that this network does not have.
    pub(crate) fn demand(&self, network: Network) -> Result<()> {
        let deep = network.stages.iter().zip(&self.depths).all(|(d, most)| (1..=*most).contains(d));
        if deep && (1..=self.middle).contains(&network.width) && network.width.is_multiple_of(self.groups) {
            return Ok(());
        }
        Err(Error::shape("resnet", format!("network {network} of a ResNet {}", self.network())))
    }

    /// The name of the network that has all of it.
    pub fn network(&self) -> Network {
        Network::staged(self.middle, self.depths)
    }

    /// The blocks that a sub-network keeps, in order.
    pub(super) fn blocks(&self, network: Network) -> impl Iterator<Item = BlockPlace> + '_ {
        (0..STAGES).flat_map(move |stage| {
            let middle = network.width << stage;
            let ids = block_ids(self.depths[stage], network.stages[stage]);
            ids.into_iter().map(move |block| BlockPlace { stage, block, middle })
        })
    }

    /// The cost of a sub-network.
    pub fn cost(&self, network: Network) -> Cost {
        let specs = resnet_specs(&self.plain(network));
        let own = specs.iter().filter(|spec| !spec.name.ends_with("mask_token"));
        let parameters = own.map(|spec| spec.shape.iter().product::<usize>() as u64).sum();
        let half = after(self.image, 2);
        let mut multiplications = half * half * self.stem * self.channels * 49;
        let mut side = after(half, 2);
        for place in self.blocks(network) {
            let (inputs, outputs, middle) =
                (self.inputs(place.stage), self.outputs(place.stage), place.middle);
            let first = place.block == 0;
            let before = side * side;
            side = after(side, if first { self.strides[place.stage] } else { 1 });
            let inputs = if first { inputs } else { outputs };
            let shortcut = if first { inputs * outputs } else { 0 };
            multiplications += before * inputs * middle;
            multiplications += side * side * (9 * middle * middle + middle * outputs + shortcut);
        }
        Cost { parameters, flops: 2 * multiplications as u64 }
    }
}

/// All parameters of a ResNet of these sizes under their official names. Convolutions begin as PyTorch's do,
/// uniform in ± 1/√fan_in.
pub fn resnet_specs(s: &ResNetShape) -> Vec<ParameterSpec> {
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[usize], init: Init| all.push(ParameterSpec::new(name, shape, init));
    let convolution =
        |inputs: usize, kernel: usize| Init::Uniform(1.0 / ((inputs * kernel * kernel) as f32).sqrt());
    let (one, zero) = (Init::Constant(1.0), Init::Constant(0.0));
    add("backbone.mask_token".into(), &[1, s.stem, 1, 1], zero);
    add("backbone.conv1.weight".into(), &[s.stem, s.channels, 7, 7], convolution(s.channels, 7));
    add("backbone.norm1.weight".into(), &[s.stem], one);
    add("backbone.norm1.bias".into(), &[s.stem], zero);
    for stage in 0..STAGES {
        let (middle, outputs) = (s.middle(stage), s.outputs(stage));
        for block in 0..s.depths[stage] {
            let inputs = if block == 0 { s.inputs(stage) } else { outputs };
            let mut convolve = |part: &str, norm: &str, [out, input, kernel]: [usize; 3]| {
                let name = |rest: &str| format!("backbone.layer{}.layers.{block}.{rest}", stage + 1);
                add(name(part), &[out, input, kernel, kernel], convolution(input, kernel));
                add(name(&format!("{norm}.weight")), &[out], one);
                add(name(&format!("{norm}.bias")), &[out], zero);
            };
            convolve("conv1.conv.weight", "norm1", [middle, inputs, 1]);
            convolve("conv2.conv.weight", "norm2", [middle, middle, 3]);
            convolve("conv3.conv.weight", "norm3", [outputs, middle, 1]);
            if block == 0 {
                convolve("downsample.0.weight", "downsample.1", [outputs, inputs, 1]);
            }
        }
    }
    all
}

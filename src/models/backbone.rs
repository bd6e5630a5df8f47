//! What trainer, evaluation and extraction know of a backbone. A new one is a folder with its settings and
//! what implements this, and its arms in `registry.rs`.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;

use crate::autograd::{Tape, Var};
use crate::data::CropGroup;
use crate::data::batch::Pixels;
use crate::error::{Error, Result};
use crate::models::graph::{Extent, Graph};
use crate::models::grid::{ElasticGrid, Network};
use crate::models::maps::{FeatureMap, MapPlace};
use crate::models::plain::{Format, PlainName, PlainNetwork};
use crate::nn::parameters::{ParameterSpec, Parameters};
use crate::ops::lookup::{Bytes, VALUES};
use crate::optim::groups::LayerRule;
use crate::tensor::{Device, Tensor};

/// Crops of one size that go through a network together.
#[derive(Clone)]
pub struct CropBatch {
    /// `[n, channels, side, side]`.
    pub images: Tensor,
    /// `u32 [n · cells²]`, nonzero where a patch is masked.
    pub mask: Option<Tensor>,
}

impl CropBatch {
    /// Images `[n, channels, side, side]` without masks.
    pub fn new(images: Tensor) -> Self {
        Self { images, mask: None }
    }

    /// Number and side of the crops, which must be square and have this many channels.
    pub fn square(&self, backbone: &'static str, channels: usize) -> Result<[usize; 2]> {
        match *self.images.shape() {
            [count, found, side, across] if found == channels && side == across => Ok([count, side]),
            _ => {
                let problem = format!("crops [n, {channels}, side, side] expected, got {:?}", self.images);
                Err(Error::shape(backbone, problem))
            }
        }
    }

    /// Groups of crops with their masks, on a device.
    pub fn upload<'a>(device: &Device, groups: impl Iterator<Item = &'a CropGroup>) -> Result<Vec<Self>> {
        let upload = |group: &CropGroup| {
            let mask = match &group.masks {
                Some(masks) if !masks.values.is_empty() => {
                    let words: Vec<u32> = masks.values.iter().map(|m| u32::from(*m)).collect();
                    Some(Tensor::from_slice(device, &[words.len()], &words)?)
                }
                _ => None,
            };
            Ok((OnDevice::new(device, group)?.upload(0..group.crops())?, mask))
        };
        // all goes up before anything is recorded: to write where recorded work reads would hand that over first
        let raw: Vec<_> = groups.map(upload).collect::<Result<_>>()?;
        raw.into_iter().map(|(raw, mask)| Ok(Self { images: raw.normalised()?, mask })).collect()
    }
}

/// A group's crops on their way to a device, which normalises 8-bit values.
pub struct OnDevice<'a> {
    device: &'a Device,
    group: &'a CropGroup,
    /// What becomes of 8-bit values.
    table: Option<Tensor>,
}

impl<'a> OnDevice<'a> {
    /// Nothing but what all crops share is on the device yet.
    pub fn new(device: &'a Device, group: &'a CropGroup) -> Result<Self> {
        let table = match &group.pixels {
            Pixels::Floats(_) => None,
            Pixels::Bytes(_, by) => Some(Tensor::from_slice(device, &[by.channels(), VALUES], &by.table())?),
        };
        Ok(Self { device, group, table })
    }

    /// Copies some of the crops to the device.
    pub fn upload(&self, crops: Range<usize>) -> Result<RawCrops> {
        let Self { device, group, table } = self;
        let (one, size) = (group.crop_len(), group.size);
        let (shape, values) = ([crops.len(), group.channels, size, size], crops.start * one..crops.end * one);
        Ok(match (&group.pixels, table) {
            (Pixels::Bytes(bytes, _), Some(table)) => {
                RawCrops::Bytes(Bytes::upload(device, &bytes[values])?, table.clone(), shape)
            }
            _ => RawCrops::Floats(Tensor::from_slice(device, &shape, &group.normalised()[values])?),
        })
    }
}

/// Crops on a device, as they came.
pub enum RawCrops {
    /// Normalised ones.
    Floats(Tensor),
    /// 8-bit values, what becomes of them, and their shape.
    Bytes(Bytes, Tensor, [usize; 4]),
}

impl RawCrops {
    /// The normalised values, `[n, channels, side, side]`.
    pub fn normalised(self) -> Result<Tensor> {
        match self {
            Self::Floats(images) => Ok(images),
            Self::Bytes(bytes, table, shape) => bytes.look_up(&table, &shape),
        }
    }
}

/// An output token: of which batch of crops, of which crop of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// What stands for the whole crop: the class token, or the mean where there is none.
    Cls {
        /// The batch of crops.
        group: usize,
        /// The crop.
        crop: usize,
    },
    /// What stands for one patch.
    Patch {
        /// The batch of crops.
        group: usize,
        /// The crop.
        crop: usize,
        /// The patch, row by row, of [`Backbone::cells`]².
        cell: usize,
    },
}

/// Size and work of a plain network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Parameters of the backbone as timm counts them: without mask token and heads.
    pub parameters: u64,
    /// Floating-point operations of one image, a multiplication and an addition being two: convolutions,
    /// matrix products, attention scores and weighted values. Biases, norms, softmax and activations are not
    /// counted.
    pub flops: u64,
}

/// The output of a forward pass.
pub trait Tokens {
    /// Normed features `[tokens, feature width]`. Each token at most once. What is left to compute may be computed for
    /// these tokens alone, so that all that are wanted should be asked for together.
    fn features(&self, tape: &Tape, tokens: &[Token]) -> Result<Var>;
}

/// An elastic backbone: names and shapes of its parameters, its sub-networks, and the forward pass of any of
/// them.
pub trait Backbone {
    /// All parameters under their official names.
    fn specs(&self) -> Vec<ParameterSpec>;

    /// The sub-networks.
    fn grid(&self) -> &ElasticGrid;

    /// A sub-network as a backbone of its own, which has no others: with the parameters of a plain network
    /// ([`Backbone::plain`]) under official names. A network that it does not have is an error.
    fn alone(&self, network: Network) -> Result<Box<dyn Backbone>>;

    /// How the learning rate falls towards the input.
    fn layer_rule(&self) -> LayerRule;

    /// Patch tokens along a side of an image of so many pixels; masks have as many.
    fn cells(&self, pixels: usize) -> usize;

    /// Width of a sub-network's features.
    fn feature_width(&self, network: Network) -> usize;

    /// Runs a sub-network over batches of crops, with stochastic depth where there are random numbers for it.
    fn forward<'a>(
        &'a self,
        tape: &Tape,
        parameters: &'a Parameters,
        network: Network,
        crops: &[CropBatch],
        drop_path: Option<&mut ChaCha8Rng>,
    ) -> Result<Box<dyn Tokens + 'a>>;

    /// How many of a sub-network's blocks [`Backbone::last_blocks`] can give.
    fn outputs(&self, _network: Network) -> usize {
        1
    }

    /// Runs a sub-network without gradients and gives what comes out of each of its last `count` blocks, the
    /// last block's last: of backbones whose blocks differ in width the output alone.
    fn last_blocks<'a>(
        &'a self,
        parameters: &'a Parameters,
        network: Network,
        crops: &[CropBatch],
        _count: usize,
    ) -> Result<Vec<Box<dyn Tokens + 'a>>> {
        Ok(vec![self.forward(&Tape::no_grad(), parameters, network, crops, None)?])
    }

    /// Where a sub-network has maps, from the input on, and the numbers of those that segmentation takes: after blocks of a ViT,
    /// after stages of the others.
    fn map_places(&self, network: Network) -> (Vec<MapPlace>, Vec<usize>);

    /// Maps of images `[n, channels, side, side]` at some of the places of [`Backbone::map_places`], in ascending order, with
    /// stochastic depth where there are random numbers for it. What comes after the last of them is not computed.
    fn maps(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        network: Network,
        images: &Tensor,
        places: &[usize],
        drop_path: Option<&mut ChaCha8Rng>,
    ) -> Result<Vec<FeatureMap>>;

    /// Attention of the class token of images `[n, channels, side, side]` to every patch in the last block,
    /// `[n, heads, patches]`; with what it pays to itself (and to registers) a head's weights sum to one. `None`
    /// without class token.
    fn class_attention(
        &self,
        _parameters: &Parameters,
        _network: Network,
        _images: &Tensor,
    ) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }

    /// What a sub-network costs once it is cut out, for an image of the global crops' size.
    fn cost(&self, network: Network) -> Cost;

    /// Elements of the largest tensor of a forward pass without gradients, for one image of `side` pixels.
    fn widest(&self, network: Network, side: usize) -> usize;

    /// A sub-network as a plain one. A network that it does not have, or one that the format cannot express,
    /// is an error.
    fn plain(&self, network: Network, format: Format) -> Result<PlainNetwork>;

    /// A sub-network as a graph over the tensors of its plain network in [`Format::Onnx`], for square images of `size`
    /// pixels. A network that it does not have, or a size that its graph cannot have, is an error.
    fn graph(&self, network: Network, size: Extent) -> Result<Graph>;

    /// How a plain network in a format has the parameter of this official name, if it does.
    fn plain_name(&self, official: &str, format: Format) -> Option<PlainName>;
}

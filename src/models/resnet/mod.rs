//! The elastic ResNet with GroupNorm (poa-facts: elastic ResNet). Maps are matrices with a pixel a row. Crops
//! of another size have maps of another size, so groups of crops go through one after the other.

mod block;
mod graph;
mod grid;
mod layers;
mod plain;
mod settings;
mod sizes;

use rand_chacha::ChaCha8Rng;

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::backbone::{Backbone, Cost, CropBatch, Token, Tokens};
use crate::models::graph::{Extent, Graph};
use crate::models::grid::{ElasticGrid, Network};
use crate::models::maps::{FeatureMap, MapPlace};
use crate::models::plain::{Format, PlainName, PlainNetwork};
use crate::nn::parameters::{ParameterSpec, Parameters};
use crate::ops::avg_pool::{Run, avg_pool};
use crate::ops::conv::{Conv, MapShape, conv_images};
use crate::ops::group_norm::{GroupNorm, group_norm};
use crate::ops::mask_rows::{MaskedMaps, mask_rows};
use crate::ops::max_pool::max_pool;
use crate::optim::groups::LayerRule;
use crate::tensor::Tensor;

use block::Block;
pub use grid::resnet_grid;
pub use layers::layer_rule;
pub use settings::{STAGES, Settings};
pub use sizes::{NORM_EPS, ResNetShape, resnet_specs};

/// The elastic ResNet: names, shapes and the forward pass of any of its sub-networks.
pub struct ResNet {
    shape: ResNetShape,
    grid: ElasticGrid,
}

impl ResNet {
    /// A ResNet of this shape, with these sub-networks.
    pub fn new(shape: ResNetShape, grid: ElasticGrid) -> Self {
        Self { shape, grid }
    }

    /// The ResNet that settings ask for, for global crops of `image` pixels a side.
    pub fn from_settings(s: &Settings, image: usize) -> Result<Self> {
        Ok(Self::new(ResNetShape::from_settings(s, image), resnet_grid(s)?))
    }

    /// Sizes of the intact network.
    pub fn shape(&self) -> &ResNetShape {
        &self.shape
    }

    /// First convolution, norm, ReLU, max-pooling, and the mask token where something is masked.
    fn stem(&self, tape: &Tape, parameters: &Parameters, crops: &CropBatch) -> Result<(Var, MapShape)> {
        let weight = parameters.operand("backbone.conv1.weight")?;
        let conv = Conv { weight, stride: 2, padding: 3, alpha: 1.0 };
        let (x, shape) = conv_images(tape, &crops.images, &conv)?;
        let norm = |part: &str| parameters.var(&format!("backbone.norm1.{part}"));
        let how = GroupNorm { images: shape.images, groups: self.shape.groups, eps: NORM_EPS, relu: true };
        let x = group_norm(tape, &x, &norm("weight")?, &norm("bias")?, None, how)?;
        let (x, shape) = max_pool(tape, &x, shape)?;
        let Some(mask) = &crops.mask else { return Ok((x, shape)) };
        let token = parameters.var("backbone.mask_token")?.view(|t| t.reshape(&[t.elements()]))?;
        let cells = (mask.elements() / shape.images).isqrt();
        let maps = MaskedMaps { count: shape.images, side: shape.height, cells, mask: Some(mask.clone()) };
        Ok((mask_rows(tape, &x, &token, &[maps])?, shape))
    }
}

impl Backbone for ResNet {
    fn specs(&self) -> Vec<ParameterSpec> {
        resnet_specs(&self.shape)
    }

    fn grid(&self) -> &ElasticGrid {
        &self.grid
    }

    fn alone(&self, network: Network) -> Result<Box<dyn Backbone>> {
        // refuses what there is not
        self.plain(network, Format::Poa)?;
        Ok(Box::new(Self::new(self.shape.plain(network), ElasticGrid::of(network))))
    }

    fn layer_rule(&self) -> LayerRule {
        layer_rule(self.shape.depths)
    }

    fn cells(&self, pixels: usize) -> usize {
        self.shape.cells(pixels)
    }

    fn feature_width(&self, _: Network) -> usize {
        self.shape.outputs(STAGES - 1)
    }

    fn forward<'a>(
        &'a self,
        tape: &Tape,
        parameters: &'a Parameters,
        network: Network,
        crops: &[CropBatch],
        _: Option<&mut ChaCha8Rng>,
    ) -> Result<Box<dyn Tokens + 'a>> {
        self.shape.demand(network)?;
        let mut groups = Vec::new();
        for batch in crops {
            let [_, side] = batch.square("resnet", self.shape.channels)?;
            let (mut x, mut shape) = self.stem(tape, parameters, batch)?;
            for block in self.shape.blocks(network) {
                let block = Block { shape: self.shape.clone(), parameters: parameters.clone(), at: block };
                let after = block.after(shape);
                x = tape.segment(&x, move |tape, x| block.forward(tape, x, shape))?;
                shape = after;
            }
            groups.push(Group { map: x, shape, cells: self.cells(side) });
        }
        Ok(Box::new(Maps { groups }))
    }

    fn map_places(&self, _: Network) -> (Vec<MapPlace>, Vec<usize>) {
        // the stem quarters an image
        let mut stride = 4;
        let places = (0..STAGES).map(|stage| {
            stride *= self.shape.strides[stage];
            MapPlace { width: self.shape.outputs(stage), stride }
        });
        (places.collect(), (0..STAGES).collect())
    }

    fn maps(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        network: Network,
        images: &Tensor,
        places: &[usize],
        _: Option<&mut ChaCha8Rng>,
    ) -> Result<Vec<FeatureMap>> {
        self.shape.demand(network)?;
        let crops = CropBatch::new(images.clone());
        crops.square("resnet", self.shape.channels)?;
        let (mut x, mut shape) = self.stem(tape, parameters, &crops)?;
        let mut maps = Vec::new();
        let mut blocks = self.shape.blocks(network).peekable();
        while let Some(place) = blocks.next() {
            let block = Block { shape: self.shape.clone(), parameters: parameters.clone(), at: place };
            let after = block.after(shape);
            x = tape.segment(&x, move |tape, x| block.forward(tape, x, shape))?;
            shape = after;
            let ends = blocks.peek().is_none_or(|next| next.stage != place.stage);
            if ends && places.contains(&place.stage) {
                maps.push(FeatureMap { rows: x.clone(), shape });
            }
            if ends && places.last() == Some(&place.stage) {
                break;
            }
        }
        Ok(maps)
    }

    fn cost(&self, network: Network) -> Cost {
        self.shape.cost(network)
    }

    fn plain(&self, network: Network, format: Format) -> Result<PlainNetwork> {
        plain::network(&self.shape, network, format)
    }

    fn graph(&self, network: Network, size: Extent) -> Result<Graph> {
        graph::graph(&self.shape, network, size)
    }

    fn plain_name(&self, official: &str, format: Format) -> Option<PlainName> {
        plain::name(official, format)
    }

    fn widest(&self, _: Network, side: usize) -> usize {
        // the map after the first convolution, those of the first stage, or the padded image
        let (half, quarter) = (side.div_ceil(2), side.div_ceil(4));
        let stem = half * half * self.shape.stem;
        stem.max(quarter * quarter * self.shape.outputs(0))
            .max((side + 6).pow(2) * self.shape.channels.next_multiple_of(4))
    }
}

/// The last map of crops of one size.
struct Group {
    /// `[n·height·width, channels]`.
    map: Var,
    shape: MapShape,
    /// Patch tokens along a side.
    cells: usize,
}

/// What comes out of the last stage: a crop's cls token is the mean of its map, patches are the map's pixels,
/// each as often as patches stand on it.
struct Maps {
    groups: Vec<Group>,
}

impl Tokens for Maps {
    fn features(&self, tape: &Tape, tokens: &[Token]) -> Result<Var> {
        let sources: Vec<&Var> = self.groups.iter().map(|g| &g.map).collect();
        let runs: Vec<Run> = tokens
            .iter()
            .map(|token| match *token {
                Token::Cls { group, crop } => {
                    let length = self.groups[group].shape.height * self.groups[group].shape.width;
                    Run { source: group, first: crop * length, length }
                }
                Token::Patch { group, crop, cell } => {
                    let Group { shape, cells, .. } = &self.groups[group];
                    let row = cell / cells * shape.height / cells;
                    let column = cell % cells * shape.width / cells;
                    let first = (crop * shape.height + row) * shape.width + column;
                    Run { source: group, first, length: 1 }
                }
            })
            .collect();
        avg_pool(tape, &sources, &runs)
    }
}

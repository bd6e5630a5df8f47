//! The elastic Vision Transformer (poa-facts: elastic ViT). Crops of several sizes go through each layer
//! packed into one matrix of tokens; attention keeps them apart.

mod block;
mod cost;
mod drop_path;
mod ffn;
mod graph;
mod grid;
mod last_block;
mod layers;
mod plain;
mod settings;
mod sizes;
mod transformers;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rand_chacha::ChaCha8Rng;

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::models::backbone::{Backbone, Cost, CropBatch, Token, Tokens};
use crate::models::graph::{Extent, Graph};
use crate::models::grid::{ElasticGrid, Network, block_ids};
use crate::models::maps::{FeatureMap, MapPlace, usual_blocks};
use crate::models::plain::{Format, PlainName, PlainNetwork};
use crate::nn::elastic::vector;
use crate::nn::parameters::{ParameterSpec, Parameters};
use crate::ops::attention::SequenceGroup;
use crate::ops::conv::MapShape;
use crate::ops::layer_norm::layer_norm;
use crate::ops::linear::LinearWeights;
use crate::ops::maps::without_first;
use crate::ops::patch_embed::patch_embed;
use crate::ops::position::{bicubic_matrix, resample_positions};
use crate::ops::row_subset::RowSubset;
use crate::ops::tokens::{TokenGroup, TokenParameters, tokens};
use crate::optim::groups::LayerRule;
use crate::tensor::{Device, Tensor};

use block::Block;
use drop_path::{DropPath, on_device};
pub use ffn::Ffn;
pub use grid::vit_grid;
use last_block::LastBlock;
pub use layers::layer_rule;
pub use settings::Settings;
use sizes::REGISTERS;
pub use sizes::{NORM_EPS, VitSizes, vit_specs};

/// The elastic ViT: names, shapes and the forward pass of any of its sub-networks.
pub struct Vit {
    sizes: VitSizes,
    grid: ElasticGrid,
    /// Position resampling matrices by the grid side they lead to.
    resampling: RefCell<HashMap<usize, Tensor>>,
}

impl Vit {
    /// A ViT of these sizes, with these sub-networks.
    pub fn new(sizes: VitSizes, grid: ElasticGrid) -> Self {
        Self { sizes, grid, resampling: RefCell::default() }
    }

    /// The ViT that settings ask for, for global crops of `image` pixels a side.
    pub fn from_settings(s: &Settings, image: usize) -> Result<Self> {
        Ok(Self::new(VitSizes::from_settings(s, image), vit_grid(s)?))
    }

    /// Sizes of the intact network.
    pub fn sizes(&self) -> &VitSizes {
        &self.sizes
    }

    /// The tokens that enter the first block of `network`.
    fn start(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        network: Network,
        crops: &[CropBatch],
    ) -> Result<(Var, Vec<SequenceGroup>)> {
        let s = &self.sizes;
        if network.width > s.width || network.depth > s.depth || !network.width.is_multiple_of(s.head_dim) {
            return Err(Error::shape("vit", format!("network {network} of a ViT {}x{}", s.width, s.depth)));
        }
        self.embed(tape, parameters, network.width, crops)
    }

    /// The blocks that `network` keeps, in order.
    fn blocks<'a>(
        &'a self,
        parameters: &'a Parameters,
        network: Network,
    ) -> impl Iterator<Item = Block> + 'a {
        block_ids(self.sizes.depth, network.depth).into_iter().map(move |block| Block {
            parameters: parameters.clone(),
            prefix: format!("backbone.blocks.{block}."),
            width: network.width,
            head_dim: self.sizes.head_dim,
            ffn: self.sizes.ffn,
            hidden: self.sizes.hidden(network.width),
            input_scale: self.sizes.input_scale,
        })
    }

    fn embed(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        width: usize,
        crops: &[CropBatch],
    ) -> Result<(Var, Vec<SequenceGroup>)> {
        let s = &self.sizes;
        let fan_in = s.channels * s.patch * s.patch;
        let weight = parameters.operand("backbone.patch_embed.proj.weight")?;
        let projection = LinearWeights {
            weight: weight.view(|w| w.reshape(&[s.width, fan_in])?.slice(0, 0..width))?,
            bias: Some(vector(parameters, "backbone.patch_embed.proj.bias", width)?),
            alpha: 1.0,
        };
        let position = parameters.var("backbone.pos_embed")?;
        let home = s.grid(s.image);
        let rows = |range: std::ops::Range<usize>| {
            position
                .view(|p| p.reshape(&[1 + home * home, s.width])?.slice(0, range.clone())?.slice(1, 0..width))
        };
        let patch_positions = rows(1..1 + home * home)?;
        let mut groups = Vec::new();
        let mut sequences = Vec::new();
        for batch in crops {
            let [count, side] = batch.square("vit", s.channels)?;
            if !side.is_multiple_of(s.patch) {
                return Err(Error::shape("vit", format!("crops of {side}x{side} in patches of {}", s.patch)));
            }
            let grid = s.grid(side);
            let positions = match grid == home {
                true => patch_positions.clone(),
                false => resample_positions(
                    tape,
                    &patch_positions,
                    &self.resampling(batch.images.device(), grid)?,
                )?,
            };
            groups.push(TokenGroup {
                crops: count,
                patches: patch_embed(tape, &batch.images, s.patch, &projection)?,
                positions,
                mask: batch.mask.clone(),
            });
            sequences.push(SequenceGroup { count, length: s.tokens(side) });
        }
        let shared = TokenParameters {
            cls: vector(parameters, "backbone.cls_token", width)?,
            cls_position: rows(0..1)?.view(|p| p.reshape(&[width]))?,
            mask_token: vector(parameters, "backbone.mask_token", width)?,
            registers: (s.registers > 0).then(|| self.registers(parameters, width)).transpose()?,
        };
        Ok((tokens(tape, &groups, &shared)?, sequences))
    }

    /// The registers `[R, width]`.
    fn registers(&self, parameters: &Parameters, width: usize) -> Result<Var> {
        let s = &self.sizes;
        parameters.var(REGISTERS)?.view(|r| r.reshape(&[s.registers, s.width])?.slice(1, 0..width))
    }

    fn resampling(&self, device: &Device, grid: usize) -> Result<Tensor> {
        if let Some(matrix) = self.resampling.borrow().get(&grid) {
            return Ok(matrix.clone());
        }
        let home = self.sizes.grid(self.sizes.image);
        let matrix = Tensor::from_slice(device, &[grid * grid, home * home], &bicubic_matrix(home, grid))?;
        self.resampling.borrow_mut().insert(grid, matrix.clone());
        Ok(matrix)
    }
}

impl Backbone for Vit {
    fn specs(&self) -> Vec<ParameterSpec> {
        vit_specs(&self.sizes)
    }

    fn grid(&self) -> &ElasticGrid {
        &self.grid
    }

    fn alone(&self, network: Network) -> Result<Box<dyn Backbone>> {
        // refuses what there is not
        self.plain(network, Format::Poa)?;
        Ok(Box::new(Self::new(self.sizes.plain(network), ElasticGrid::of(network))))
    }

    fn layer_rule(&self) -> LayerRule {
        layer_rule(self.sizes.depth)
    }

    fn cells(&self, pixels: usize) -> usize {
        self.sizes.grid(pixels)
    }

    fn feature_width(&self, network: Network) -> usize {
        network.width
    }

    fn forward<'a>(
        &'a self,
        tape: &Tape,
        parameters: &'a Parameters,
        network: Network,
        crops: &[CropBatch],
        drop_path: Option<&mut ChaCha8Rng>,
    ) -> Result<Box<dyn Tokens + 'a>> {
        let mut drops = match drop_path {
            Some(rng) => Some(DropPath::draw(&self.sizes, network, crops, rng)?),
            None => None,
        };
        let (mut x, groups) = self.start(tape, parameters, network, crops)?;
        let mut blocks: Vec<Block> = self.blocks(parameters, network).collect();
        let last = blocks.pop().map(|block| {
            let drops = drops.as_mut().map(|d| std::mem::take(&mut d.last)).unwrap_or_default();
            Rc::new(LastBlock { block, groups: groups.clone(), drops })
        });
        let drops = drops.map(Rc::new);
        for (i, block) in blocks.into_iter().enumerate() {
            let (groups, drops) = (groups.clone(), drops.clone());
            x = tape.segment(&x, move |tape, x| {
                block.forward(tape, x, &groups, drops.as_ref().map_or([None, None], |d| d.of_block(i)))
            })?;
        }
        let before = 1 + self.sizes.registers;
        Ok(Box::new(PackedTokens { parameters, packed: x, groups, before, last }))
    }

    fn outputs(&self, network: Network) -> usize {
        network.depth
    }

    fn last_blocks<'a>(
        &'a self,
        parameters: &'a Parameters,
        network: Network,
        crops: &[CropBatch],
        count: usize,
    ) -> Result<Vec<Box<dyn Tokens + 'a>>> {
        let tape = Tape::no_grad();
        let (mut x, groups) = self.start(&tape, parameters, network, crops)?;
        let mut kept: Vec<Box<dyn Tokens + 'a>> = Vec::new();
        for (i, block) in self.blocks(parameters, network).enumerate() {
            x = block.forward(&tape, &x, &groups, [None, None])?;
            if i + count.max(1) >= network.depth {
                let (packed, groups) = (x.clone(), groups.clone());
                let before = 1 + self.sizes.registers;
                kept.push(Box::new(PackedTokens { parameters, packed, groups, before, last: None }));
            }
        }
        Ok(kept)
    }

    fn map_places(&self, network: Network) -> (Vec<MapPlace>, Vec<usize>) {
        let place = MapPlace { width: network.width, stride: self.sizes.patch };
        (vec![place; network.depth], usual_blocks(network.depth))
    }

    fn maps(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        network: Network,
        images: &Tensor,
        places: &[usize],
        drop_path: Option<&mut ChaCha8Rng>,
    ) -> Result<Vec<FeatureMap>> {
        let crops = [CropBatch::new(images.clone())];
        let mut drops = match drop_path {
            Some(rng) => Some(DropPath::draw(&self.sizes, network, &crops, rng)?),
            None => None,
        };
        let last = match &mut drops {
            Some(drops) => {
                let tables = drops.last.iter().flatten().map(|rows| rows.rows()).collect::<Vec<_>>();
                let mut subsets = RowSubset::all(images.device(), &tables)?.into_iter();
                on_device(&drops.last, &mut subsets)
            }
            None => [None, None],
        };
        let (drops, last) = (drops.map(Rc::new), Rc::new(last));
        let (mut x, groups) = self.start(tape, parameters, network, &crops)?;
        let cells = self.cells(images.dim(2));
        let shape = MapShape { images: images.dim(0), height: cells, width: cells };
        let before = 1 + self.sizes.registers;
        let mut maps = Vec::new();
        let count = places.last().map_or(0, |last| last + 1);
        for (i, block) in self.blocks(parameters, network).enumerate().take(count) {
            let (groups, drops, last) = (groups.clone(), drops.clone(), last.clone());
            x = tape.segment(&x, move |tape, x| {
                let rows = match i + 1 == network.depth {
                    true => last.each_ref().map(Option::as_ref),
                    false => drops.as_ref().map_or([None, None], |d| d.of_block(i)),
                };
                block.forward(tape, x, &groups, rows)
            })?;
            if places.contains(&i) {
                maps.push(FeatureMap {
                    rows: without_first(tape, &x, before + cells * cells, before)?,
                    shape,
                });
            }
        }
        Ok(maps)
    }

    fn class_attention(
        &self,
        parameters: &Parameters,
        network: Network,
        images: &Tensor,
    ) -> Result<Option<Vec<f32>>> {
        let tape = Tape::no_grad();
        let crops = CropBatch::new(images.clone());
        let (mut x, groups) = self.start(&tape, parameters, network, &[crops])?;
        let mut blocks: Vec<Block> = self.blocks(parameters, network).collect();
        let Some(last) = blocks.pop() else { return Ok(None) };
        for block in blocks {
            x = block.forward(&tape, &x, &groups, [None, None])?;
        }
        let qkv = last.qkv_of(&tape, &x)?;
        let length = qkv.dim(0) / images.dim(0);
        let VitSizes { head_dim, registers, .. } = self.sizes;
        Ok(Some(class_weights(&qkv.to_vec()?, length, 1 + registers, network.width, head_dim)))
    }

    fn cost(&self, network: Network) -> Cost {
        self.sizes.cost(network)
    }

    fn widest(&self, network: Network, side: usize) -> usize {
        // the hidden layer of the MLP, or q, k and v; or the image itself
        let columns = self.sizes.hidden_columns(network.width).max(3 * network.width);
        (self.sizes.tokens(side) * columns).max(self.sizes.channels * side * side)
    }

    fn plain(&self, network: Network, format: Format) -> Result<PlainNetwork> {
        plain::network(&self.sizes, network, format)
    }

    fn graph(&self, network: Network, size: Extent) -> Result<Graph> {
        graph::graph(&self.sizes, network, size)
    }

    fn plain_name(&self, official: &str, format: Format) -> Option<PlainName> {
        plain::name(official, format)
    }
}

/// Packed tokens and where each crop's lie: per crop its cls token, its registers, then its patches. What comes after them is computed
/// for those that are asked for alone: the last block, where it has not run, and the final norm.
struct PackedTokens<'a> {
    parameters: &'a Parameters,
    /// `[Σ n·(before + patches), width]`.
    packed: Var,
    groups: Vec<SequenceGroup>,
    /// Tokens of a crop before its patches.
    before: usize,
    last: Option<Rc<LastBlock>>,
}

impl PackedTokens<'_> {
    fn row(&self, token: Token) -> u32 {
        let (group, crop, place) = match token {
            Token::Cls { group, crop } => (group, crop, 0),
            Token::Patch { group, crop, cell } => (group, crop, self.before + cell),
        };
        let before: usize = self.groups[..group].iter().map(|g| g.count * g.length).sum();
        (before + crop * self.groups[group].length + place) as u32
    }
}

impl Tokens for PackedTokens<'_> {
    fn features(&self, tape: &Tape, tokens: &[Token]) -> Result<Var> {
        let rows: Vec<u32> = tokens.iter().map(|t| self.row(*t)).collect();
        let (x, rows) = match &self.last {
            Some(last) => last.forward(tape, &self.packed, &rows)?,
            None => {
                let device = self.packed.value().device();
                (self.packed.clone(), Tensor::from_slice(device, &[rows.len()], &rows)?)
            }
        };
        let width = x.value().dim(1);
        let part = |name: &str| vector(self.parameters, &format!("backbone.norm.norm.{name}"), width);
        layer_norm(tape, &x, &part("weight")?, &part("bias")?, NORM_EPS, Some(&rows))
    }
}

/// Softmax weights of the first token of every sequence for those from number `before` on, `[n, heads, length −
/// before]`, of q, k and v `[n·length, 3·width]`.
fn class_weights(qkv: &[f32], length: usize, before: usize, width: usize, head_dim: usize) -> Vec<f32> {
    let scale = (head_dim as f32).powf(-0.5);
    let mut all = Vec::with_capacity(qkv.len() / (3 * head_dim));
    for sequence in qkv.chunks_exact(length * 3 * width) {
        for head in 0..width / head_dim {
            let part = |token: usize, which: usize| {
                &sequence[(token * 3 + which) * width + head * head_dim..][..head_dim]
            };
            let query = part(0, 0);
            let scores: Vec<f32> = (0..length)
                .map(|t| scale * query.iter().zip(part(t, 1)).map(|(q, k)| q * k).sum::<f32>())
                .collect();
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f32 = weights.iter().sum();
            all.extend(weights[before..].iter().map(|w| w / total));
        }
    }
    all
}

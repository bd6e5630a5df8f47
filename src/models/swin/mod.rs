//! The elastic Swin Transformer (poa-facts: elastic Swin): any width up to the largest, any subset of the
//! third stage's blocks, from one set of parameters. Crops of several sizes run together, packed into one
//! matrix of map cells.

mod block;
mod cost;
mod geometry;
mod graph;
mod grid;
mod layers;
mod plain;
mod settings;
mod specs;
mod transformers;

pub use grid::swin_grid;
pub use layers::layer_rule;
pub use settings::Settings;
pub use specs::{NORM_EPS, SwinShape, swin_specs};

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::autograd::{Tape, Var};
use crate::error::{Error, Result};
use crate::models::backbone::{Backbone, Cost, CropBatch, Token, Tokens};
use crate::models::graph::{Extent, Graph};
use crate::models::grid::{ElasticGrid, Network};
use crate::models::maps::{FeatureMap, MapPlace};
use crate::models::plain::{Format, PlainName, PlainNetwork};
use crate::nn::elastic::vector;
use crate::nn::parameters::{ParameterSpec, Parameters};
use crate::ops::avg_pool::{Run, avg_pool};
use crate::ops::conv::MapShape;
use crate::ops::layer_norm::layer_norm;
use crate::ops::linear::{LinearWeights, linear};
use crate::ops::mask_rows::{MaskedMaps, mask_rows};
use crate::ops::patch_embed::unfold_into;
use crate::ops::patch_merge::{merge_norm, reduction};
use crate::ops::row_subset::RowSubset;
use crate::ops::window_attention::MapGroup;
use crate::optim::groups::LayerRule;
use crate::tensor::{Device, Tensor};

use block::Block;
use geometry::{Geometry, Stage};

/// Geometries that are kept; evaluation brings batches of a few sizes more.
const GEOMETRIES: usize = 8;

/// Count and side, in pixels, of every batch of crops.
type CropSides = Vec<(usize, usize)>;

/// The elastic Swin: names, shapes and the forward pass of any of its sub-networks.
pub struct Swin {
    shape: SwinShape,
    grid: ElasticGrid,
    /// Windows and neighbours by number and side of the crops.
    geometries: RefCell<HashMap<CropSides, Rc<Geometry>>>,
}

impl Swin {
    /// A Swin of this shape, with these sub-networks.
    pub fn new(shape: SwinShape, grid: ElasticGrid) -> Self {
        Self { shape, grid, geometries: RefCell::default() }
    }

    /// The Swin that settings ask for, for global crops of `image` pixels a side.
    pub fn from_settings(s: &Settings, image: usize) -> Result<Self> {
        Ok(Self::new(SwinShape::from_settings(s, image), swin_grid(s)?))
    }

    /// The intact network's shape.
    pub fn shape(&self) -> &SwinShape {
        &self.shape
    }

    fn geometry(&self, device: &Device, crops: &[CropBatch]) -> Result<Rc<Geometry>> {
        let patch = self.shape.patch;
        let mut key = Vec::new();
        for batch in crops {
            let [count, side] = batch.square("swin", self.shape.channels)?;
            if side == 0 || !side.is_multiple_of(patch) {
                return Err(Error::shape("swin", format!("crops of {side}x{side} in patches of {patch}")));
            }
            key.push((count, side / patch));
        }
        let mut known = self.geometries.borrow_mut();
        if let Some(geometry) = known.get(&key) {
            return Ok(geometry.clone());
        }
        if known.len() >= GEOMETRIES {
            known.clear();
        }
        let maps = key.iter().map(|&(count, side)| MapGroup { count, height: side, width: side }).collect();
        let geometry = Rc::new(Geometry::new(device, maps, &self.shape)?);
        known.insert(key, geometry.clone());
        Ok(geometry)
    }

    /// The map cells that enter the first stage: embedded patches, normed over the full width and cut, masked
    /// ones replaced.
    fn embed(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        width: usize,
        crops: &[CropBatch],
        maps: &[MapGroup],
    ) -> Result<Var> {
        let s = &self.shape;
        let fan_in = s.channels * s.patch * s.patch;
        let rows = maps.iter().map(MapGroup::rows).sum();
        let weight = parameters.operand("backbone.patch_embed.proj.weight")?;
        // the activations' precision from here on: that of the products
        let patches = Tensor::empty(crops[0].images.device(), &[rows, fan_in], weight.value().dtype())?;
        let (mut first, mut masks) = (0, Vec::new());
        for (batch, map) in crops.iter().zip(maps) {
            unfold_into(&batch.images, s.patch, &patches.slice(0, first..first + map.rows())?)?;
            first += map.rows();
            let cells = self.cells(batch.images.dim(2)).max(1);
            masks.push(MaskedMaps { count: map.count, side: map.height, cells, mask: batch.mask.clone() });
        }
        let part = |name: &str| vector(parameters, &format!("backbone.patch_embed.{name}"), s.embedding);
        let projection = LinearWeights {
            weight: weight.view(|w| w.reshape(&[s.embedding, fan_in]))?,
            bias: Some(part("proj.bias")?),
            alpha: 1.0,
        };
        let x = linear(tape, &Var::constant(patches), &projection)?;
        let x = layer_norm(tape, &x, &part("norm.norm.weight")?, &part("norm.norm.bias")?, NORM_EPS, None)?;
        mask_rows(tape, &x, &vector(parameters, "backbone.mask_token", width)?, &masks)
    }

    /// The maps of the next stage, half as large and twice as wide.
    fn merge(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        x: &Var,
        stage: usize,
        geometry: &Stage,
    ) -> Result<Var> {
        let (width, most) = (x.value().dim(1), self.shape.width << stage);
        let Some(neighbours) = &geometry.neighbours else { return Ok(x.clone()) };
        let name = |part: &str| format!("backbone.stages.{stage}.downsample.{part}.weight");
        let slices = |name: &str| parameters.var(name)?.view(|v| v.reshape(&[4, most])?.slice(1, 0..width));
        let bias = name("norm.norm").replace("weight", "bias");
        let y = merge_norm(tape, x, &slices(&name("norm.norm"))?, &slices(&bias)?, NORM_EPS, neighbours)?;
        let weight = parameters.operand(&name("reduction.linear"))?;
        let weight =
            weight.view(|w| w.reshape(&[2 * most, 4, most])?.slice(0, 0..2 * width)?.slice(2, 0..width))?;
        reduction(tape, &y, &weight, self.shape.input_scale.alpha(most, width))
    }

    /// Drop path of the attention and the MLP branches of a stage's `blocks`, numbered over all stages: every sample
    /// kept or not, those kept scaled up. One upload for all.
    fn drop_path(
        &self,
        blocks: &[usize],
        stage: &Stage,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<[Option<RowSubset>; 2]>> {
        let last = (self.shape.blocks().max(2) - 1) as f64;
        let rate = |block: usize| self.shape.drop_path_rate * block as f64 / last;
        let mut scales = Vec::new();
        for rate in blocks.iter().flat_map(|&block| [rate(block); 2]).filter(|rate| *rate != 0.0) {
            let kept = (1.0 / (1.0 - rate)) as f32;
            for map in &stage.maps {
                for _ in 0..map.count {
                    let factor = if rng.random::<f64>() >= rate { kept } else { 0.0 };
                    scales.push((map.height * map.width, factor));
                }
            }
        }
        let mut drawn = stage.every_row.with_scales(&scales)?.into_iter();
        let mut rows = |block: usize| if rate(block) == 0.0 { None } else { drawn.next() };
        Ok(blocks.iter().map(|&block| [rows(block), rows(block)]).collect())
    }

    /// Runs all stages over batches of crops. `see` gets what each stage leaves (its number, the map cells, their maps), before
    /// these are merged for the next, and says whether to go on.
    fn stages(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        network: Network,
        crops: &[CropBatch],
        mut drop_path: Option<&mut ChaCha8Rng>,
        mut see: impl FnMut(usize, &Var, &[MapGroup]) -> bool,
    ) -> Result<(Var, Rc<Geometry>)> {
        let s = &self.shape;
        s.demand(network)?;
        if crops.is_empty() {
            return Err(Error::shape("swin", "no crops"));
        }
        let kept = s.block_ids(network);
        let geometry = self.geometry(crops[0].images.device(), crops)?;
        let mut x = self.embed(tape, parameters, network.width, crops, &geometry.stages[0].maps)?;
        let mut before = 0;
        for (i, stage) in geometry.stages.iter().enumerate() {
            let blocks: Vec<usize> = kept[i].iter().map(|k| before + k).collect();
            let rows = match drop_path.as_deref_mut() {
                Some(rng) => self.drop_path(&blocks, stage, rng)?,
                None => vec![[None, None]; blocks.len()],
            };
            for (&k, rows) in kept[i].iter().zip(rows) {
                let block = Block::new(s, parameters, i, k, network.width << i);
                let geometry = geometry.clone();
                x = tape.segment(&x, move |tape, x| block.forward(tape, x, &geometry.stages[i], &rows))?;
            }
            before += s.depths[i];
            if !see(i, &x, &stage.maps) {
                break;
            }
            x = self.merge(tape, parameters, &x, i, stage)?;
        }
        Ok((x, geometry))
    }
}

impl Backbone for Swin {
    fn specs(&self) -> Vec<ParameterSpec> {
        swin_specs(&self.shape)
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
        pixels / self.shape.patch / 8 * self.shape.cells_per_side
    }

    fn feature_width(&self, network: Network) -> usize {
        8 * network.width
    }

    fn forward<'a>(
        &'a self,
        tape: &Tape,
        parameters: &'a Parameters,
        network: Network,
        crops: &[CropBatch],
        drop_path: Option<&mut ChaCha8Rng>,
    ) -> Result<Box<dyn Tokens + 'a>> {
        let (x, geometry) = self.stages(tape, parameters, network, crops, drop_path, |_, _, _| true)?;
        let part = |name: &str| {
            vector(parameters, &format!("backbone.norm3.norm.{name}"), self.feature_width(network))
        };
        let normed = layer_norm(tape, &x, &part("weight")?, &part("bias")?, NORM_EPS, None)?;
        let cells = crops.iter().map(|c| self.cells(c.images.dim(2))).collect();
        Ok(Box::new(MapTokens { normed, maps: geometry.stages[3].maps.clone(), cells }))
    }

    fn map_places(&self, network: Network) -> (Vec<MapPlace>, Vec<usize>) {
        let place = |i: usize| MapPlace { width: network.width << i, stride: self.shape.patch << i };
        ((0..4).map(place).collect(), (0..4).collect())
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
        let mut maps = Vec::new();
        let see = |i: usize, x: &Var, groups: &[MapGroup]| {
            for group in groups.iter().filter(|_| places.contains(&i)) {
                let shape = MapShape { images: group.count, height: group.height, width: group.width };
                maps.push(FeatureMap { rows: x.clone(), shape });
            }
            places.last() != Some(&i)
        };
        self.stages(tape, parameters, network, &crops, drop_path, see)?;
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

    fn widest(&self, network: Network, side: usize) -> usize {
        // the hidden layer of the first stage's MLP, or its q, k and v with the row of padding; the embedding
        // of the full width; or the image itself
        let (cells, ratio) = ((side / self.shape.patch).pow(2), self.shape.mlp_ratio.max(3));
        ((cells + 1) * network.width * ratio)
            .max(cells * self.shape.embedding)
            .max(self.shape.channels * side * side)
    }
}

/// The normed cells of the last maps.
struct MapTokens {
    /// `[Σ n·side², width]`.
    normed: Var,
    maps: Vec<MapGroup>,
    /// Patch tokens along a side of each group's maps.
    cells: Vec<usize>,
}

impl MapTokens {
    /// The rows that a token is the mean of: the whole map, or the cell that a patch stands on.
    fn run(&self, token: Token) -> Run {
        let (group, crop) = match token {
            Token::Cls { group, crop } | Token::Patch { group, crop, .. } => (group, crop),
        };
        let MapGroup { height, width, .. } = self.maps[group];
        let before: usize = self.maps[..group].iter().map(MapGroup::rows).sum();
        let first = before + crop * height * width;
        let (first, length) = match token {
            Token::Cls { .. } => (first, height * width),
            Token::Patch { cell, .. } => {
                let cells = self.cells[group];
                (first + cell / cells * height / cells * width + cell % cells * width / cells, 1)
            }
        };
        Run { source: 0, first, length }
    }
}

impl Tokens for MapTokens {
    fn features(&self, tape: &Tape, tokens: &[Token]) -> Result<Var> {
        let runs: Vec<Run> = tokens.iter().map(|t| self.run(*t)).collect();
        avg_pool(tape, &[&self.normed], &runs)
    }
}

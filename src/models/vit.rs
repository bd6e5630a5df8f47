//! The elastic Vision Transformer (poa-facts: elastic ViT). Crops of several sizes go through each layer packed into
//! one matrix of tokens; attention keeps them apart.

use std::cell::RefCell;
use std::collections::HashMap;

use rand::Rng;
use rand::seq::index::sample;

use crate::autograd::{Tape, Var};
use crate::config::Student;
use crate::error::{Error, Result};
use crate::models::grid::{Network, block_ids};
use crate::nn::parameters::{Init, ParameterSpec, Parameters};
use crate::ops::attention::{SequenceGroup, attention};
use crate::ops::layer_norm::layer_norm;
use crate::ops::linear::{LinearWeights, linear, mlp};
use crate::ops::patch_embed::patch_embed;
use crate::ops::position::{bicubic_matrix, resample_positions};
use crate::ops::residual::{RowSubset, per_sample_scale, residual};
use crate::ops::tokens::{TokenGroup, TokenParameters, tokens};
use crate::tensor::{Device, Tensor};

/// ε of every LayerNorm.
pub const NORM_EPS: f32 = 1e-6;
/// Up to this rate drop path multiplies samples by zero; above it, branches run on a subset of the samples.
const SUBSET_RATE: f64 = 0.1;

/// Sizes of the intact network.
#[derive(Clone, Debug, PartialEq)]
pub struct VitSizes {
    /// Pixels of a patch's side.
    pub patch: usize,
    /// Pixels of the side of the images that the position embedding is for (the global crops).
    pub image: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the intact network.
    pub width: usize,
    /// Blocks of the intact network.
    pub depth: usize,
    /// Hidden width of the MLP over the width.
    pub mlp_ratio: usize,
    /// Initial LayerScale.
    pub layerscale: f32,
    /// Share of samples a residual branch leaves out in training.
    pub drop_path_rate: f64,
    /// Whether the rate is the same in all blocks, instead of growing linearly to it.
    pub drop_path_uniform: bool,
}

/// Crops of one size that go through the network together.
pub struct CropBatch {
    /// `[n, 3, side, side]`.
    pub images: Tensor,
    /// `u32 [n · patches]`, nonzero where a patch is masked.
    pub mask: Option<Tensor>,
}

/// The rows a residual branch runs on.
enum BranchRows {
    /// All rows, each sample with its factor.
    Scaled(RowSubset),
    /// A subset of the samples; the groups say how many of each size.
    Subset(RowSubset, Vec<SequenceGroup>),
}

/// Which samples every residual branch of a forward pass leaves out, drawn before the pass.
#[derive(Default)]
pub struct DropPath {
    /// For every block that runs, the rows of its attention and of its MLP branch.
    branches: Vec<[Option<BranchRows>; 2]>,
}

/// Packed output tokens before the final norm, and where each crop's lie.
pub struct PackedTokens {
    /// `[Σ n·(1 + patches), width]`.
    pub packed: Var,
    groups: Vec<SequenceGroup>,
}

impl PackedTokens {
    /// Row of the cls token of the `crop`-th crop of the `group`-th batch.
    pub fn cls_row(&self, group: usize, crop: usize) -> u32 {
        let before: usize = self.groups[..group].iter().map(|g| g.count * g.length).sum();
        (before + crop * self.groups[group].length) as u32
    }

    /// Row of a patch token.
    pub fn patch_row(&self, group: usize, crop: usize, patch: usize) -> u32 {
        self.cls_row(group, crop) + 1 + patch as u32
    }

    /// Patches of a crop of the `group`-th batch.
    pub fn patches(&self, group: usize) -> usize {
        self.groups[group].length - 1
    }
}

/// The elastic ViT: names, shapes and the forward pass of any of its sub-networks.
pub struct Vit {
    sizes: VitSizes,
    /// Position resampling matrices by the grid side they lead to.
    resampling: RefCell<HashMap<usize, Tensor>>,
}

impl VitSizes {
    /// The sizes that a config's `student` section and its global crops ask for.
    pub fn from_config(student: &Student, global_crops_size: usize) -> Self {
        Self {
            patch: student.patch_size,
            image: global_crops_size,
            head_dim: student.head_dim,
            width: student.max_embed_dim,
            depth: student.max_depth,
            mlp_ratio: student.mlp_ratio,
            layerscale: student.layerscale as f32,
            drop_path_rate: student.drop_path_rate,
            drop_path_uniform: student.drop_path_uniform,
        }
    }

    /// Patches along a side of `pixels`.
    pub fn grid(&self, pixels: usize) -> usize {
        pixels / self.patch
    }
}

impl Vit {
    /// A ViT of these sizes.
    pub fn new(sizes: VitSizes) -> Self {
        Self { sizes, resampling: RefCell::default() }
    }

    /// Sizes of the intact network.
    pub fn sizes(&self) -> &VitSizes {
        &self.sizes
    }

    /// All parameters under their official names.
    pub fn specs(&self) -> Vec<ParameterSpec> {
        let s = &self.sizes;
        let (w, hidden, patches) = (s.width, s.width * s.mlp_ratio, s.grid(s.image).pow(2));
        let normal = Init::TruncatedNormal(0.02);
        let fan_in = 3 * s.patch * s.patch;
        // PyTorch's Conv2d default: uniform in ± 1/√fan_in for weight and bias
        let convolution = Init::Uniform(1.0 / (fan_in as f32).sqrt());
        let mut all = vec![
            ParameterSpec::new("backbone.cls_token", &[1, 1, w], Init::Normal(1e-6)),
            ParameterSpec::new("backbone.pos_embed", &[1, 1 + patches, w], normal),
            ParameterSpec::new("backbone.mask_token", &[1, w], Init::Constant(0.0)),
            ParameterSpec::new("backbone.patch_embed.proj.weight", &[w, 3, s.patch, s.patch], convolution),
            ParameterSpec::new("backbone.patch_embed.proj.bias", &[w], convolution),
        ];
        for k in 0..s.depth {
            let mut add = |part: &str, shape: &[usize], init: Init| {
                all.push(ParameterSpec::new(format!("backbone.blocks.{k}.{part}"), shape, init));
            };
            let (one, zero) = (Init::Constant(1.0), Init::Constant(0.0));
            add("norm1.norm.weight", &[w], one);
            add("norm1.norm.bias", &[w], zero);
            add("attn.qkv.linear.weight", &[3 * w, w], normal);
            add("attn.qkv.linear.bias", &[3 * w], zero);
            add("attn.proj.linear.weight", &[w, w], normal);
            add("attn.proj.linear.bias", &[w], zero);
            add("ls1.gamma", &[w], Init::Constant(s.layerscale));
            add("norm2.norm.weight", &[w], one);
            add("norm2.norm.bias", &[w], zero);
            add("mlp.fc1.linear.weight", &[hidden, w], normal);
            add("mlp.fc1.linear.bias", &[hidden], zero);
            add("mlp.fc2.linear.weight", &[w, hidden], normal);
            add("mlp.fc2.linear.bias", &[w], zero);
            add("ls2.gamma", &[w], Init::Constant(s.layerscale));
        }
        all.push(ParameterSpec::new("backbone.norm.norm.weight", &[w], Init::Constant(1.0)));
        all.push(ParameterSpec::new("backbone.norm.norm.bias", &[w], Init::Constant(0.0)));
        all
    }

    /// Draws which samples the residual branches of `network` leave out; `crops` are (count, side in pixels) of the
    /// batches to come.
    pub fn draw_drop_path(
        &self,
        device: &Device,
        network: Network,
        crops: &[(usize, usize)],
        rng: &mut impl Rng,
    ) -> Result<DropPath> {
        let s = &self.sizes;
        let groups: Vec<SequenceGroup> = crops
            .iter()
            .map(|&(count, side)| SequenceGroup { count, length: 1 + s.grid(side).pow(2) })
            .collect();
        let mut branches = Vec::new();
        for block in block_ids(s.depth, network.depth) {
            let rate = match s.drop_path_uniform {
                true => s.drop_path_rate,
                false => s.drop_path_rate * block as f64 / (s.depth.max(2) - 1) as f64,
            };
            let mut draw = || match rate {
                0.0 => Ok(None),
                r if r <= SUBSET_RATE => scaled_rows(device, &groups, r, rng).map(Some),
                r => subset_rows(device, &groups, r, rng).map(Some),
            };
            branches.push([draw()?, draw()?]);
        }
        Ok(DropPath { branches })
    }

    /// Runs `network` over batches of crops; the tokens come out before the final norm.
    pub fn forward(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        network: Network,
        crops: &[CropBatch],
        drop_path: Option<&DropPath>,
    ) -> Result<PackedTokens> {
        let (mut x, groups) = self.start(tape, parameters, network, crops)?;
        for (i, block) in self.blocks(parameters, network).enumerate() {
            let rows = drop_path.and_then(|d| d.branches.get(i));
            let [attention_rows, mlp_rows] = rows.map_or([None, None], |[a, b]| [a.as_ref(), b.as_ref()]);
            x = block.attention_branch(tape, &x, &groups, attention_rows)?;
            x = block.mlp_branch(tape, &x, mlp_rows)?;
        }
        Ok(PackedTokens { packed: x, groups })
    }

    /// As [`Vit::forward`], with the tokens after each of the last `count` blocks (fewer where there are fewer), the
    /// last block's last.
    pub fn forward_last_blocks(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        network: Network,
        crops: &[CropBatch],
        count: usize,
    ) -> Result<Vec<PackedTokens>> {
        let (mut x, groups) = self.start(tape, parameters, network, crops)?;
        let mut kept = Vec::new();
        for (i, block) in self.blocks(parameters, network).enumerate() {
            x = block.attention_branch(tape, &x, &groups, None)?;
            x = block.mlp_branch(tape, &x, None)?;
            if i + count >= network.depth {
                kept.push(PackedTokens { packed: x.clone(), groups: groups.clone() });
            }
        }
        Ok(kept)
    }

    /// Queries, keys and values `[tokens, 3 · width]` of the last block's attention, of one batch of crops.
    pub fn last_qkv(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        network: Network,
        crops: CropBatch,
    ) -> Result<Tensor> {
        let (mut x, groups) = self.start(tape, parameters, network, &[crops])?;
        let mut blocks: Vec<Block> = self.blocks(parameters, network).collect();
        let last = blocks.pop().ok_or_else(|| Error::shape("vit", "a network without blocks"))?;
        for block in blocks {
            x = block.attention_branch(tape, &x, &groups, None)?;
            x = block.mlp_branch(tape, &x, None)?;
        }
        let y = last.norm(tape, &x, "norm1", None)?;
        Ok(linear(tape, &y, &last.qkv()?)?.value().clone())
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
    ) -> impl Iterator<Item = Block<'a>> + 'a {
        block_ids(self.sizes.depth, network.depth).into_iter().map(move |block| Block {
            vit: self,
            parameters,
            prefix: format!("backbone.blocks.{block}."),
            width: network.width,
        })
    }

    /// Normed features `[rows, width]` of the tokens in `rows` (`u32`, each at most once).
    pub fn features(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        tokens: &PackedTokens,
        rows: &Tensor,
    ) -> Result<Var> {
        let width = tokens.packed.value().dim(1);
        let part = |name: &str| vector(parameters, &format!("backbone.norm.norm.{name}"), width);
        layer_norm(tape, &tokens.packed, &part("weight")?, &part("bias")?, NORM_EPS, Some(rows))
    }

    fn embed(
        &self,
        tape: &Tape,
        parameters: &Parameters,
        width: usize,
        crops: &[CropBatch],
    ) -> Result<(Var, Vec<SequenceGroup>)> {
        let s = &self.sizes;
        let fan_in = 3 * s.patch * s.patch;
        let weight = parameters.var("backbone.patch_embed.proj.weight")?;
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
            let &[count, _, side, across] = batch.images.shape() else {
                return Err(Error::shape(
                    "vit",
                    format!("crops [n, 3, side, side] expected, got {:?}", batch.images),
                ));
            };
            if side != across || !side.is_multiple_of(s.patch) {
                return Err(Error::shape(
                    "vit",
                    format!("crops of {side}x{across} in patches of {}", s.patch),
                ));
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
            sequences.push(SequenceGroup { count, length: 1 + grid * grid });
        }
        let shared = TokenParameters {
            cls: vector(parameters, "backbone.cls_token", width)?,
            cls_position: rows(0..1)?.view(|p| p.reshape(&[width]))?,
            mask_token: vector(parameters, "backbone.mask_token", width)?,
        };
        Ok((tokens(tape, &groups, &shared)?, sequences))
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

/// The first `width` entries of a vector parameter of any official shape.
fn vector(parameters: &Parameters, name: &str, width: usize) -> Result<Var> {
    parameters.var(name)?.view(|v| v.reshape(&[v.elements()])?.slice(0, 0..width))
}

/// One block's parameters, sliced to a width.
struct Block<'a> {
    vit: &'a Vit,
    parameters: &'a Parameters,
    prefix: String,
    width: usize,
}

impl Block<'_> {
    fn vector(&self, part: &str) -> Result<Var> {
        vector(self.parameters, &format!("{}{part}", self.prefix), self.width)
    }

    fn norm(&self, tape: &Tape, x: &Var, part: &str, rows: Option<&BranchRows>) -> Result<Var> {
        let index = match rows {
            Some(BranchRows::Subset(subset, _)) => Some(&subset.rows),
            _ => None,
        };
        let (weight, bias) =
            (self.vector(&format!("{part}.norm.weight"))?, self.vector(&format!("{part}.norm.bias"))?);
        layer_norm(tape, x, &weight, &bias, NORM_EPS, index)
    }

    /// An elastic linear layer: its first `out` rows and `input` columns, α = largest input / input.
    fn linear(&self, part: &str, out: usize, input: usize) -> Result<LinearWeights> {
        let name = |what: &str| format!("{}{part}.linear.{what}", self.prefix);
        let weight = self.parameters.var(&name("weight"))?;
        let alpha = weight.value().dim(1) as f32 / input as f32;
        Ok(LinearWeights {
            weight: weight.view(|w| w.slice(0, 0..out)?.slice(1, 0..input))?,
            bias: Some(vector(self.parameters, &name("bias"), out)?),
            alpha,
        })
    }

    /// The q, k and v parts of the qkv layer, the first rows of each.
    fn qkv(&self) -> Result<LinearWeights> {
        let (most, w) = (self.vit.sizes.width, self.width);
        let name = |what: &str| format!("{}attn.qkv.linear.{what}", self.prefix);
        let weight = self.parameters.var(&name("weight"))?;
        let bias = self.parameters.var(&name("bias"))?;
        Ok(LinearWeights {
            weight: weight.view(|t| t.reshape(&[3, most, most])?.slice(1, 0..w)?.slice(2, 0..w))?,
            bias: Some(bias.view(|t| t.reshape(&[3, most])?.slice(1, 0..w))?),
            alpha: most as f32 / w as f32,
        })
    }

    fn attention_branch(
        &self,
        tape: &Tape,
        x: &Var,
        groups: &[SequenceGroup],
        rows: Option<&BranchRows>,
    ) -> Result<Var> {
        let head_dim = self.vit.sizes.head_dim;
        let y = self.norm(tape, x, "norm1", rows)?;
        let qkv = linear(tape, &y, &self.qkv()?)?;
        let groups = match rows {
            Some(BranchRows::Subset(_, groups)) => groups,
            _ => groups,
        };
        let y = attention(tape, &qkv, groups, self.width / head_dim, (head_dim as f32).powf(-0.5))?;
        let y = linear(tape, &y, &self.linear("attn.proj", self.width, self.width)?)?;
        residual(tape, x, &y, &self.vector("ls1.gamma")?, row_subset(rows))
    }

    fn mlp_branch(&self, tape: &Tape, x: &Var, rows: Option<&BranchRows>) -> Result<Var> {
        let hidden = self.width * self.vit.sizes.mlp_ratio;
        let y = self.norm(tape, x, "norm2", rows)?;
        let y = mlp(
            tape,
            &y,
            &self.linear("mlp.fc1", hidden, self.width)?,
            &self.linear("mlp.fc2", self.width, hidden)?,
        )?;
        residual(tape, x, &y, &self.vector("ls2.gamma")?, row_subset(rows))
    }
}

fn row_subset(rows: Option<&BranchRows>) -> Option<&RowSubset> {
    rows.map(|r| match r {
        BranchRows::Scaled(subset) | BranchRows::Subset(subset, _) => subset,
    })
}

fn scaled_rows(
    device: &Device,
    groups: &[SequenceGroup],
    rate: f64,
    rng: &mut impl Rng,
) -> Result<BranchRows> {
    use rand::RngExt;
    let lengths: Vec<usize> = groups.iter().flat_map(|g| std::iter::repeat_n(g.length, g.count)).collect();
    let keep: Vec<bool> = lengths.iter().map(|_| rng.random::<f64>() >= rate).collect();
    Ok(BranchRows::Scaled(per_sample_scale(device, &lengths, &keep, (1.0 / (1.0 - rate)) as f32)?))
}

/// max(⌊b(1−r)⌋, 1) samples of each batch, scaled by b / subset.
fn subset_rows(
    device: &Device,
    groups: &[SequenceGroup],
    rate: f64,
    rng: &mut impl Rng,
) -> Result<BranchRows> {
    let (mut rows, mut scale, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    let mut start = 0;
    for g in groups {
        let count = ((g.count as f64 * (1.0 - rate)) as usize).max(1).min(g.count);
        for sample in sample(rng, g.count, count) {
            let first = start + sample * g.length;
            rows.extend((first..first + g.length).map(|r| r as u32));
            scale.extend(std::iter::repeat_n(g.count as f32 / count as f32, g.length));
        }
        kept.push(SequenceGroup { count, length: g.length });
        start += g.count * g.length;
    }
    Ok(BranchRows::Subset(RowSubset::new(device, start, &rows, &scale)?, kept))
}

//! A backbone together with the parameters to run it with, as evaluation, extraction and figures need it: no heads, no
//! gradients, any sub-network.

use crate::autograd::{Tape, Var};
use crate::error::Result;
use crate::models::grid::Network;
use crate::models::vit::{CropBatch, PackedTokens, Vit};
use crate::nn::parameters::Parameters;
use crate::tensor::{Device, ELEMENT_BYTES, Tensor};

/// A backbone with parameters: the teacher of a run in progress, or of a checkpoint.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    /// Where the parameters lie.
    pub device: &'a Device,
    /// The backbone.
    pub vit: &'a Vit,
    /// What it is run with.
    pub parameters: &'a Parameters,
}

impl Encoder<'_> {
    /// Normed features of images `[n, 3, side, side]` through a sub-network: cls tokens `[n, width]`, and all patch
    /// tokens `[n·patches, width]` where asked for.
    pub fn features(
        &self,
        network: Network,
        images: &Tensor,
        patches: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let tape = Tape::no_grad();
        let tokens = self.vit.forward(&tape, self.parameters, network, &[crops(images)], None)?;
        let cls = self.cls(&tape, &tokens, images.dim(0))?;
        let patches = match patches {
            true => Some(self.patches(&tape, &tokens, images.dim(0))?),
            false => None,
        };
        Ok((cls, patches))
    }

    /// Normed cls tokens `[n, width]` after each of the last `count` blocks, the last block's last, and the last
    /// block's normed patch tokens `[n·patches, width]`. The final norm is applied to every block's, as DINOv2's linear
    /// evaluation does.
    pub fn last_blocks(
        &self,
        network: Network,
        images: &Tensor,
        count: usize,
    ) -> Result<(Vec<Tensor>, Tensor)> {
        let tape = Tape::no_grad();
        let n = images.dim(0);
        let count = count.clamp(1, network.depth);
        let blocks =
            self.vit.forward_last_blocks(&tape, self.parameters, network, &[crops(images)], count)?;
        let cls = blocks.iter().map(|tokens| self.cls(&tape, tokens, n)).collect::<Result<_>>()?;
        Ok((cls, self.patches(&tape, &blocks[blocks.len() - 1], n)?))
    }

    /// Attention of the class token to every patch in the last block, `[n, heads, patches]` on the host; with what it
    /// pays to itself a head's weights sum to one.
    pub fn class_attention(&self, network: Network, images: &Tensor) -> Result<Vec<f32>> {
        let qkv = self.vit.last_qkv(&Tape::no_grad(), self.parameters, network, crops(images))?;
        let (n, width, head_dim) = (images.dim(0), network.width, self.vit.sizes().head_dim);
        let length = qkv.dim(0) / n;
        let qkv = qkv.to_vec::<f32>()?;
        let scale = (head_dim as f32).powf(-0.5);
        let mut all = Vec::with_capacity(n * (width / head_dim) * (length - 1));
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
                all.extend(weights[1..].iter().map(|w| w / total));
            }
        }
        Ok(all)
    }

    /// Images of `side` pixels that can go through a sub-network together where no tensor may be larger than what the
    /// device can bind; at least one.
    pub fn images_at_once(&self, network: Network, side: usize) -> usize {
        let s = self.vit.sizes();
        let tokens = 1 + s.grid(side).pow(2);
        // the hidden layer of the MLP, or q, k and v; or the image itself
        let widest = (tokens * network.width * s.mlp_ratio.max(3)).max(3 * side * side);
        (self.device.max_tensor_bytes() / (widest * ELEMENT_BYTES)).max(1)
    }

    fn cls(&self, tape: &Tape, tokens: &PackedTokens, n: usize) -> Result<Tensor> {
        self.rows(tape, tokens, (0..n).map(|i| tokens.cls_row(0, i)).collect())
    }

    fn patches(&self, tape: &Tape, tokens: &PackedTokens, n: usize) -> Result<Tensor> {
        let count = tokens.patches(0);
        let all = (0..n).flat_map(|i| (0..count).map(move |patch| (i, patch)));
        self.rows(tape, tokens, all.map(|(i, patch)| tokens.patch_row(0, i, patch)).collect())
    }

    fn rows(&self, tape: &Tape, tokens: &PackedTokens, rows: Vec<u32>) -> Result<Tensor> {
        let index = Tensor::from_slice(self.device, &[rows.len()], &rows)?;
        let features: Var = self.vit.features(tape, self.parameters, tokens, &index)?;
        Ok(features.value().clone())
    }
}

fn crops(images: &Tensor) -> CropBatch {
    CropBatch { images: images.clone(), mask: None }
}

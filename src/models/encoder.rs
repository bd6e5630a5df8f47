//! A backbone together with the parameters to run it with, as evaluation, extraction and figures need it: no
//! heads, no gradients, any sub-network.

use crate::autograd::Tape;
use crate::error::Result;
use crate::models::backbone::{Backbone, CropBatch, Token, Tokens};
use crate::models::grid::Network;
use crate::nn::parameters::Parameters;
use crate::tensor::{Device, ELEMENT_BYTES, Tensor};

/// A backbone with parameters: the teacher of a run in progress, or of a checkpoint.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    /// Where the parameters lie.
    pub device: &'a Device,
    /// The backbone.
    pub backbone: &'a dyn Backbone,
    /// What it is run with.
    pub parameters: &'a Parameters,
}

impl Encoder<'_> {
    /// Normed features of images `[n, channels, side, side]` through a sub-network: cls tokens `[n, width]`,
    /// and all patch tokens `[n·patches, width]` where asked for.
    pub fn features(
        &self,
        network: Network,
        images: &Tensor,
        patches: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let tape = Tape::no_grad();
        let tokens = self.backbone.forward(
            &tape,
            self.parameters,
            network,
            &[CropBatch::new(images.clone())],
            None,
        )?;
        if !patches {
            return Ok((cls(&*tokens, images)?, None));
        }
        let crops = images.dim(0);
        let all: Vec<Token> = class_tokens(images).chain(self.patch_tokens(images)).collect();
        let all = tokens.features(&tape, &all)?.value().clone();
        Ok((all.slice(0, 0..crops)?, Some(all.slice(0, crops..all.dim(0))?)))
    }

    /// Normed cls tokens `[n, width]` after each of the last `count` blocks, the last block's last, and the
    /// last block's normed patch tokens `[n·patches, width]`. The final norm is applied to every block's, as
    /// DINOv2's linear evaluation does.
    pub fn last_blocks(
        &self,
        network: Network,
        images: &Tensor,
        count: usize,
    ) -> Result<(Vec<Tensor>, Tensor)> {
        let blocks =
            self.backbone.last_blocks(self.parameters, network, &[CropBatch::new(images.clone())], count)?;
        let all = blocks.iter().map(|tokens| cls(&**tokens, images)).collect::<Result<_>>()?;
        Ok((all, self.patches(&*blocks[blocks.len() - 1], images)?))
    }

    /// See [`Backbone::class_attention`].
    pub fn class_attention(&self, network: Network, images: &Tensor) -> Result<Option<Vec<f32>>> {
        self.backbone.class_attention(self.parameters, network, images)
    }

    /// Images of `side` pixels that can go through a sub-network together where no tensor may be larger than
    /// what the device can bind; at least one.
    pub fn images_at_once(&self, network: Network, side: usize) -> usize {
        (self.device.max_tensor_bytes() / (self.backbone.widest(network, side) * ELEMENT_BYTES)).max(1)
    }

    fn patches(&self, tokens: &dyn Tokens, images: &Tensor) -> Result<Tensor> {
        let all: Vec<Token> = self.patch_tokens(images).collect();
        Ok(tokens.features(&Tape::no_grad(), &all)?.value().clone())
    }

    fn patch_tokens(&self, images: &Tensor) -> impl Iterator<Item = Token> {
        let cells = self.backbone.cells(images.dim(2)).pow(2);
        (0..images.dim(0))
            .flat_map(move |crop| (0..cells).map(move |cell| Token::Patch { group: 0, crop, cell }))
    }
}

fn class_tokens(images: &Tensor) -> impl Iterator<Item = Token> {
    (0..images.dim(0)).map(|crop| Token::Cls { group: 0, crop })
}

fn cls(tokens: &dyn Tokens, images: &Tensor) -> Result<Tensor> {
    let all: Vec<Token> = class_tokens(images).collect();
    Ok(tokens.features(&Tape::no_grad(), &all)?.value().clone())
}

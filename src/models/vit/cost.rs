//! What a sub-network of a ViT costs.

use crate::models::backbone::Cost;
use crate::models::grid::Network;
use crate::models::vit::ffn::Ffn;
use crate::models::vit::sizes::{VitSizes, vit_specs};

impl VitSizes {
    /// The sizes of the plain network that a sub-network is.
    pub fn plain(&self, network: Network) -> Self {
        let swiglu_hidden = match self.ffn {
            Ffn::Mlp => 0,
            Ffn::SwiGlu => self.hidden(network.width),
        };
        Self { width: network.width, depth: network.depth, swiglu_hidden, ..self.clone() }
    }

    /// The cost of `network` of a ViT of these self.
    pub fn cost(&self, network: Network) -> Cost {
        let all: u64 = vit_specs(&self.plain(network))
            .iter()
            .filter(|spec| !spec.name.ends_with("mask_token"))
            .map(|spec| spec.shape.iter().product::<usize>() as u64)
            .sum();
        // beside registers timm's class token has its position in it
        let parameters = all - if self.registers > 0 { network.width as u64 } else { 0 };
        let patches = self.grid(self.image).pow(2) as u64;
        let (tokens, width) = (self.tokens(self.image) as u64, network.width as u64);
        let embedding = patches * width * (self.channels * self.patch.pow(2)) as u64;
        // qkv and output projection, both layers of the MLP; then scores and weighted values
        let hidden = (self.hidden_columns(network.width) + self.hidden(network.width)) as u64;
        let layers = tokens * width * (4 * width + hidden);
        let attention = 2 * tokens * tokens * width;
        let flops = 2 * (embedding + network.depth as u64 * (layers + attention));
        Cost { parameters, flops }
    }
}

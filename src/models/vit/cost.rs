//! What a sub-network of a ViT costs.

use crate::models::backbone::Cost;
use crate::models::grid::Network;
use crate::models::vit::sizes::{VitSizes, vit_specs};

impl VitSizes {
    /// The sizes of the plain network that a sub-network is.
    pub fn plain(&self, network: Network) -> Self {
        Self { width: network.width, depth: network.depth, ..self.clone() }
    }

    /// The cost of `network` of a ViT of these self.
    pub fn cost(&self, network: Network) -> Cost {
        let parameters = vit_specs(&self.plain(network))
            .iter()
            .filter(|spec| !spec.name.ends_with("mask_token"))
            .map(|spec| spec.shape.iter().product::<usize>() as u64)
            .sum();
        let patches = self.grid(self.image).pow(2) as u64;
        let (tokens, width, ratio) = (patches + 1, network.width as u64, self.mlp_ratio as u64);
        let embedding = patches * width * (self.channels * self.patch.pow(2)) as u64;
        // qkv and output projection, both layers of the MLP; then scores and weighted values
        let layers = tokens * width * width * (4 + 2 * ratio);
        let attention = 2 * tokens * tokens * width;
        let flops = 2 * (embedding + network.depth as u64 * (layers + attention));
        Cost { parameters, flops }
    }
}

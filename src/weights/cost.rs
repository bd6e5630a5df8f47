//! What a sub-network costs once it is cut out: parameters, and operations for one image.

use crate::models::grid::Network;
use crate::models::vit::{Vit, VitSizes};
use crate::weights::names::Format;

/// Size and work of a plain network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Parameters of the backbone as timm counts them: tokens, position embedding, patch embedding, blocks with
    /// LayerScale, norms; without mask token and heads.
    pub parameters: u64,
    /// Floating-point operations of one image of the global crops' size, a multiplication and an addition being two:
    /// patch embedding, qkv, attention scores, weighted values, output projection and MLP. Biases, norms, softmax and
    /// GELU are not counted.
    pub flops: u64,
}

/// The sizes of the plain network that `network` of a ViT of these sizes is.
pub fn plain_sizes(sizes: &VitSizes, network: Network) -> VitSizes {
    VitSizes { width: network.width, depth: network.depth, ..sizes.clone() }
}

/// The cost of `network` of a ViT of these sizes.
pub fn cost(sizes: &VitSizes, network: Network) -> Cost {
    let parameters = Vit::new(plain_sizes(sizes, network))
        .specs()
        .iter()
        .filter(|spec| Format::Timm.plain_name(&spec.name).is_some())
        .map(|spec| spec.shape.iter().product::<usize>() as u64)
        .sum();
    let patches = sizes.grid(sizes.image).pow(2) as u64;
    let (tokens, width, ratio) = (patches + 1, network.width as u64, sizes.mlp_ratio as u64);
    let embedding = patches * width * 3 * sizes.patch.pow(2) as u64;
    // qkv and output projection, both layers of the MLP; then scores and weighted values
    let layers = tokens * width * width * (4 + 2 * ratio);
    let attention = 2 * tokens * tokens * width;
    let flops = 2 * (embedding + network.depth as u64 * (layers + attention));
    Cost { parameters, flops }
}

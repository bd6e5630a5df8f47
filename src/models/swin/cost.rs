//! What a sub-network of a Swin costs.

use crate::models::backbone::Cost;
use crate::models::grid::Network;
use crate::models::swin::{SwinShape, swin_specs};

impl SwinShape {
    /// The sizes of the plain network that a sub-network is, but for the patch embedding: that keeps the full width, since its
    /// norm comes before the cut.
    pub fn plain(&self, network: Network) -> Self {
        let [first, second, _, last] = self.depths;
        Self { width: network.width, depths: [first, second, network.depth, last], ..self.clone() }
    }

    /// The cost of `network` of a Swin of this shape.
    pub fn cost(&self, network: Network) -> Cost {
        let plain = self.plain(network);
        let embedding = |name: &str| name.starts_with("backbone.patch_embed.");
        let unused =
            ["mask_token", "norm0.", "norm1.norm", "norm2.norm"].map(|part| format!("backbone.{part}"));
        let count = |shape: &Self, wanted: &dyn Fn(&str) -> bool| -> u64 {
            let specs = swin_specs(shape);
            let wanted = specs.iter().filter(|s| wanted(&s.name));
            wanted.map(|s| s.shape.iter().product::<usize>() as u64).sum()
        };
        let stages = |name: &str| !embedding(name) && !unused.iter().any(|part| name.starts_with(part));
        let parameters = count(&plain, &stages) + count(self, &embedding);

        let (ratio, window) = (self.mlp_ratio as u64, self.window as u64);
        let mut side = (self.image / self.patch) as u64;
        let mut products = side * side * (3 * self.patch.pow(2) * self.width) as u64;
        for (stage, depth) in plain.depths.into_iter().enumerate() {
            let width = (plain.width << stage) as u64;
            let padded = side.next_multiple_of(window).pow(2);
            // qkv and output projection, both layers of the MLP; then scores and weighted values
            let block = side * side * width * width * (4 + 2 * ratio) + 2 * padded * window * window * width;
            products += depth as u64 * block;
            side = side.div_ceil(2);
            products += if stage < 3 { side * side * 8 * width * width } else { 0 };
        }
        Cost { parameters, flops: 2 * products }
    }
}

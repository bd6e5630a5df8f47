//! What a sub-network of a Swin costs.

use crate::models::backbone::Cost;
use crate::models::grid::Network;
use crate::models::swin::{SwinShape, swin_specs};

impl SwinShape {
    /// The cost of `network` of a Swin of this shape.
    pub fn cost(&self, network: Network) -> Cost {
        let plain = self.plain(network);
        let unused =
            ["mask_token", "norm0.", "norm1.norm", "norm2.norm"].map(|part| format!("backbone.{part}"));
        let specs = swin_specs(&plain);
        let used = specs.iter().filter(|s| !unused.iter().any(|part| s.name.starts_with(part)));
        let parameters = used.map(|s| s.shape.iter().product::<usize>() as u64).sum();

        let (ratio, window) = (self.mlp_ratio as u64, self.window as u64);
        let cells = |stage: usize| plain.side(stage).pow(2) as u64;
        let mut products = cells(0) * (plain.channels * plain.patch.pow(2) * plain.embedding) as u64;
        for (stage, depth) in plain.depths.into_iter().enumerate() {
            let width = (plain.width << stage) as u64;
            let padded = (plain.side(stage) as u64).next_multiple_of(window).pow(2);
            // qkv and output projection, both layers of the MLP; then scores and weighted values
            let block = cells(stage) * width * width * (4 + 2 * ratio) + 2 * padded * window * window * width;
            products += depth as u64 * block;
            products += if stage < 3 { cells(stage + 1) * 8 * width * width } else { 0 };
        }
        Cost { parameters, flops: 2 * products }
    }
}

//! The sub-networks of an elastic ResNet.

use crate::error::Result;
use crate::models::grid::{ElasticGrid, Network, linspace, multiplicity, sizes};

/// ResNet-50, ResNet-101 and ResNet-152.
const PAPER: [(&str, Network); 3] = [
    ("resnet50", Network::staged(64, [3, 4, 6, 3])),
    ("resnet101", Network::staged(64, [3, 4, 23, 3])),
    ("resnet152", Network::staged(64, [3, 8, 36, 3])),
];

/// What decides the grid of an elastic ResNet, under the names of the official recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct ResNetSizes {
    /// Smallest depths, in blocks a stage.
    pub min_depths: [usize; 4],
    /// Largest depths, in blocks a stage.
    pub max_depths: [usize; 4],
    /// Smallest middle width of the first stage, in channels; the largest is twice that.
    pub base_channels: usize,
    /// Groups of a group norm.
    pub num_gn_groups: usize,
    /// Step between widths, in groups.
    pub width_interval: usize,
    /// Step between depths, in blocks.
    pub depth_interval: usize,
    /// How many times more often the shallowest depths are drawn than the deepest.
    pub net_select_scale: f64,
}

/// The grid of an elastic ResNet: by width, then by total depth, ties by the depths of the stages in order.
pub fn resnet_grid(s: &ResNetSizes) -> Result<ElasticGrid> {
    let of = |stage: usize| sizes(s.min_depths[stage], s.max_depths[stage], s.depth_interval);
    let (first, second, third, fourth) = (of(0), of(1), of(2), of(3));
    let mut depths = Vec::with_capacity(first.len() * second.len() * third.len() * fourth.len());
    for &a in &first {
        for &b in &second {
            for &c in &third {
                depths.extend(fourth.iter().map(|&d| [a, b, c, d]));
            }
        }
    }
    depths.sort_by_key(|d| d.iter().sum::<usize>());
    let counts = linspace(s.net_select_scale, 1.0, depths.len());
    let mut entries = Vec::new();
    for base in sizes(s.base_channels, 2 * s.base_channels, s.num_gn_groups * s.width_interval) {
        entries.extend(
            depths.iter().zip(&counts).map(|(&depths, &n)| (Network::staged(base, depths), multiplicity(n))),
        );
    }
    Ok(ElasticGrid::new(entries, "student.min_depths")?.with_names(&PAPER))
}

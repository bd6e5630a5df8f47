//! The sub-networks of an elastic ResNet.

use crate::error::Result;
use crate::models::grid::{ElasticGrid, Network, linspace, multiplicity, sizes};
use crate::models::resnet::settings::Settings;

/// ResNet-50, ResNet-101 and ResNet-152.
const PAPER: [(&str, Network); 3] = [
    ("resnet50", Network::staged(64, [3, 4, 6, 3])),
    ("resnet101", Network::staged(64, [3, 4, 23, 3])),
    ("resnet152", Network::staged(64, [3, 8, 36, 3])),
];

/// The grid of an elastic ResNet: by width, then by total depth, ties by the depths of the stages in order.
pub fn resnet_grid(s: &Settings) -> Result<ElasticGrid> {
    let of = |stage: usize| sizes(s.min_depths[stage], s.max_depths[stage], s.elastic.depth_interval);
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
    let counts = linspace(s.elastic.net_select_scale, 1.0, depths.len());
    let mut entries = Vec::new();
    let widths = match s.middle_channels {
        0 => sizes(s.base_channels, s.widest(), s.num_gn_groups * s.elastic.width_interval),
        only => vec![only],
    };
    for base in widths {
        entries.extend(
            depths.iter().zip(&counts).map(|(&depths, &n)| (Network::staged(base, depths), multiplicity(n))),
        );
    }
    Ok(ElasticGrid::new(entries, "student.min_depths")?.with_names(&PAPER))
}

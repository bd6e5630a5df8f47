//! The sub-networks of an elastic Swin.

use crate::error::Result;
use crate::models::grid::{ElasticGrid, Network, sizes, width_by_depth};

/// Swin-T, Swin-S and Swin-B.
const PAPER: [(&str, Network); 3] =
    [("tiny", Network::new(96, 6)), ("small", Network::new(96, 18)), ("base", Network::new(128, 18))];

/// What decides the grid of an elastic Swin, under the names of the official recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct SwinSizes {
    /// Smallest width of the first stage, in channels.
    pub min_embed_dim: usize,
    /// Largest width of the first stage, in channels.
    pub max_embed_dim: usize,
    /// Smallest depth of the third stage, in blocks.
    pub min_s3_depth: usize,
    /// Depths of the intact network, in blocks.
    pub max_depths: [usize; 4],
    /// Channels of an attention head.
    pub head_dim: usize,
    /// Step between widths, in heads.
    pub width_interval: usize,
    /// Step between depths of the third stage, in blocks.
    pub depth_interval: usize,
    /// How many times more often the smallest width (or depth) is drawn than the largest.
    pub net_select_scale: f64,
}

/// The grid of an elastic Swin.
pub fn swin_grid(s: &SwinSizes) -> Result<ElasticGrid> {
    let widths = sizes(s.min_embed_dim, s.max_embed_dim, s.head_dim * s.width_interval);
    let depths = sizes(s.min_s3_depth, s.max_depths[2], s.depth_interval);
    let grid =
        ElasticGrid::new(width_by_depth(&widths, &depths, s.net_select_scale), "student.min_embed_dim")?;
    Ok(grid.with_names(&PAPER))
}

//! The sub-networks of an elastic ViT.

use crate::error::Result;
use crate::models::grid::{ElasticGrid, Network, sizes, width_by_depth};
use crate::recipes::Student;

/// ViT-S, ViT-B and ViT-L.
const PAPER: [(&str, Network); 3] =
    [("small", Network::new(384, 12)), ("base", Network::new(768, 12)), ("large", Network::new(1024, 24))];

/// The grid of an elastic ViT.
pub fn vit_grid(s: &Student) -> Result<ElasticGrid> {
    let widths = sizes(s.min_embed_dim, s.max_embed_dim, s.head_dim * s.width_interval);
    let depths = sizes(s.min_depth, s.max_depth, s.depth_interval);
    let grid =
        ElasticGrid::new(width_by_depth(&widths, &depths, s.net_select_scale), "student.min_embed_dim")?;
    Ok(grid.with_names(&PAPER))
}

//! The sub-networks of an elastic ViT.

use crate::error::Result;
use crate::models::grid::{ElasticGrid, Network, sizes, width_by_depth};
use crate::models::vit::settings::Settings;

/// ViT-S, ViT-B and ViT-L.
const PAPER: [(&str, Network); 3] =
    [("small", Network::new(384, 12)), ("base", Network::new(768, 12)), ("large", Network::new(1024, 24))];

/// The grid of an elastic ViT.
pub fn vit_grid(s: &Settings) -> Result<ElasticGrid> {
    let (e, a) = (&s.elastic, &s.attention);
    let widths = sizes(a.min_embed_dim, a.max_embed_dim, a.head_dim * e.width_interval);
    let depths = sizes(s.min_depth, s.max_depth, e.depth_interval);
    let grid =
        ElasticGrid::new(width_by_depth(&widths, &depths, e.net_select_scale), "student.min_embed_dim")?;
    Ok(grid.with_names(&PAPER))
}

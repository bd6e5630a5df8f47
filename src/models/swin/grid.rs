//! The sub-networks of an elastic Swin.

use crate::error::Result;
use crate::models::grid::{ElasticGrid, Network, sizes, width_by_depth};
use crate::models::swin::settings::Settings;

/// Swin-T, Swin-S and Swin-B.
const PAPER: [(&str, Network); 3] =
    [("tiny", Network::new(96, 6)), ("small", Network::new(96, 18)), ("base", Network::new(128, 18))];

/// The grid of an elastic Swin.
pub fn swin_grid(s: &Settings) -> Result<ElasticGrid> {
    let (e, a) = (&s.elastic, &s.attention);
    let widths = sizes(a.min_embed_dim, a.max_embed_dim, a.head_dim * e.width_interval);
    let depths = sizes(s.min_s3_depth, s.max_depths[2], e.depth_interval);
    let grid =
        ElasticGrid::new(width_by_depth(&widths, &depths, e.net_select_scale), "student.min_embed_dim")?;
    Ok(grid.with_names(&PAPER))
}

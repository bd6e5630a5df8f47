//! The sub-networks of an elastic ViT.

use crate::config::Student;
use crate::error::Result;
use crate::models::grid::{ElasticGrid, sizes, width_by_depth};

/// The grid of an elastic ViT.
pub fn vit_grid(s: &Student) -> Result<ElasticGrid> {
    let widths = sizes(s.min_embed_dim, s.max_embed_dim, s.head_dim * s.width_interval);
    let depths = sizes(s.min_depth, s.max_depth, s.depth_interval);
    ElasticGrid::new(width_by_depth(&widths, &depths, s.net_select_scale), "student.min_embed_dim")
}

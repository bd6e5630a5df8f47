//! Sizes of a Swin that fit each other, each check one line.

use crate::error::Result;
use crate::recipes::Config;
use crate::recipes::validate::{demand, whole};

/// Checks the sizes that a config asks for.
pub fn validate(config: &Config) -> Result<()> {
    let s = &config.student;
    whole("student.head_dim", s.head_dim, 1, 128, 16)?;
    whole("student.window_size", s.window_size, 1, 16, 7)?;
    whole("student.max_embed_dim", s.max_embed_dim, 1, 4096, 128)?;
    whole("student.min_embed_dim", s.min_embed_dim, 1, s.max_embed_dim, s.max_embed_dim)?;
    whole("student.mlp_ratio", s.mlp_ratio, 1, 64, 4)?;
    for (key, width) in
        [("student.min_embed_dim", s.min_embed_dim), ("student.max_embed_dim", s.max_embed_dim)]
    {
        demand(width.is_multiple_of(s.head_dim), key, || {
            let example = width.next_multiple_of(s.head_dim);
            format!("is {width}, not a multiple of student.head_dim = {}, for example {example}", s.head_dim)
        })?;
    }
    let (step, span) = (s.head_dim * s.width_interval, s.max_embed_dim - s.min_embed_dim);
    demand(span.is_multiple_of(step), "student.max_embed_dim", || {
        format!(
            "is {}; from student.min_embed_dim = {} steps of head_dim · width_interval = {step} do not reach it, for \
             example {}",
            s.max_embed_dim,
            s.min_embed_dim,
            s.min_embed_dim + span.next_multiple_of(step)
        )
    })?;
    demand(s.max_depths.iter().all(|d| (1..=1024).contains(d)), "student.max_depths", || {
        format!("is {:?}; every stage needs 1 to 1024 blocks, for example [2, 2, 18, 2]", s.max_depths)
    })?;
    whole("student.min_s3_depth", s.min_s3_depth, 1, s.max_depths[2], s.max_depths[2])?;
    let span = s.max_depths[2] - s.min_s3_depth;
    demand(span.is_multiple_of(s.depth_interval), "student.min_s3_depth", || {
        format!(
            "is {}; steps of depth_interval = {} do not lead from it to the third of student.max_depths = {:?}, for \
             example {}",
            s.min_s3_depth,
            s.depth_interval,
            s.max_depths,
            s.max_depths[2] - span / s.depth_interval * s.depth_interval
        )
    })?;
    demand([1, 2, 4, 8].contains(&s.ibot_scale_factor), "student.ibot_scale_factor", || {
        format!(
            "is {}; masks of a Swin have 1, 2, 4 or 8 cells along a cell of its last map",
            s.ibot_scale_factor
        )
    })?;
    demand(s.qkv_bias && s.proj_bias && s.ffn_bias, "student.qkv_bias", || {
        "and proj_bias and ffn_bias must be true: layers without bias cannot be trained yet".into()
    })?;
    // the last map has an eighth of the patches along a side, and masks stand on it
    let (size, unit) = (config.crops.global_crops_size, 8 * s.patch_size);
    demand(size > 0 && size.is_multiple_of(unit), "crops.global_crops_size", || {
        format!(
            "is {size}; a Swin halves its map three times, so it must be a multiple of 8 · student.patch_size = {unit}, for \
             example {} (in windows of {} cells without padding: {})",
            size.next_multiple_of(unit).max(unit),
            s.window_size,
            unit * s.window_size
        )
    })
}

//! Sizes of a ViT that fit each other, each check one line.

use crate::error::Result;
use crate::recipes::Config;
use crate::recipes::validate::{demand, positive, whole};

/// Checks the sizes that a config asks for.
pub fn validate(config: &Config) -> Result<()> {
    let s = &config.student;
    whole("student.head_dim", s.head_dim, 1, 256, 64)?;
    whole("student.max_embed_dim", s.max_embed_dim, 1, 16384, 1024)?;
    whole("student.max_depth", s.max_depth, 1, 1024, 24)?;
    whole("student.min_embed_dim", s.min_embed_dim, 1, s.max_embed_dim, s.max_embed_dim)?;
    whole("student.min_depth", s.min_depth, 1, s.max_depth, s.max_depth)?;
    whole("student.mlp_ratio", s.mlp_ratio, 1, 64, 4)?;
    for (key, width) in
        [("student.min_embed_dim", s.min_embed_dim), ("student.max_embed_dim", s.max_embed_dim)]
    {
        demand(width.is_multiple_of(s.head_dim), key, || {
            let example = width.next_multiple_of(s.head_dim);
            format!("is {width}, not a multiple of student.head_dim = {}, for example {example}", s.head_dim)
        })?;
    }
    let step = s.head_dim * s.width_interval;
    let span = s.max_embed_dim - s.min_embed_dim;
    demand(span.is_multiple_of(step), "student.max_embed_dim", || {
        format!(
            "is {}; from student.min_embed_dim = {} steps of head_dim · width_interval = {step} do not reach \
             it, for example {}",
            s.max_embed_dim,
            s.min_embed_dim,
            s.min_embed_dim + span.next_multiple_of(step)
        )
    })?;
    let span = s.max_depth - s.min_depth;
    demand(span.is_multiple_of(s.depth_interval), "student.max_depth", || {
        format!(
            "is {}; from student.min_depth = {} steps of depth_interval = {} do not reach it, for example {}",
            s.max_depth,
            s.min_depth,
            s.depth_interval,
            s.min_depth + span.next_multiple_of(s.depth_interval)
        )
    })?;
    positive("student.layerscale", s.layerscale, 1e-5)?;
    for (key, bias) in [
        ("student.qkv_bias", s.qkv_bias),
        ("student.proj_bias", s.proj_bias),
        ("student.ffn_bias", s.ffn_bias),
    ] {
        demand(bias, key, || {
            "is false, and layers without bias cannot be trained yet; it must be true".into()
        })?;
    }
    Ok(())
}

//! The settings of a ResNet: each check is one line that names the key and a value that works.

use super::sizes::STAGES;
use crate::error::Result;
use crate::recipes::Config;
use crate::recipes::validate::{demand, whole};

/// Checks the sizes that a config asks for.
pub fn validate(config: &Config) -> Result<()> {
    let s = &config.student;
    let groups = s.num_gn_groups;
    whole("student.num_gn_groups", groups, 1, 1024, 32)?;
    whole("student.base_channels", s.base_channels, 1, 4096, 64)?;
    whole("student.stem_channels", s.stem_channels, 1, 4096, 64)?;
    for (key, channels) in
        [("student.base_channels", s.base_channels), ("student.stem_channels", s.stem_channels)]
    {
        demand(channels.is_multiple_of(groups), key, || {
            let example = channels.next_multiple_of(groups);
            format!(
                "is {channels}, not a multiple of student.num_gn_groups = {groups}, for example {example}"
            )
        })?;
    }
    let step = groups * s.width_interval;
    demand(s.base_channels.is_multiple_of(step), "student.width_interval", || {
        format!(
            "is {}; from student.base_channels = {} steps of num_gn_groups · width_interval = {step} do not reach \
             twice that, for example 1",
            s.width_interval, s.base_channels
        )
    })?;
    for stage in 0..STAGES {
        let (low, high) = (s.min_depths[stage], s.max_depths[stage]);
        demand((1..=512).contains(&high), "student.max_depths", || {
            format!("is {:?}; every stage has 1 to 512 blocks, for example [3, 8, 36, 3]", s.max_depths)
        })?;
        demand((1..=high).contains(&low), "student.min_depths", || {
            format!(
                "is {:?}; every stage has 1 block or more and no more than student.max_depths = {:?}, for example {:?}",
                s.min_depths, s.max_depths, s.max_depths
            )
        })?;
        demand((high - low).is_multiple_of(s.depth_interval), "student.depth_interval", || {
            format!(
                "is {}; from student.min_depths = {:?} its steps do not reach student.max_depths = {:?}, for example 1",
                s.depth_interval, s.min_depths, s.max_depths
            )
        })?;
    }
    demand(s.patch_size == 4, "student.patch_size", || {
        format!(
            "is {}; the first convolution and the max-pooling of a ResNet leave a map of 1/4: it must be 4",
            s.patch_size
        )
    })?;
    let reduction: usize = s.strides.iter().product();
    demand(s.strides.iter().all(|n| (1..=2).contains(n)) && reduction == 8, "student.strides", || {
        format!("is {:?}; each is 1 or 2 and their product is 8, for example [1, 2, 2, 2]", s.strides)
    })?;
    demand([1, 2, 4, 8].contains(&s.ibot_scale_factor), "student.ibot_scale_factor", || {
        format!("is {}; it must be 1, 2, 4 or 8, for example 2", s.ibot_scale_factor)
    })?;
    let size = config.crops.global_crops_size;
    demand(size > 0 && size.is_multiple_of(32), "crops.global_crops_size", || {
        format!(
            "is {size}; a ResNet's last map has a pixel for every 32: take a multiple of 32, for example {}",
            size.max(1).next_multiple_of(32)
        )
    })
}

//! The settings of a ResNet.

use crate::checks::{Problems, settings};
use crate::models::grid::Network;
use crate::models::settings::Elastic;

/// Stages of a ResNet.
pub const STAGES: usize = 4;

settings! {
    /// Section `student` of an elastic ResNet.
    pub struct Settings: elastic: Elastic {
        /// Channels after the first convolution.
        pub stem_channels: usize = 64,
        /// Middle channels of the first stage of the narrowest sub-network; the widest has twice as many.
        pub base_channels: usize = 64,
        /// Middle channels of the first stage where all networks have the same; 0 has every width from `base_channels` to
        /// twice that.
        pub middle_channels: usize = 0,
        /// Groups of every group norm.
        pub num_gn_groups: usize = 32,
        /// Blocks of each stage of the shallowest sub-network.
        pub min_depths: [usize; STAGES] = [3, 4, 6, 3],
        // the Swin's: a key has one default, whatever the backbone
        /// Blocks of each stage of the intact network.
        pub max_depths: [usize; STAGES] = [2, 2, 18, 2],
        /// Stride of the first block of each stage.
        pub strides: [usize; STAGES] = [1, 2, 2, 2],
        /// How many patch tokens (and mask cells) stand along each cell of the last map.
        pub ibot_scale_factor: usize = 2,
    }
}

impl Settings {
    /// Middle channels of the first stage of the widest network.
    pub fn widest(&self) -> usize {
        if self.middle_channels == 0 { 2 * self.base_channels } else { self.middle_channels }
    }

    /// Settings of which a network is the only one.
    pub fn only(mut self, network: Network) -> Self {
        self.middle_channels = network.width;
        (self.min_depths, self.max_depths) = (network.stages, network.stages);
        self
    }

    /// Checks every range and relation, for global crops of `image` pixels a side.
    pub fn check(&self, image: usize, problems: &mut Problems) {
        let steps = self.elastic.check(problems);
        let patch = self.elastic.patch_size;
        problems.demand(!steps || patch == 4, "student.patch_size", || {
            format!(
                "is {patch}; the first convolution and the max-pooling of a ResNet leave a map of 1/4: it must be 4"
            )
        });
        self.check_channels(steps, problems);
        if steps {
            self.check_depths(problems);
        }
        let reduction: usize = self.strides.iter().product();
        let halving = self.strides.iter().all(|n| (1..=2).contains(n)) && reduction == 8;
        problems.demand(halving, "student.strides", || {
            format!("is {:?}; each is 1 or 2 and their product is 8, for example [1, 2, 2, 2]", self.strides)
        });
        problems.demand([1, 2, 4, 8].contains(&self.ibot_scale_factor), "student.ibot_scale_factor", || {
            format!("is {}; it must be 1, 2, 4 or 8, for example 2", self.ibot_scale_factor)
        });
        problems.demand(image > 0 && image.is_multiple_of(32), "crops.global_crops_size", || {
            format!(
                "is {image}; a ResNet's last map has a pixel for every 32: take a multiple of 32, for example {}",
                image.max(1).next_multiple_of(32)
            )
        });
    }

    fn check_channels(&self, steps: bool, problems: &mut Problems) {
        let groups = self.num_gn_groups;
        let mut right = problems.within("student.num_gn_groups", groups, 1..=1024, 32);
        for (key, channels) in
            [("student.base_channels", self.base_channels), ("student.stem_channels", self.stem_channels)]
                .into_iter()
                .chain(
                    (self.middle_channels > 0).then_some(("student.middle_channels", self.middle_channels)),
                )
        {
            right = problems.within(key, channels, 1..=4096, 64)
                && right
                && problems.demand(channels.is_multiple_of(groups), key, || {
                    let example = channels.next_multiple_of(groups);
                    format!(
                        "is {channels}, not a multiple of student.num_gn_groups = {groups}, for example {example}"
                    )
                });
        }
        if !steps || !right {
            return;
        }
        let (base, interval) = (self.base_channels, self.elastic.width_interval);
        let step = groups * interval;
        problems.demand(base.is_multiple_of(step), "student.width_interval", || {
            format!(
                "is {interval}; from student.base_channels = {base} steps of num_gn_groups · width_interval = {step} do \
                 not reach twice that, for example 1"
            )
        });
    }

    fn check_depths(&self, problems: &mut Problems) {
        let (min, max, step) = (self.min_depths, self.max_depths, self.elastic.depth_interval);
        let stages = || min.into_iter().zip(max);
        let right =
            problems.demand(max.iter().all(|high| (1..=512).contains(high)), "student.max_depths", || {
                format!("is {max:?}; every stage has 1 to 512 blocks, for example [3, 8, 36, 3]")
            }) && problems.demand(
                stages().all(|(low, high)| (1..=high).contains(&low)),
                "student.min_depths",
                || {
                    format!(
                        "is {min:?}; every stage has 1 block or more and no more than student.max_depths = {max:?}, \
                         for example {max:?}"
                    )
                },
            );
        let reached = !right || stages().all(|(low, high)| (high - low).is_multiple_of(step));
        problems.demand(reached, "student.depth_interval", || {
            format!(
                "is {step}; from student.min_depths = {min:?} its steps do not reach student.max_depths = {max:?}, for \
                 example 1"
            )
        });
    }
}

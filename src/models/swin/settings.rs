//! The settings of a Swin.

use crate::checks::{Problems, settings};
use crate::models::grid::Network;
use crate::models::settings::{Attention, Elastic, ordered};

settings! {
    /// Section `student` of an elastic Swin.
    pub struct Settings: elastic: Elastic, attention: Attention {
        /// Blocks of the third stage of the shallowest sub-network.
        pub min_s3_depth: usize = 6,
        /// Blocks of each stage of the intact network.
        pub max_depths: [usize; 4] = [2, 2, 18, 2],
        /// Side of an attention window, in tokens.
        pub window_size: usize = 7,
        /// How many patch tokens (and mask cells) stand along each cell of the last map.
        pub ibot_scale_factor: usize = 2,
    }
}

impl Settings {
    /// Settings of which a network is the only one.
    pub fn only(mut self, network: Network) -> Self {
        (self.attention.min_embed_dim, self.attention.max_embed_dim) = (network.width, network.width);
        (self.min_s3_depth, self.max_depths[2]) = (network.depth, network.depth);
        self
    }

    /// Checks every range and relation, for global crops of `image` pixels a side.
    pub fn check(&self, image: usize, problems: &mut Problems) {
        let steps = self.elastic.check(problems);
        if steps {
            self.attention.check(&self.elastic, 4096, problems);
        }
        problems.within("student.window_size", self.window_size, 1..=16, 7);
        problems.demand([1, 2, 4, 8].contains(&self.ibot_scale_factor), "student.ibot_scale_factor", || {
            format!(
                "is {}; masks of a Swin have 1, 2, 4 or 8 cells along a cell of its last map, for example 2",
                self.ibot_scale_factor
            )
        });
        let depths = self.max_depths;
        let deep =
            problems.demand(depths.iter().all(|d| (1..=1024).contains(d)), "student.max_depths", || {
                format!("is {depths:?}; every stage needs 1 to 1024 blocks, for example [2, 2, 18, 2]")
            });
        let (low, high, step) = (self.min_s3_depth, depths[2], self.elastic.depth_interval);
        let third = ("the third of student.max_depths", high);
        if deep && ordered(problems, ("student.min_s3_depth", low), third) && steps {
            let span = high - low;
            problems.demand(span.is_multiple_of(step), "student.min_s3_depth", || {
                format!(
                    "is {low}; steps of depth_interval = {step} do not lead from it to the third of \
                     student.max_depths = {depths:?}, for example {}",
                    high - span / step * step
                )
            });
        }
        if !steps {
            return;
        }
        // the last map has an eighth of the patches along a side, and masks stand on it
        let unit = 8 * self.elastic.patch_size;
        problems.demand(image > 0 && image.is_multiple_of(unit), "crops.global_crops_size", || {
            format!(
                "is {image}; a Swin halves its map three times, so it must be a multiple of 8 · student.patch_size = \
                 {unit}, for example {} (in windows of {} cells without padding: {})",
                image.next_multiple_of(unit).max(unit),
                self.window_size,
                unit * self.window_size
            )
        });
    }
}

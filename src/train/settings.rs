//! The settings of the loop itself: its length, checkpoints and reports.

use crate::checks::{Problems, settings};
use crate::optim::settings::Length;
use crate::train::plan::RunPlan;

settings! {
    /// Of section `train`: what the loop does for any task.
    pub struct Train {
        /// Batches of a step: their gradients are added up before the update, as if they were one batch,
        /// except that Sinkhorn-Knopp and KoLeo see one batch at a time. The learning rate follows the images
        /// of all of them.
        pub accumulation_steps: usize = 1,
        /// Steps of an epoch.
        pub epoch_length as "OFFICIAL_EPOCH_LENGTH": usize = 800,
        /// Steps of the whole run; 0 is `optim.epochs` epochs. Another number runs the same recipe in that
        /// many steps: everything that is counted in epochs shrinks or grows in proportion.
        pub total_steps: usize = 0,
        /// Start of every random sequence.
        pub seed: u64 = 0,
        /// Epochs between checkpoints.
        pub saveckp_freq: usize = 20,
        /// Minutes after which a checkpoint is written in any case; 0 for epochs alone.
        pub saveckp_minutes: usize = 30,
        /// Newest checkpoints kept; older ones are removed. 0 keeps all.
        pub keep_checkpoints: usize = 3,
        /// Every so many-th checkpoint is kept for good; 0 for none.
        pub keep_every: usize = 0,
        /// Steps in a row with a loss or gradients that are not finite after which the run stops, with a
        /// checkpoint of the last good state; 0 goes on whatever happens. Such a step changes nothing.
        pub halt_after_skips: usize = 100,
        /// Steps between reports.
        pub log_every: usize = 10,
        /// Seconds that a rank waits for the others, of a run on several devices or machines, before it takes them
        /// for hung and ends all; 0 waits for ever. Longer than the slowest checkpoint and evaluation take.
        pub rank_timeout: usize = 600,
    }
}

impl Train {
    /// Checks every range.
    pub fn check(&self, problems: &mut Problems) {
        problems.within("train.accumulation_steps", self.accumulation_steps, 1..=1 << 16, 1);
        problems.within("train.OFFICIAL_EPOCH_LENGTH", self.epoch_length, 1..=100_000_000, 800);
        problems.within("train.total_steps", self.total_steps, 0..=1_000_000_000_000, 0);
        problems.demand(self.seed <= i64::MAX as u64, "train.seed", || {
            format!("is {}; it must be 0 to 2^63 - 1", self.seed)
        });
        problems.within("train.saveckp_freq", self.saveckp_freq, 1..=1_000_000, 20);
        problems.within("train.saveckp_minutes", self.saveckp_minutes, 0..=1 << 20, 30);
        problems.within("train.log_every", self.log_every, 1..=1_000_000, 10);
        problems.within("train.rank_timeout", self.rank_timeout, 0..=1_000_000, 600);
    }

    /// The length of a run of so many epochs, or of `total_steps` in their place.
    pub fn length(&self, epochs: usize) -> Length {
        match self.total_steps {
            0 => Length::of_epochs(epochs, self.epoch_length),
            steps => Length { epochs, steps },
        }
    }

    /// How long a run of this length is, and what is done when; it is evaluated every `evaluate_every` steps.
    pub fn plan(&self, length: &Length, evaluate_every: usize) -> RunPlan {
        let save_every = self.checkpoint_period(length);
        RunPlan {
            steps: length.steps,
            accumulation: self.accumulation_steps,
            log_every: self.log_every,
            evaluate_every,
            save_every,
            save_minutes: self.saveckp_minutes,
            keep: self.keep_checkpoints,
            keep_every: self.keep_every * save_every,
            halt_after_skips: self.halt_after_skips,
            seed: self.seed,
        }
    }

    /// Steps between checkpoints.
    pub fn checkpoint_period(&self, length: &Length) -> usize {
        length.steps_of_epochs(self.saveckp_freq).max(1)
    }
}

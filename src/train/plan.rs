//! How long a run is, and what is done when.

/// The settings of a run that its [`super::task::Task`] does not see.
#[derive(Clone, Debug, PartialEq)]
pub struct RunPlan {
    /// Steps of the whole run.
    pub steps: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// Steps between reports.
    pub log_every: usize,
    /// Steps between evaluations; 0 evaluates before the first step and after the last.
    pub evaluate_every: usize,
    /// Steps between checkpoints; 0 writes the last alone.
    pub save_every: usize,
    /// Minutes after which a checkpoint is written in any case; 0 for none.
    pub save_minutes: usize,
    /// Newest checkpoints kept; 0 keeps all.
    pub keep: usize,
    /// Checkpoints of a multiple of so many steps are kept for good; 0 for none.
    pub keep_every: usize,
    /// Skipped steps in a row after which the run ends; 0 goes on whatever happens.
    pub halt_after_skips: usize,
    /// The seed, as checkpoints note it.
    pub seed: u64,
}

impl Default for RunPlan {
    fn default() -> Self {
        Self {
            steps: 100,
            accumulation: 1,
            log_every: 10,
            evaluate_every: 0,
            save_every: 0,
            save_minutes: 30,
            keep: 3,
            keep_every: 0,
            halt_after_skips: 100,
            seed: 0,
        }
    }
}

impl RunPlan {
    /// Whether a step (from 0) is reported.
    pub fn reports(&self, step: usize) -> bool {
        step.is_multiple_of(self.log_every.max(1)) || step + 1 == self.steps
    }

    /// Whether the task is evaluated after `done` steps, which are not the last.
    pub fn evaluates(&self, done: usize) -> bool {
        self.evaluate_every > 0 && done.is_multiple_of(self.evaluate_every) && done < self.steps
    }

    /// Whether a checkpoint is written after `done` steps, which are not the last.
    pub fn saves(&self, done: usize) -> bool {
        self.save_every > 0 && done.is_multiple_of(self.save_every) && done < self.steps
    }
}

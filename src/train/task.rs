//! What is trained, as the trainer sees it.
//!
//! A task owns its model, optimiser and data; the [`super::trainer::Trainer`] owns steps, accumulation,
//! skipping, reports, checkpoints, stopping and resuming. Whatever is random must follow from a seed and the
//! numbers of step and micro-batch, since a checkpoint holds tensors and no generator.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::error::Result;
use crate::optim::adamw::StepSettings;
use crate::share::{Place, Share};
use crate::stop::Stop;
use crate::tensor::{Device, Tensor};
use crate::train::reports::Reports;
use crate::train::run_folder::RunFolder;
use crate::train::step::{MicroBatch, Trained};

/// Something that can be trained.
pub trait Task {
    /// What the host knows of a step before it runs: the values of schedules, what was drawn for it.
    type Step;
    /// What is kept of a micro-batch until the numbers of its step are looked at: copies of them that are on their
    /// way to the host ([`crate::tensor::PendingRead`]).
    type Record;

    /// Where the task runs.
    fn device(&self) -> &Device;

    /// All settings as TOML: `config.toml` of the run's folder and of its checkpoints.
    fn config(&self) -> Result<String>;

    /// Samples of the data set.
    fn samples(&self) -> usize;

    /// Samples of a step, all its micro-batches on all ranks together.
    fn samples_per_step(&self) -> usize;

    /// Which of how many ranks this is.
    fn share(&self) -> Share {
        Share::ALL
    }

    /// Where in the samples the micro-batch after so many begins: a checkpoint holds it, and [`Started::place`] hands
    /// it back, so that a run goes on there with batches of another size or on another number of ranks. `None` where
    /// the number of micro-batches is all that a task goes by.
    fn place(&self, _batches: u64) -> Option<Place> {
        None
    }

    /// What is trained: parameters with their gradients, a teacher that follows them, the optimiser.
    fn trained(&mut self) -> Trained<'_>;

    /// Tensors beside those of [`Task::trained`] that the run goes on from, by name.
    fn tensors(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    /// Begins a run or goes on with one, after its checkpoint was loaded; tells what there is to know of the
    /// task.
    fn start(&mut self, _start: &Started, _reports: &mut Reports) -> Result<()> {
        Ok(())
    }

    /// A step (from 0) begins.
    fn step(&mut self, step: usize) -> Result<Self::Step>;

    /// Learning rate, weight decay and moving average of a step.
    fn settings(&self, step: &Self::Step) -> StepSettings;

    /// The next micro-batch, forward and backward: `batch.share` times its gradients are added to the
    /// gradient buffers. Returns its loss (one element, whole) and what its numbers come from. Nothing is waited
    /// for. Where `due` is false the record will not be looked at.
    ///
    /// While it waits for samples it looks at [`Started::stop`], and may return its error before it has done
    /// anything else; then the step is left out.
    fn forward_backward(
        &mut self,
        step: &Self::Step,
        batch: MicroBatch,
        due: bool,
    ) -> Result<(Tensor, Self::Record)>;

    /// The numbers of a step with these micro-batches. It is called when the next step is with the device: what is
    /// copied to the host only now makes the device wait, what was begun in [`Task::forward_backward`] does not.
    fn numbers(&mut self, step: &Self::Step, records: Vec<Self::Record>) -> Result<Numbers>;

    /// The setting to lower where gradients are not finite.
    fn learning_rate_key(&self) -> &'static str {
        "the learning rate"
    }

    /// What a warning about a step says of it beside its learning rate.
    fn describe(&self, _step: &Self::Step) -> Option<String> {
        None
    }

    /// Evaluates after `done` steps and reports what it found; false where there is nothing to evaluate. All ranks are
    /// asked at the same step.
    ///
    /// One that takes long looks at [`Started::wish`] and returns its error, on all ranks, before it has reported
    /// anything; then it is evaluated when the run goes on.
    fn evaluate(&mut self, _done: usize, _reports: &mut Reports) -> Result<bool> {
        Ok(false)
    }

    /// Called after every step, with news that do not wait for a report: samples that cannot be read. An
    /// error ends the run.
    fn after_step(&mut self, _reports: &mut Reports) -> Result<()> {
        Ok(())
    }

    /// The run's folder was renamed while the run was on; files go to `dir` from now on.
    fn folder_moved(&mut self, _dir: &Path) {}

    /// Time spent waiting for data.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }

    /// Numbers that depend on the clock, such as how many samples were found to be unusable by now.
    fn clock_numbers(&self) -> Vec<(&'static str, f64)> {
        Vec::new()
    }
}

/// Where a run begins.
pub struct Started<'a> {
    /// Steps done.
    pub step: usize,
    /// Micro-batches done, as this run counts them.
    pub batches: u64,
    /// What [`Task::place`] said when the checkpoint was written; not of a checkpoint from before there was such a
    /// thing. The data set may have another size since.
    pub place: Option<Place>,
    /// Ranks that the checkpoint was written by.
    pub ranks: u64,
    /// Whether a checkpoint was loaded.
    pub resumed: bool,
    /// The run's folder, where this rank has it.
    pub folder: Option<&'a RunFolder>,
    /// The wish to end, to be looked at by what takes long. With several ranks it moves between steps alone, on all
    /// of them at once.
    pub stop: &'a Stop,
    /// The wish of this rank, to be looked at by what it does alone, and by what then tells the others of it.
    pub wish: &'a Stop,
}

impl Started<'_> {
    /// What it means that a run goes on on `ranks` ranks; `None` where it does not, or as many wrote its checkpoint.
    pub fn on_other_ranks(&self, ranks: usize) -> Option<String> {
        let before = self.ranks;
        let images = match self.place {
            Some(_) => "the rest of this epoch is shared out anew, no image is lost or doubled",
            None => {
                "its checkpoint does not say which images were used: in this epoch some come twice, others not at all"
            }
        };
        (self.resumed && before != ranks as u64).then(|| {
            format!(
                "the run goes on on {ranks} ranks and had {before}: {images}; its numbers differ from those of a run on \
                 {before}"
            )
        })
    }
}

/// The numbers of a step, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// The loss.
    pub loss: f64,
    /// Whatever else is logged, by name; the same for the same seed, settings and device.
    pub values: Vec<(String, Value)>,
    /// What looks unhealthy, each with what to change.
    pub warnings: Vec<String>,
}

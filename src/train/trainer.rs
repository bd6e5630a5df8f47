//! The training loop: resuming, steps, and when what is done between them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::files::checkpoint::{Newest, newest_whole};
use crate::optim::adamw::StepSettings;
use crate::profile;
use crate::shown::shown;
use crate::stop::Stop;
use crate::tensor::{Tensor, copy};
use crate::train::gradient_sum::GradientSum;
use crate::train::plan::RunPlan;
use crate::train::profiling::Profiling;
use crate::train::progress::Progress;
use crate::train::reports::Reports;
use crate::train::run_folder::RunFolder;
use crate::train::save::{load, share};
use crate::train::step::{Stepper, accumulate};
use crate::train::task::{Started, Task};

/// How a run starts and shows itself.
#[derive(Clone, Default)]
pub struct Start {
    /// Goes on from the newest whole checkpoint of the folder, if there is one.
    pub resume: bool,
    /// A few steps are recorded.
    pub profile: Option<Profiling>,
    /// The wish to end. The run leaves what it is doing, and saves the steps that are done.
    pub stop: Stop,
    /// The ranks that train together, of which this is one.
    pub ranks: Collective,
}

/// What a finished (or interrupted) run leaves.
pub struct Outcome<T> {
    /// The last checkpoint; empty on a rank that writes none.
    pub checkpoint: PathBuf,
    /// Steps done.
    pub steps: usize,
    /// Whether the run was asked to stop before its end.
    pub interrupted: bool,
    /// The table of [`Start::profile`].
    pub profile: Option<String>,
    /// What was trained.
    pub task: T,
}

/// What the host keeps of a step until it is settled.
pub(super) struct StepFacts<T: Task> {
    /// Its number, from 0.
    pub step: usize,
    /// The task's own.
    pub plan: T::Step,
    pub settings: StepSettings,
    /// Of every micro-batch, where the step is reported.
    pub records: Vec<T::Record>,
}

/// A training run of a task.
pub struct Trainer<T: Task> {
    pub(super) task: T,
    pub(super) plan: RunPlan,
    pub(super) reports: Reports,
    /// Of rank 0: the others write nothing.
    pub(super) folder: Option<RunFolder>,
    pub(super) ranks: Collective,
    /// Adds up gradients, where there are several ranks.
    sum: Option<GradientSum>,
    stepper: Stepper<StepFacts<T>>,
    profiling: Option<Profiling>,
    /// What it has found.
    profile: Option<String>,
    /// Whether a checkpoint was loaded.
    resumed: bool,
    /// The newest whole checkpoint: loaded, or written since.
    pub(super) checkpoint: Option<PathBuf>,
    /// What asks for the end of the run: with several ranks, once all know it.
    pub(super) stop: Stop,
    /// What asks for it on this rank.
    pub(super) wish: Stop,
    /// Whether the evaluation before the next step is still to be done.
    pub(super) owes_evaluation: bool,
    /// Steps done when this process began, and after which it ends.
    pub(super) first: usize,
    /// Samples that were trained on until then.
    pub(super) seen_before: u64,
    stop_after: usize,
    /// Whether no step of the run is in a checkpoint yet.
    pub(super) unsaved: bool,
    /// Steps skipped, and how many of them in a row until now.
    pub(super) skipped: (u64, usize),
    pub(super) started: Instant,
    /// When a checkpoint was last written, or tried to be.
    pub(super) saved: Instant,
    /// Time spent by earlier processes.
    pub(super) earlier: Duration,
}

impl<T: Task> Trainer<T> {
    /// Prepares a run in its folder, or goes on with it. Of several ranks the first has the folder, and the others
    /// have none.
    pub fn new(
        mut task: T,
        plan: RunPlan,
        folder: impl Into<Option<RunFolder>>,
        start: &Start,
    ) -> Result<Self> {
        let (folder, ranks): (Option<RunFolder>, _) = (folder.into(), start.ranks.clone());
        let Newest { whole, damaged, strays } = match &folder {
            Some(folder) if start.resume => newest_whole(folder.checkpoints())?,
            _ => Newest { whole: None, damaged: Vec::new(), strays: Vec::new() },
        };
        let own = match &whole {
            Some((_, dir)) => Some(load(&mut task, dir)?),
            None => None,
        };
        // until here other ranks take their parts of what is loaded
        task.trained().optimizer.attend()?;
        let state = ranks.hear_first(own)?;
        let (resumed, state) = (state.is_some(), state.unwrap_or_default());
        let (total, first) = (plan.steps, state.step as usize);
        let mut reports = match &folder {
            Some(folder) => {
                let progress = Progress::new(total, first, task.samples_per_step());
                Reports::open(folder, progress, resumed.then_some((state.step, state.metrics_bytes)))?
            }
            None => Reports::relayed(Progress::silent(total, task.samples_per_step())),
        };
        for problem in damaged {
            reports.warn(&format!("a damaged checkpoint is passed over and set aside: {problem}"));
        }
        for problem in strays {
            reports.warn(&problem.to_string());
        }
        if plan.keep == 0 {
            reports.say("every checkpoint is kept (train.keep_checkpoints=0)");
        }
        reports.note(concat!("program: ", env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")));
        let devices = ranks.gather(task.device().describe().into_bytes())?;
        for (rank, device) in devices.iter().enumerate() {
            let of = if ranks.is_alone() { String::new() } else { format!(" of {}", ranks.name(rank)) };
            reports.note(&format!("device{of}: {}", String::from_utf8_lossy(device)));
        }
        match &whole {
            Some((step, dir)) => {
                reports.say(&format!("resumed after {step} of {total} steps from {}", shown(dir)));
            }
            None if start.resume => {
                reports.say("no whole checkpoint to resume from: the run starts at its beginning");
            }
            None => {}
        }
        let each = task.samples_per_step() as u64;
        let seen_before = state.seen.unwrap_or(state.step * each);
        if resumed && state.images != task.samples() as u64 {
            reports.warn(&format!(
                "the data set has {} images and had {}: from here on they come in another order",
                task.samples(),
                state.images
            ));
        }
        let batches = first as u64 * plan.accumulation as u64;
        let wish = start.stop.clone();
        let stop = if ranks.is_alone() { wish.clone() } else { Stop::new() };
        let started = Started {
            step: first,
            batches,
            place: state.place,
            ranks: state.ranks,
            resumed,
            folder: folder.as_ref(),
            stop: &stop,
            wish: &wish,
        };
        task.start(&started, &mut reports)?;
        if let Some(folder) = folder.as_ref().filter(|_| start.resume) {
            // other settings than before, which have proved to fit the checkpoint
            folder.write_config(&task.config()?)?;
        }
        Ok(Self {
            profiling: start.profile.clone().map(|p| p.of_steps(total.saturating_sub(first))),
            sum: {
                let trained = task.trained();
                GradientSum::of_shard(&ranks, trained.parameters, trained.optimizer.shard())
            },
            task,
            plan,
            reports,
            folder,
            ranks,
            stepper: Stepper::default(),
            profile: None,
            resumed,
            checkpoint: whole.map(|(_, dir)| dir),
            stop,
            wish,
            owes_evaluation: first == 0 || state.evaluation_is_due,
            first,
            seen_before,
            unsaved: first == 0,
            stop_after: usize::MAX,
            skipped: (state.skipped, 0),
            started: Instant::now(),
            saved: Instant::now(),
            earlier: Duration::try_from_secs_f64(state.seconds).unwrap_or_default(),
        })
    }

    /// Whether the run goes on from a checkpoint.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// What is trained, to be filled with weights before the first step.
    pub fn task_mut(&mut self) -> &mut T {
        &mut self.task
    }

    /// A line for the terminal and `train.log`.
    pub fn say(&mut self, text: &str) {
        self.reports.say(text);
    }

    /// Lets [`Trainer::run`] end after so many steps of the run, as if it had been interrupted then.
    pub fn stop_after(&mut self, steps: usize) {
        self.stop_after = steps;
    }

    /// Trains until the end, or until [`Start::stop`] wishes for it: then a checkpoint of the steps that are
    /// done is written. An evaluation that is left is done first when the run goes on.
    pub fn run(mut self) -> Result<Outcome<T>> {
        let result = self.steps().and_then(|done| Ok((done, self.finish(done)?)));
        self.reports.progress.finish();
        match result {
            Ok((steps, checkpoint)) => {
                let interrupted = steps < self.plan.steps || self.owes_evaluation;
                Ok(Outcome { checkpoint, steps, interrupted, profile: self.profile, task: self.task })
            }
            Err(e) => {
                let e = self.with_checkpoint(e);
                self.reports.note(&format!("stopped: {e}"));
                Err(e)
            }
        }
    }

    /// Runs all steps; returns how many are done.
    fn steps(&mut self) -> Result<usize> {
        let mut done = self.first;
        // the weights may have come from a file since the run was prepared
        share(&mut self.task, &self.ranks)?;
        self.consult(false)?;
        if self.owes_evaluation {
            self.evaluate(done)?;
        }
        while done < self.plan.steps.min(self.stop_after) && self.stop.asked().is_none() {
            match self.profiled_step(done) {
                Err(Error::Interrupted(_)) => break,
                result => result?,
            }
            done += 1;
            let evaluates = self.plan.evaluates(done);
            let saves = self.plan.saves(done) || (self.save_is_due(done) && done < self.plan.steps);
            let saves = self.consult(saves)?;
            if evaluates || saves || self.plan.reports(done - 1) {
                self.follow_folder()?;
            }
            if evaluates || saves || self.halts() {
                self.settle()?;
            }
            if self.halts() {
                return Err(self.halt(done));
            }
            if evaluates {
                self.evaluate(done)?;
            }
            // at the end it is saved in any case
            if saves && self.stop.asked().is_none() {
                self.try_save(done);
            }
        }
        self.settle()?;
        if let Some(profiling) = &mut self.profiling
            && let Some(table) = profiling.finish(self.task.device())?
        {
            self.tell_profile(table);
        }
        if self.halts() {
            return Err(self.halt(done));
        }
        Ok(done)
    }

    /// One step, handed to the device, and recorded where it is one of those of a profile.
    fn profiled_step(&mut self, step: usize) -> Result<()> {
        if let Some(profiling) = &mut self.profiling {
            profiling.before_step(self.task.device())?;
        }
        self.step(step)?;
        self.task.device().submit()?;
        if let Some(profiling) = &mut self.profiling
            && let Some(table) = profiling.after_step(self.task.device())?
        {
            self.tell_profile(table);
        }
        Ok(())
    }

    fn tell_profile(&mut self, table: String) {
        self.reports.say(&table);
        self.profile = Some(table);
    }

    /// One step. The numbers of the one before are looked at when this one's work is under way.
    fn step(&mut self, step: usize) -> Result<()> {
        let _phase = profile::phase("step");
        let due = self.plan.reports(step);
        let plan = self.task.step(step)?;
        let settings = self.task.settings(&plan);
        let mut records = Vec::new();
        let before = self.state_of_task()?;
        let loss = accumulate(self.plan.accumulation, self.ranks.size(), |batch| {
            if batch.index > 0 {
                self.stop.check()?;
            }
            if let Some(sum) = self.sum.as_ref().filter(|_| batch.last) {
                sum.begin();
            }
            let (loss, record) = self.task.forward_backward(&plan, batch, due)?;
            records.extend(due.then_some(record));
            Ok(loss)
        });
        if matches!(loss, Err(Error::Interrupted(_))) {
            // as if the step had not begun; gradients are in no checkpoint
            self.task.tensors().iter().zip(&before).try_for_each(|((_, now), before)| copy(now, before))?;
        }
        let loss = match &self.sum {
            Some(sum) => sum.finish(&loss?)?,
            None => loss?,
        };
        let facts = StepFacts { step, plan, settings, records };
        let before = self.stepper.apply(&mut self.task.trained(), &loss, settings, facts)?;
        self.note(before)?;
        self.task.after_step(&mut self.reports)
    }

    /// What a checkpoint holds of the task itself, which a micro-batch may move. With one a step there is
    /// nothing to go back to: waiting for its samples comes first.
    fn state_of_task(&self) -> Result<Vec<Tensor>> {
        if self.plan.accumulation <= 1 {
            return Ok(Vec::new());
        }
        let kept = |(_, now): &(String, Tensor)| {
            let before = Tensor::empty(now.device(), now.shape(), now.dtype())?;
            copy(&before, now)?;
            Ok(before)
        };
        self.task.tensors().iter().map(kept).collect()
    }

    /// Waits for the step in flight.
    fn settle(&mut self) -> Result<()> {
        let settled = self.stepper.settle(&mut self.task.trained())?;
        self.note(settled)
    }
}

//! What is done between steps: checkpoints, evaluation, and the end of a run.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::files::checkpoint::{checkpoint_dir, point_latest, prune};
use crate::shown::shown;
use crate::train::run_folder::RunFolder;
use crate::train::save::{RunState, save};
use crate::train::task::Task;
use crate::train::trainer::Trainer;

/// The first checkpoint of a run comes after so many steps, or after this time, whichever is first.
const FIRST_SAVE_STEPS: usize = 100;
const FIRST_SAVE_TIME: Duration = Duration::from_secs(60);

impl<T: Task> Trainer<T> {
    /// Ends the run with its last checkpoint and evaluation.
    pub(super) fn finish(&mut self, done: usize) -> Result<PathBuf> {
        self.follow_folder()?;
        // the last checkpoint must succeed: without it the run would have been for nothing
        let checkpoint = match self.save(done) {
            Ok(checkpoint) => checkpoint,
            Err(e @ Error::Device(_)) => return Err(e),
            Err(e) => {
                let newest = match &self.checkpoint {
                    Some(dir) => format!("; the newest complete checkpoint is {}", shown(dir)),
                    None => String::new(),
                };
                let Some(folder) = &self.folder else { return Err(e) };
                let dir = checkpoint_dir(folder.checkpoints(), done);
                return Err(Error::file(dir, format!("{e}{newest}; make room and go on with --resume")));
            }
        };
        if done >= self.plan.steps {
            self.evaluate(done)?;
        }
        self.reports.note(&format!(
            "{done} steps done, {} skipped; {:.1} s, {:.1} s of them waiting for images; peak memory {} MiB",
            self.skipped.0,
            self.started.elapsed().as_secs_f64(),
            self.task.waited().as_secs_f64(),
            self.task.device().peak_bytes() >> 20
        ));
        Ok(checkpoint)
    }

    /// Sees that the run's folder and its files are still there; one that was renamed is followed, which is then true.
    pub(super) fn follow_folder(&mut self) -> Result<bool> {
        let Some(folder) = &mut self.folder else { return Ok(false) };
        let former = folder.follow()?;
        if let Some(former) = &former {
            self.task.folder_moved(folder.dir());
            let (former, now) = (shown(former), shown(folder.dir()));
            self.reports.warn(&format!("{former} was renamed while the run was on: it goes on in {now}"));
        }
        self.reports.reopen(folder);
        Ok(former.is_some())
    }

    /// Whether so many steps in a row were skipped that the run must end.
    pub(super) fn halts(&self) -> bool {
        let limit = self.plan.halt_after_skips;
        limit > 0 && self.skipped.1 >= limit
    }

    /// Ends a run that only skips steps; its last good state is saved.
    pub(super) fn halt(&mut self, done: usize) -> Error {
        let saved = match self.save(done) {
            Ok(dir) => format!("the last good state is in {}", shown(&dir)),
            Err(e) => format!("the last good state could not be saved: {e}"),
        };
        if !self.ranks.leads() {
            return Error::Elsewhere("loss or gradients are not finite".into());
        }
        Error::Diverged(format!(
            "stopped after {done} steps: loss or gradients were not finite in {} steps in a row; {saved}. Go on from an \
             earlier checkpoint with a lower {}, or set train.halt_after_skips",
            self.skipped.1,
            self.task.learning_rate_key()
        ))
    }

    /// Whether the last checkpoint is older than it may be, after `done` steps. The first one comes early: much
    /// is lost with a first hour, and what is wrong with the disk shows soon.
    pub(super) fn save_is_due(&self, done: usize) -> bool {
        let minutes = self.plan.save_minutes as u64;
        // one that cannot be written is tried again as often
        let early = self.unsaved
            && (done.is_multiple_of(FIRST_SAVE_STEPS) || self.saved.elapsed() >= FIRST_SAVE_TIME);
        early || (minutes > 0 && self.saved.elapsed() >= Duration::from_secs(60 * minutes))
    }

    /// Writes a checkpoint and removes those that are not kept. A rank without the run's folder writes none, and
    /// hands over what it alone has: all ranks are to come here at once.
    fn save(&mut self, done: usize) -> Result<PathBuf> {
        self.saved = Instant::now();
        let saved = self.write(done);
        // also where it failed: the others wait
        self.task.trained().optimizer.attend()?;
        saved
    }

    fn write(&mut self, done: usize) -> Result<PathBuf> {
        self.follow_folder()?;
        let Some(checkpoints) = self.folder.as_ref().map(RunFolder::checkpoints) else {
            return Ok(PathBuf::new());
        };
        // somebody may have removed it with all that was in it; where that fails, so does what follows, and says why
        let _ = fs::create_dir(&checkpoints);
        let state = RunState {
            step: done as u64,
            skipped: self.skipped.0,
            seed: self.plan.seed,
            images: self.task.samples() as u64,
            seen: Some(self.seen(done)),
            metrics_bytes: self.reports.synced_metrics()?,
            ranks: self.task.share().ranks as u64,
            place: self.task.place(done as u64 * self.plan.accumulation as u64),
            evaluation_is_due: self.owes_evaluation && done < self.plan.steps,
            seconds: (self.earlier + self.started.elapsed()).as_secs_f64(),
            ..RunState::default()
        };
        let saved = save(&mut self.task, state.clone(), &checkpoint_dir(&checkpoints, done));
        let path = match saved {
            // renamed since it was looked for
            Err(_) if self.follow_folder()? => {
                let now = self.folder.as_ref().map_or(checkpoints, RunFolder::checkpoints);
                save(&mut self.task, state, &checkpoint_dir(now, done))?
            }
            saved => saved?,
        };
        // the checkpoint is there, whatever becomes of the older ones
        let tidied = [
            point_latest(&path),
            prune(path.parent().unwrap_or(&path), self.plan.keep, self.plan.keep_every),
        ];
        for problem in tidied.into_iter().filter_map(Result::err) {
            self.reports.warn(&problem.to_string());
        }
        self.checkpoint = Some(path.clone());
        Ok(path)
    }

    /// Writes a checkpoint; a failure is reported and the run goes on.
    pub(super) fn try_save(&mut self, done: usize) {
        let saved = self.save(done);
        self.unsaved &= saved.is_err();
        self.reports.progress.pause_over(self.plan.save_every);
        if let Err(e) = &saved {
            self.reports
                .warn(&format!("the checkpoint of step {done} was not written, training goes on: {e}"));
        }
    }

    /// An error that ends the run; where the device failed, with the checkpoint that is left.
    pub(super) fn with_checkpoint(&self, e: Error) -> Error {
        if !matches!(e, Error::Device(_)) {
            return e;
        }
        match &self.checkpoint {
            Some(dir) => e.and(format!("the run goes on from {} with --resume", shown(dir))),
            None => e.and("no step was saved yet"),
        }
    }

    /// Lets the task evaluate itself after `done` steps. Where the run is to end before that, the evaluation is
    /// still owed.
    pub(super) fn evaluate(&mut self, done: usize) -> Result<()> {
        self.owes_evaluation = true;
        let evaluated = match self.stop.check().and_then(|()| self.task.evaluate(done, &mut self.reports)) {
            Err(Error::Interrupted(_)) => {
                let text = format!("the evaluation after {done} steps is left for when the run goes on");
                self.reports.say(&text);
                // the wish may have been another rank's
                self.consult(false)?;
                return Ok(());
            }
            evaluated => evaluated?,
        };
        self.owes_evaluation = false;
        self.consult(false)?;
        if evaluated {
            self.reports.progress.pause_over(self.plan.evaluate_every);
        }
        Ok(())
    }
}

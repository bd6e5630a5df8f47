//! The training loop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::data::rng::{Purpose, stream};
use crate::data::{HeldOut, Loader, LoaderConfig, Source, split};
use crate::error::{Error, Result};
use crate::files::checkpoint::{Newest, checkpoint_dir, newest_whole, point_latest, prune};
use crate::models::grid::{DrawCycle, Network};
use crate::optim::adamw::{GradientReport, StepSettings};
use crate::optim::loss_scale::{self, LossScale};
use crate::optim::schedules::Schedules;
use crate::poa::losses::{LossReport, StepRecord};
use crate::poa::model::why_single;
use crate::poa::schedules::TeacherSchedules;
use crate::poa::settings::Precision;
use crate::poa::{PoaModel, StepInputs};
use crate::profile;
use crate::recipes::Config;
use crate::tensor::{DType, Device, PendingRead, Tensor, add_scaled};
use crate::train::bad_samples::BadSamples;
use crate::train::evaluation::Evaluation;
use crate::train::health::HealthMonitor;
use crate::train::numbers::StepNumbers;
use crate::train::profiling::Profiling;
use crate::train::progress::{Progress, Shown};
use crate::train::reports::Reports;
use crate::train::run_folder::RunFolder;
use crate::train::save::{RunState, load, save};

/// How a run starts and shows itself.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Goes on from the newest whole checkpoint of the folder, if there is one.
    pub resume: bool,
    /// Weights to start a new run from.
    pub init: Option<PathBuf>,
    /// A few steps are recorded.
    pub profile: Option<Profiling>,
}

/// A k-NN accuracy of one sub-network before and after training.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnResult {
    /// The sub-network.
    pub network: Network,
    /// The number of neighbours.
    pub k: usize,
    /// Top-1 before training, 0..1.
    pub before: f64,
    /// Top-1 after training, 0..1.
    pub after: f64,
}

/// What a finished (or interrupted) run leaves.
pub struct Outcome {
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// Steps done.
    pub steps: usize,
    /// Whether the run was asked to stop before its end.
    pub interrupted: bool,
    /// k-NN accuracies, where there are labels.
    pub knn: Vec<KnnResult>,
}

/// A step whose numbers are still on the device.
struct InFlight {
    control: PendingRead,
    facts: StepFacts,
}

/// What is known of a step on the host.
struct StepFacts {
    step: usize,
    /// Of every batch of the step, where the losses are due.
    records: Vec<StepRecord>,
    network: Network,
    settings: StepSettings,
    teacher_temp: f64,
}

/// A training run.
pub struct Trainer {
    config: Config,
    model: PoaModel,
    folder: RunFolder,
    loader: Loader,
    schedules: Schedules,
    teacher_schedules: TeacherSchedules,
    draws: DrawCycle,
    reports: Reports,
    health: HealthMonitor,
    evaluation: Option<Evaluation>,
    bad: BadSamples,
    profiling: Option<Profiling>,
    /// Images of the data set.
    images: usize,
    /// Steps done when this process began, and after which it ends.
    first: usize,
    stop_after: usize,
    /// Steps skipped, and how many of them in a row until now.
    skipped: (u64, usize),
    started: Instant,
    /// When a checkpoint was last written, or tried to be.
    saved: Instant,
    /// Time spent by earlier processes.
    earlier: Duration,
}

impl Trainer {
    /// Prepares a run of a resolved config in its folder.
    pub fn new(
        config: Config,
        device: &Device,
        source: Arc<dyn Source>,
        folder: RunFolder,
        start: &Start,
    ) -> Result<Self> {
        let held_out = HeldOut { fraction: config.data.held_out, at_most: config.data.held_out_at_most };
        let (train, val) = split(source, held_out);
        let mut model = PoaModel::new(&config, device, config.train.seed)?;
        let Newest { whole: found, damaged } = match start.resume {
            true => newest_whole(folder.checkpoints())?,
            false => Newest { whole: None, damaged: Vec::new() },
        };
        let state = match &found {
            Some((_, dir)) => load(&mut model, dir)?,
            None => RunState { seed: config.train.seed, ..RunState::default() },
        };
        let total = config.total_steps();
        let first = state.step as usize;
        let progress = Progress::new(total, first, config.images_per_step(), config.train.log_every);
        let resumed = found.is_some().then_some((state.step, state.metrics_bytes));
        let mut reports = Reports::open(&folder, progress, resumed)?;
        for problem in damaged {
            reports.warn(&format!("a damaged checkpoint is passed over and set aside: {problem}"));
        }
        reports.note(&format!("device: {}", device.describe()));
        if config.step.precision == Precision::Mixed
            && let Some(why) = why_single(device)
        {
            reports.warn(&format!("train.precision is \"mixed\", and {why}: it trains in single precision"));
        }
        reports.note(&format!("data: {}, {} images to train on", train.describe(), train.len()));
        let count = model.student.values().layout().elements();
        reports.note(&format!("{} sub-networks; {count} parameters", model.grid.entries().len()));
        match (&found, start.resume) {
            (Some((step, dir)), _) => {
                reports.say(&format!("resumed after {step} of {total} steps from {}", dir.display()));
            }
            (None, true) => {
                reports.say("no whole checkpoint to resume from: the run starts at its beginning")
            }
            (None, false) => {}
        }
        if found.is_some() && state.images != train.len() as u64 {
            reports.warn(&format!(
                "the data set has {} images and had {}: from here on they come in another order",
                train.len(),
                state.images
            ));
        }
        if let Some(path) = start.init.as_deref().filter(|_| found.is_none()) {
            initialise(&model, path, &mut reports)?;
        }
        let mut evaluation = Evaluation::prepare(&config, &model, (&train, val.as_ref()), &folder)?;
        match &mut evaluation {
            Some(evaluation) if resumed.is_some() => evaluation.resume(&folder),
            Some(_) => {}
            None => reports.note(
                "no labels: k-NN is left out (classes are the parent folders, where there are several)",
            ),
        }
        if start.resume {
            // other settings than before, which have proved to fit the checkpoint
            folder.write_config(&config)?;
        }
        let images = train.len();
        let batches = first as u64 * config.train.accumulation_steps as u64;
        let loader = Loader::new(train, LoaderConfig { start_step: batches, ..config.loader()? })?;
        Ok(Self {
            schedules: Schedules::new(&config.optim, &config.length()),
            teacher_schedules: TeacherSchedules::new(&config),
            draws: DrawCycle::new(model.grid.clone(), config.train.seed),
            health: HealthMonitor::new(&config),
            bad: BadSamples::open(&folder.bad_samples())?,
            profiling: start.profile.clone().map(|p| p.of_steps(total.saturating_sub(first))),
            config,
            model,
            folder,
            loader,
            reports,
            evaluation,
            images,
            first,
            stop_after: usize::MAX,
            skipped: (state.skipped, 0),
            started: Instant::now(),
            saved: Instant::now(),
            earlier: Duration::try_from_secs_f64(state.seconds).unwrap_or_default(),
        })
    }

    /// Lets [`Trainer::run`] end after so many steps of the run, as if it had been interrupted then.
    pub fn stop_after(&mut self, steps: usize) {
        self.stop_after = steps;
    }

    /// Trains until the end, or until `stop` is set: then the current step is finished and a checkpoint written.
    pub fn run(mut self, stop: &AtomicBool) -> Result<Outcome> {
        let result = self.steps(stop);
        self.reports.progress.finish();
        if let Err(e) = &result {
            self.reports.note(&format!("stopped: {e}"));
        }
        result
    }

    fn steps(&mut self, stop: &AtomicBool) -> Result<Outcome> {
        let total = self.config.total_steps();
        let period = self.config.checkpoint_period();
        let eval_period = self.config.evaluation.eval_period_iterations;
        if self.first == 0 {
            self.evaluate(0)?;
        }
        let mut in_flight = None;
        let (mut done, mut saved) = (self.first, None);
        while done < total.min(self.stop_after) && !stop.load(Ordering::Relaxed) {
            in_flight = Some(self.profiled_step(done, in_flight)?);
            done += 1;
            let evaluates = eval_period > 0 && done % eval_period == 0 && done < total;
            let saves = (done % period == 0 || self.save_is_due()) && done < total;
            if evaluates || saves || self.halts() {
                self.settle(in_flight.take())?;
            }
            if self.halts() {
                return Err(self.halt(done));
            }
            if evaluates {
                self.evaluate(done)?;
            }
            if saves && self.try_save(done) {
                saved = Some(checkpoint_dir(self.folder.checkpoints(), done));
            }
        }
        self.settle(in_flight)?;
        if let Some(profiling) = &mut self.profiling
            && let Some(table) = profiling.finish(&self.model.device)?
        {
            self.reports.say(&table);
        }
        if self.halts() {
            return Err(self.halt(done));
        }
        // the last checkpoint must succeed: without it the run would have been for nothing
        let checkpoint = match self.save(done) {
            Ok(path) => path,
            Err(e) => {
                let hint = match saved {
                    Some(dir) => format!("; the newest complete checkpoint is {}", dir.display()),
                    None => String::new(),
                };
                let advice = "make room and go on with --resume";
                return Err(Error::file(
                    checkpoint_dir(self.folder.checkpoints(), done),
                    format!("{e}{hint}; {advice}"),
                ));
            }
        };
        let interrupted = done < total;
        if !interrupted {
            self.evaluate(done)?;
        }
        let gains = self.evaluation.as_ref().map_or_else(Vec::new, |e| e.gains(done));
        let knn =
            gains.into_iter().map(|(network, k, before, after)| KnnResult { network, k, before, after });
        let seconds = self.started.elapsed().as_secs_f64();
        self.reports.note(&format!(
            "{done} steps done, {} skipped; {seconds:.1} s, {:.1} s of them waiting for images; peak memory {} MiB",
            self.skipped.0,
            self.loader.waited().as_secs_f64(),
            self.model.device.peak_bytes() >> 20
        ));
        let knn = if interrupted { Vec::new() } else { knn.collect() };
        Ok(Outcome { checkpoint, steps: done, interrupted, knn })
    }

    /// One step, handed to the device, and recorded where it is one of those of a profile.
    fn profiled_step(&mut self, step: usize, before: Option<InFlight>) -> Result<InFlight> {
        if let Some(profiling) = &mut self.profiling {
            profiling.before_step(&self.model.device)?;
        }
        let in_flight = self.step(step, before)?;
        self.model.device.submit()?;
        if let Some(profiling) = &mut self.profiling
            && let Some(table) = profiling.after_step(&self.model.device)?
        {
            self.reports.say(&table);
        }
        Ok(in_flight)
    }

    /// One step. The numbers of the one before are looked at when this one's work is under way.
    fn step(&mut self, step: usize, before: Option<InFlight>) -> Result<InFlight> {
        let _phase = profile::phase("step");
        let network = self.network(step)?;
        let teacher_temp = self.teacher_schedules.temp(step);
        let settings = StepSettings {
            lr: self.schedules.lr(step),
            last_layer_lr: self.schedules.last_layer_lr(step),
            weight_decay: self.schedules.weight_decay(step),
            teacher_momentum: self.teacher_schedules.momentum(step),
        };
        let due = step.is_multiple_of(self.config.train.log_every) || step + 1 == self.config.total_steps();
        let batches = self.config.train.accumulation_steps;
        let share = 1.0 / batches as f64;
        let mut records = Vec::new();
        let mut loss: Option<Tensor> = None;
        for batch in 0..batches {
            let record = self.batch(
                step,
                batch,
                StepInputs { share, health: due && batch == 0, ..StepInputs::new(network, teacher_temp) },
            )?;
            loss = Some(match loss {
                None if batches == 1 => record.total.clone(),
                sum => {
                    let sum = sum.map_or_else(|| Tensor::zeros(&self.model.device, &[1], DType::F32), Ok)?;
                    add_scaled(&sum, &record.total, share as f32)?;
                    sum
                }
            });
            if due {
                records.push(record);
            }
        }
        let loss = loss.ok_or_else(|| Error::config("train.accumulation_steps", "must be 1 or more"))?;
        let gradients = self.model.student.gradients().expect("students are trained").clone();
        self.model.optimizer.measure(&gradients, &loss)?;
        let control = self.model.optimizer.control().read_later()?;
        // the optimiser's bias correction counts applied steps, so the last one's outcome must be known
        self.settle(before)?;
        self.model.optimizer.update(&self.model.student, self.model.teacher.values(), settings)?;
        self.note_bad_samples()?;
        Ok(InFlight { control, facts: StepFacts { step, records, network, settings, teacher_temp } })
    }

    /// One batch of a step, forward and backward.
    fn batch(&mut self, step: usize, batch: usize, inputs: StepInputs) -> Result<StepRecord> {
        let config = &self.config;
        let masked = step >= config.ibot_start_step() && config.ibot.loss_weight > 0.0;
        let images = {
            let _phase = profile::phase("wait for images");
            self.loader.next()?
        };
        let mut rng = stream(config.train.seed, Purpose::DropPath, step as u64, batch as u64);
        let images = if masked { images } else { images.without_masks() };
        self.model.forward_backward(&images, &mut inputs.with_drop_path(&mut rng))
    }

    fn network(&self, step: usize) -> Result<Network> {
        match self.config.student.elastic().fixed_network.as_str() {
            "" => Ok(self.draws.network_at(step)),
            name => self.model.grid.named(name).map_err(|e| Error::config("student.fixed_network", e)),
        }
    }

    /// Looks at a step's numbers: counts it, or says that it was skipped; logs it where that is due.
    fn settle(&mut self, step: Option<InFlight>) -> Result<()> {
        let Some(InFlight { control, facts: s }) = step else { return Ok(()) };
        let report = {
            let _phase = profile::phase("wait for the device");
            GradientReport::from_control(&control.wait()?)
        };
        let done = s.step + 1;
        if report.finite {
            self.model.optimizer.applied += 1;
            self.skipped.1 = 0;
        } else {
            self.skipped = (self.skipped.0 + 1, self.skipped.1 + 1);
            self.tell_skipped(&s, report.loss_scale);
        }
        if s.records.is_empty() {
            self.reports.progress.step(done, None, s.settings.lr);
            return Ok(());
        }
        let weights = &self.model.settings.weights;
        let losses: Vec<LossReport> = s.records.iter().map(|r| r.read(weights)).collect::<Result<_>>()?;
        let modules = self.model.student.values().layout().modules().iter().cloned();
        let numbers = StepNumbers {
            step: s.step,
            network: s.network,
            settings: s.settings,
            teacher_temp: s.teacher_temp,
            losses: LossReport::mean(&losses),
            gradient_norms: modules.zip(report.norms).collect(),
            health: s.records[0].health()?,
            skipped: self.skipped.0,
            loss_scale: report.loss_scale,
        };
        self.report(&numbers);
        Ok(())
    }

    /// Says that a step was skipped. In mixed precision that is how the loss scale finds its level, until it is down to 1.
    fn tell_skipped(&mut self, s: &StepFacts, loss_scale: Option<f64>) {
        if let Some(scale) = loss_scale.filter(|scale| *scale > 1.0) {
            let next = scale * loss_scale::BACKOFF as f64;
            return self.reports.note(&format!(
                "step {}: gradients are more than half precision holds; the step is skipped, the loss scale falls to {next}",
                s.step
            ));
        }
        self.reports.warn(&format!(
            "step {}: loss or gradients are not finite; the step is skipped (sub-network {}, learning rate {:.2e}). \
             If this goes on, lower optim.base_lr",
            s.step, s.network, s.settings.lr
        ));
    }

    /// Writes a step's numbers to the logs, and warns where they look bad.
    fn report(&mut self, numbers: &StepNumbers) {
        let (done, loss, lr) = (numbers.step + 1, numbers.losses.total, numbers.settings.lr);
        let seconds = self.started.elapsed().as_secs_f64();
        let waited = self.loader.waited().as_secs_f64();
        let waiting = waited / seconds.max(1e-9);
        self.reports.progress.step(done, Some(Shown { loss, waiting }), lr);
        let pace = self.reports.progress.images_per_second();
        let time = [
            ("images_per_second", pace),
            ("elapsed", self.earlier.as_secs_f64() + seconds),
            ("waited_for_images", waited),
            ("waiting_share", waiting),
            ("left", self.reports.progress.left(done).as_secs_f64()),
            // how far ahead the loader is depends on the clock
            ("bad_samples", self.bad.len() as f64),
        ];
        self.reports.values(numbers.step, &numbers.values(&self.config, self.images), &time);
        self.reports.note(&format!(
            "step {done}/{}: loss {loss:.4}, lr {lr:.2e}, epoch {:.2}, {pace:.1} images/s, {:.0}% waiting for images",
            self.config.total_steps(),
            numbers.seen(&self.config) as f64 / self.images as f64,
            100.0 * waiting
        ));
        for warning in self.health.judge(numbers.step, loss, numbers.health.as_ref()) {
            self.reports.warn(&warning);
        }
    }

    /// Names new unreadable images; too many of them end the run.
    fn note_bad_samples(&mut self) -> Result<()> {
        let found = self.loader.take_bad_samples();
        if found.is_empty() {
            return Ok(());
        }
        match self.bad.add(&found) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(e) => self.reports.warn(&format!("{e}; training goes on")),
        }
        let (count, summary) = (self.bad.len(), self.bad.summary());
        self.reports.say(&format!(
            "{count} unusable images left out so far ({summary}); {} names them",
            self.folder.bad_samples().display()
        ));
        if count as f64 > self.config.data.max_bad_fraction * self.images as f64 {
            return Err(Error::config(
                "data.max_bad_fraction",
                format!(
                    "{count} of {} images are unusable ({summary}), more than the {} that is allowed; {} names them",
                    self.images,
                    self.config.data.max_bad_fraction,
                    self.folder.bad_samples().display()
                ),
            ));
        }
        Ok(())
    }

    /// Whether so many steps in a row were skipped that the run must end.
    fn halts(&self) -> bool {
        let limit = self.config.train.halt_after_skips;
        limit > 0 && self.skipped.1 >= limit
    }

    /// Ends a run that only skips steps; its last good state is saved.
    fn halt(&mut self, done: usize) -> Error {
        let saved = match self.save(done) {
            Ok(dir) => format!("the last good state is in {}", dir.display()),
            Err(e) => format!("the last good state could not be saved: {e}"),
        };
        Error::Diverged(format!(
            "stopped after {done} steps: loss or gradients were not finite in {} steps in a row; {saved}. Go on from an \
             earlier checkpoint with a lower optim.base_lr, or set train.halt_after_skips",
            self.skipped.1
        ))
    }

    /// Whether the last checkpoint is older than it may be.
    fn save_is_due(&self) -> bool {
        let minutes = self.config.train.saveckp_minutes as u64;
        minutes > 0 && self.saved.elapsed() >= Duration::from_secs(60 * minutes)
    }

    /// Writes a checkpoint and removes those that are not kept.
    fn save(&mut self, done: usize) -> Result<PathBuf> {
        self.saved = Instant::now();
        let state = RunState {
            step: done as u64,
            applied: self.model.optimizer.applied,
            skipped: self.skipped.0,
            seed: self.config.train.seed,
            images: self.images as u64,
            metrics_bytes: self.reports.synced_metrics()?,
            seconds: (self.earlier + self.started.elapsed()).as_secs_f64(),
            loss_scale: self.model.optimizer.loss_scale().map(LossScale::get).transpose()?,
        };
        let dir = checkpoint_dir(self.folder.checkpoints(), done);
        let path = save(&self.model, &self.config, &state, &dir)?;
        point_latest(&path)?;
        let train = &self.config.train;
        prune(
            self.folder.checkpoints(),
            train.keep_checkpoints,
            train.keep_every * self.config.checkpoint_period(),
        )?;
        Ok(path)
    }

    /// Writes a checkpoint; a failure is reported and the run goes on. True where it was written.
    fn try_save(&mut self, done: usize) -> bool {
        let saved = self.save(done);
        self.reports.progress.pause_over(self.config.checkpoint_period());
        if let Err(e) = &saved {
            self.reports
                .warn(&format!("the checkpoint of step {done} was not written, training goes on: {e}"));
        }
        saved.is_ok()
    }

    /// k-NN accuracies of the teacher's sub-networks after `done` steps, where there are labels.
    fn evaluate(&mut self, done: usize) -> Result<()> {
        if let Some(evaluation) = &mut self.evaluation {
            evaluation.run(&self.model, done, &mut self.reports)?;
            self.reports.progress.pause_over(self.config.evaluation.eval_period_iterations);
        }
        Ok(())
    }
}

/// Fills student and teacher from a file of weights, as far as it has them.
fn initialise(model: &PoaModel, path: &Path, reports: &mut Reports) -> Result<()> {
    let specs: Vec<_> = model.student.values().layout().places().iter().map(|p| p.spec.clone()).collect();
    let import = crate::weights::import::Import::open(path, &*model.backbone, &specs)?;
    import.fill(|name, values| {
        model.student.values().write(name, values)?;
        model.teacher.values().write(name, values)
    })?;
    model.values_changed()?;
    reports.say(&import.summary());
    Ok(())
}

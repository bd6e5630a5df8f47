//! The training loop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::config::Config;
use crate::data::rng::{Purpose, stream};
use crate::data::{
    BlurProbabilities, Crop, CropConfig, HeldOut, Loader, LoaderConfig, MaskConfig, Source, split,
};
use crate::error::{Error, Result};
use crate::eval::features::{LabelledImages, network_knn};
use crate::models::grid::{DrawCycle, Network};
use crate::optim::adamw::{GradientReport, StepSettings};
use crate::optim::schedules::Schedules;
use crate::poa::losses::StepRecord;
use crate::poa::{PoaModel, StepBatch, StepInputs};
use crate::tensor::{Device, PendingRead};
use crate::train::checkpoint::{checkpoint_dir, prune};
use crate::train::metrics::{MetricsLog, TrainLog, number};
use crate::train::progress::Progress;
use crate::train::run_folder::RunFolder;
use crate::train::save::{RunState, save};

/// Batches made ahead by the loader.
const PREFETCH: usize = 2;

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

/// Labelled images on both sides of a k-NN evaluation.
struct Evaluation {
    train: LabelledImages,
    val: LabelledImages,
    networks: Vec<Network>,
}

/// A step whose numbers are still on the device.
struct InFlight {
    step: usize,
    control: PendingRead,
    /// Kept where the losses are due.
    record: Option<StepRecord>,
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
    draws: DrawCycle<Network>,
    metrics: MetricsLog,
    log: TrainLog,
    progress: Progress,
    evaluation: Option<Evaluation>,
    images: usize,
    noted_bad: usize,
    skipped: usize,
    started: Instant,
}

impl Trainer {
    /// Prepares a run of a resolved config in a new folder.
    pub fn new(config: Config, device: &Device, source: Arc<dyn Source>, folder: RunFolder) -> Result<Self> {
        let held_out = HeldOut { fraction: config.data.held_out, at_most: config.data.held_out_at_most };
        let (train, val) = split(source, held_out);
        let mut log = TrainLog::open(folder.log())?;
        log.line(&format!("device: {}", device.describe()))?;
        log.line(&format!("data: {}, {} images to train on", train.describe(), train.len()))?;
        let model = PoaModel::new(&config, device, config.train.seed)?;
        let count = model.student.values().layout().elements();
        log.line(&format!("{} sub-networks; {count} parameters", model.grid.entries().len()))?;
        let evaluation = Evaluation::prepare(&config, &model, &train, val.as_ref())?;
        if evaluation.is_none() {
            log.line(
                "no labels: k-NN is left out (classes are the parent folders, where there are several)",
            )?;
        }
        let images = train.len();
        let loader = Loader::new(train, loader_config(&config))?;
        let total = config.total_steps();
        Ok(Self {
            schedules: Schedules::new(&config),
            draws: DrawCycle::new(model.grid.clone(), config.train.seed),
            metrics: MetricsLog::create(folder.metrics())?,
            progress: Progress::new(total, 0, config.train.batch_size_per_gpu, config.train.log_every),
            config,
            model,
            folder,
            loader,
            log,
            evaluation,
            images,
            noted_bad: 0,
            skipped: 0,
            started: Instant::now(),
        })
    }

    /// Trains until the end, or until `stop` is set: then the current step is finished and a checkpoint written.
    pub fn run(mut self, stop: &AtomicBool) -> Result<Outcome> {
        let result = self.steps(stop);
        self.progress.finish();
        if let Err(e) = &result {
            self.log.line(&format!("stopped: {e}"))?;
        }
        result
    }

    fn steps(&mut self, stop: &AtomicBool) -> Result<Outcome> {
        let total = self.config.total_steps();
        let period = self.config.checkpoint_period();
        let eval_period = self.config.evaluation.eval_period_iterations;
        let before = self.evaluate(0)?;
        let mut in_flight = None;
        let (mut done, mut checkpoint) = (0, None);
        while done < total && !stop.load(Ordering::Relaxed) {
            in_flight = Some(self.step(done, in_flight)?);
            done += 1;
            self.model.device.submit()?;
            if done % period == 0 && done < total {
                self.settle(in_flight.take())?;
                checkpoint = self.save(done)?.or(checkpoint);
            }
            if eval_period > 0 && done % eval_period == 0 && done < total {
                self.settle(in_flight.take())?;
                self.evaluate(done)?;
            }
        }
        self.settle(in_flight)?;
        // the last checkpoint must succeed: without it the run would have been for nothing
        let dir = checkpoint_dir(self.folder.checkpoints(), done);
        let last = match save(&self.model, &self.state(done), &dir) {
            Ok(path) => path,
            Err(e) => match checkpoint {
                Some(earlier) => {
                    let what = format!("{e}; the newest complete checkpoint is {}", earlier.display());
                    return Err(Error::file(dir, what));
                }
                None => return Err(e),
            },
        };
        prune(self.folder.checkpoints(), self.config.train.keep_checkpoints)?;
        let interrupted = done < total;
        let mut knn = Vec::new();
        if !interrupted {
            let after = self.evaluate(done)?;
            for ((network, k, before), (_, _, after)) in before.into_iter().zip(after) {
                knn.push(KnnResult { network, k, before, after });
            }
        }
        self.log.line(&format!(
            "{done} steps done, {} skipped; {:.1} s, {:.1} s of them waiting for images; peak memory {} MiB",
            self.skipped,
            self.started.elapsed().as_secs_f64(),
            self.loader.waited().as_secs_f64(),
            self.model.device.peak_bytes() >> 20
        ))?;
        Ok(Outcome { checkpoint: last, steps: done, interrupted, knn })
    }

    /// One step. The numbers of the one before are looked at when this one's work is under way.
    fn step(&mut self, step: usize, before: Option<InFlight>) -> Result<InFlight> {
        let config = &self.config;
        let batch = self.loader.next()?;
        let masked = step >= config.ibot_start_step() && config.ibot.loss_weight > 0.0;
        let network = self.network(step)?;
        let mut rng = stream(config.train.seed, Purpose::DropPath, step as u64, 0);
        let teacher_temp = self.schedules.teacher_temp(step);
        let settings = StepSettings {
            lr: self.schedules.lr(step),
            last_layer_lr: self.schedules.last_layer_lr(step),
            weight_decay: self.schedules.weight_decay(step),
            teacher_momentum: self.schedules.teacher_momentum(step),
        };
        let record = self.model.forward_backward(
            &StepBatch {
                images: batch.images,
                global: &batch.global,
                global_size: config.crops.global_crops_size,
                local: &batch.local,
                local_size: config.crops.local_crops_size,
                masks: masked.then_some(&batch.masks[..]),
            },
            &mut StepInputs { network, teacher_temp, drop_path: Some(&mut rng) },
        )?;
        let gradients = self.model.student.gradients().expect("students are trained").clone();
        self.model.optimizer.measure(&gradients, &record.total)?;
        let control = self.model.optimizer.control().read_later()?;
        // the optimiser's bias correction counts applied steps, so the last one's outcome must be known
        self.settle(before)?;
        self.model.optimizer.update(&self.model.student, self.model.teacher.values(), settings)?;
        self.note_bad_samples()?;
        let due =
            step.is_multiple_of(self.config.train.log_every.max(1)) || step + 1 == self.config.total_steps();
        Ok(InFlight { step, control, record: due.then_some(record), network, settings, teacher_temp })
    }

    fn network(&self, step: usize) -> Result<Network> {
        match self.config.student.fixed_network.as_str() {
            "" => Ok(self.draws.network_at(step)),
            name => self.model.grid.named(name).map_err(|e| Error::config("student.fixed_network", e)),
        }
    }

    /// Looks at a step's numbers: counts it, or says that it was skipped; logs it where that is due.
    fn settle(&mut self, step: Option<InFlight>) -> Result<()> {
        let Some(s) = step else { return Ok(()) };
        let report = GradientReport::from_control(&s.control.wait()?);
        let done = s.step + 1;
        if report.finite {
            self.model.optimizer.applied += 1;
        } else {
            self.skipped += 1;
            let text = format!(
                "step {}: loss or gradients are not finite; the step is skipped (sub-network {}, learning rate {:.2e}). \
                 If this goes on, lower optim.base_lr",
                s.step, s.network, s.settings.lr
            );
            self.progress.line(&text);
            self.log.line(&text)?;
        }
        let Some(record) = s.record else {
            self.progress.step(done, None, s.settings.lr);
            return Ok(());
        };
        let losses = record.read(&self.model.settings.weights)?;
        self.progress.step(done, Some(losses.total), s.settings.lr);
        let mut values: Vec<(&str, Value)> = vec![
            ("loss", number(losses.total)),
            ("lr", number(s.settings.lr)),
            ("weight_decay", number(s.settings.weight_decay)),
            ("teacher_momentum", number(s.settings.teacher_momentum)),
            ("teacher_temp", number(s.teacher_temp)),
            ("network", json!(s.network.to_string())),
            ("skipped", json!(self.skipped)),
            ("images", json!(done * self.config.train.batch_size_per_gpu)),
        ];
        values.extend(losses.components.iter().map(|(name, v)| (name.as_str(), number(*v))));
        let layout = self.model.student.values().layout().clone();
        let names: Vec<String> = layout.modules().iter().map(|m| format!("grad_norm.{m}")).collect();
        values.extend(names.iter().zip(&report.norms).map(|(name, n)| (name.as_str(), number(*n))));
        let elapsed = self.started.elapsed().as_secs_f64();
        let time = [
            ("images_per_second", self.progress.images_per_second()),
            ("elapsed", elapsed),
            ("waited_for_images", self.loader.waited().as_secs_f64()),
        ];
        self.metrics.write(s.step, &values, &time)?;
        self.log.line(&format!(
            "step {done}/{}: loss {:.4}, lr {:.2e}, {:.1} images/s",
            self.config.total_steps(),
            losses.total,
            s.settings.lr,
            self.progress.images_per_second()
        ))
    }

    /// Names new unreadable images in the log; too many of them end the run.
    fn note_bad_samples(&mut self) -> Result<()> {
        let bad = self.loader.bad_samples();
        for sample in bad.iter().skip(self.noted_bad) {
            self.log.line(&format!("unreadable image left out: {}: {}", sample.name, sample.reason))?;
        }
        if bad.len() > self.noted_bad {
            let text = format!("{} unreadable images left out so far; {} names them", bad.len(), "train.log");
            self.progress.line(&text);
        }
        self.noted_bad = bad.len();
        if bad.len() as f64 > self.config.data.max_bad_fraction * self.images as f64 {
            return Err(Error::config(
                "data.max_bad_fraction",
                format!(
                    "{} of {} images are unreadable, more than the {} that is allowed; the run's train.log names them",
                    bad.len(),
                    self.images,
                    self.config.data.max_bad_fraction
                ),
            ));
        }
        Ok(())
    }

    fn state(&self, done: usize) -> RunState {
        RunState { step: done as u64, applied: self.model.optimizer.applied, seed: self.config.train.seed }
    }

    /// Writes a checkpoint; a failure is reported and the run goes on.
    fn save(&mut self, done: usize) -> Result<Option<PathBuf>> {
        let dir = checkpoint_dir(self.folder.checkpoints(), done);
        let saved = save(&self.model, &self.state(done), &dir).and_then(|path| {
            prune(self.folder.checkpoints(), self.config.train.keep_checkpoints).map(|()| path)
        });
        self.progress.pause_over();
        match saved {
            Ok(path) => Ok(Some(path)),
            Err(e) => {
                let text = format!("checkpoint of step {done} was not written, training goes on: {e}");
                self.progress.line(&text);
                self.log.line(&text)?;
                Ok(None)
            }
        }
    }

    /// k-NN accuracies (network, k, top-1) of the teacher's sub-networks after `done` steps.
    fn evaluate(&mut self, done: usize) -> Result<Vec<(Network, usize, f64)>> {
        let Some(e) = &self.evaluation else { return Ok(Vec::new()) };
        let ks = &self.config.evaluation.k;
        let mut all = Vec::new();
        for &network in &e.networks {
            let top1 = network_knn(
                &self.model,
                network,
                (&e.train, &e.val),
                ks,
                self.config.evaluation.temperature,
            )?;
            let text =
                ks.iter().zip(&top1).map(|(k, a)| format!("k={k} {:.1}%", 100.0 * a)).collect::<Vec<_>>();
            self.log.line(&format!("k-NN after {done} steps, {network}: {}", text.join(", ")))?;
            let names: Vec<String> = ks.iter().map(|k| format!("knn.{network}.{k}")).collect();
            let values: Vec<(&str, Value)> =
                names.iter().zip(&top1).map(|(name, a)| (name.as_str(), number(*a))).collect();
            self.metrics.write(done, &values, &[])?;
            all.extend(ks.iter().zip(top1).map(|(k, a)| (network, *k, a)));
        }
        self.progress.pause_over();
        Ok(all)
    }
}

impl Evaluation {
    fn prepare(
        config: &Config,
        model: &PoaModel,
        train: &Arc<dyn Source>,
        val: Option<&Arc<dyn Source>>,
    ) -> Result<Option<Self>> {
        let Some(val) = val.filter(|_| train.classes().len() > 1) else { return Ok(None) };
        let e = &config.evaluation;
        let mut networks = Vec::new();
        for name in &e.networks {
            let network = model.grid.named(name).map_err(|e| Error::config("evaluation.networks", e))?;
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        let size = config.crops.global_crops_size;
        Ok(Some(Self {
            train: LabelledImages::load(train, e.train_images, size)?,
            val: LabelledImages::load(val, e.val_images, size)?,
            networks,
        }))
    }
}

/// What the loader makes for a config.
pub fn loader_config(config: &Config) -> LoaderConfig {
    let c = &config.crops;
    let defaults = CropConfig::default();
    let [a, b, local] = c.blur.probabilities();
    let scale = |s: [f64; 2]| (s[0], s[1]);
    let side = c.global_crops_size / config.student.patch_size;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    LoaderConfig {
        batch: config.train.batch_size_per_gpu,
        seed: config.train.seed,
        threads: if config.train.num_workers == 0 { cores } else { config.train.num_workers },
        prefetch: PREFETCH,
        crops: CropConfig {
            global: Crop { size: c.global_crops_size, scale: scale(c.global_crops_scale) },
            local: Crop { size: c.local_crops_size, scale: scale(c.local_crops_scale) },
            local_count: c.local_crops_number,
            flip: c.flip_probability,
            jitter: c.color_jitter_probability,
            jitter_strength: c.color_jitter,
            grayscale: c.grayscale_probability,
            blur: BlurProbabilities { a, b, local },
            solarize: c.solarize_probability,
            ..defaults
        },
        masks: MaskConfig {
            side,
            probability: config.ibot.mask_sample_probability,
            ratio: scale(config.ibot.mask_ratio_min_max),
        },
        start_step: 0,
    }
}

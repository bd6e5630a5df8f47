//! POA as a task of the trainer: images in, steps of the three branches, numbers, evaluation of the teacher.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::collective::Collective;
use crate::data::bad_samples_file::BadSamplesFile;
use crate::data::unusable::{tell_new, with_list};
use crate::data::{BadSample, HeldOut, Loader, Source, split};
use crate::error::{Error, Result};
use crate::logging::Level;
use crate::optim::adamw::StepSettings;
use crate::optim::schedules::Schedules;
use crate::poa::advice::advice;
use crate::poa::ahead::Ahead;
use crate::poa::draws::{Draws, drop_path};
use crate::poa::evaluation::{Evaluation, KnnGain};
use crate::poa::health::HealthMonitor;
use crate::poa::losses::{LossReport, PendingStep, StepNumbers};
use crate::poa::model::why_single;
use crate::poa::numbers::{self, PoaStep};
use crate::poa::schedules::TeacherSchedules;
use crate::poa::settings::{Heads, Settings};
use crate::poa::{PoaModel, StepInputs};
use crate::profile;
use crate::share::{Place, Share};
use crate::tensor::{Device, Tensor};
use crate::train::reports::Reports;
use crate::train::step::{MicroBatch, Trained};
use crate::train::task::{Numbers, Started, Task};

/// A POA run: model, images, schedules, and what watches over it.
pub struct PoaTask {
    /// All tensors of the run.
    pub model: PoaModel,
    settings: Settings,
    /// The settings as text.
    config: String,
    source: Arc<dyn Source>,
    /// Images of the data set that are kept out of training.
    held_out: usize,
    loader: Option<Loader>,
    schedules: Schedules,
    teacher_schedules: TeacherSchedules,
    draws: Draws,
    share: Share,
    health: HealthMonitor,
    /// Or why there is none.
    evaluation: Result<Evaluation, String>,
    /// Of rank 0, which hears of those of the others.
    bad: Option<BadSamplesFile>,
    /// Compiles the kernels of the steps to come.
    ahead: Option<Ahead>,
}

impl PoaTask {
    /// The task of resolved settings, `config` as TOML, on the images of `source`, some of which may be held
    /// out for evaluation. `dir` is where lists of unusable images and charts go: the run's folder, which of several
    /// ranks the first has.
    pub fn new<'a>(
        settings: Settings,
        config: String,
        device: &Device,
        source: Arc<dyn Source>,
        dir: impl Into<Option<&'a Path>>,
    ) -> Result<Self> {
        Self::of_rank(&Collective::alone(), settings, config, device, source, dir)
    }

    /// The task as that of one of several ranks, which train together.
    pub fn of_rank<'a>(
        ranks: &Collective,
        settings: Settings,
        config: String,
        device: &Device,
        source: Arc<dyn Source>,
        dir: impl Into<Option<&'a Path>>,
    ) -> Result<Self> {
        let share = ranks.share();
        let dir: Option<&Path> = dir.into();
        let held_out = HeldOut { fraction: settings.data.held_out, at_most: settings.data.held_out_at_most };
        let all = source.len();
        // with images of its own to evaluate on there is no use for others
        let (source, val) = match settings.evaluation.train.is_empty() {
            true => split(source, held_out),
            false => (source, None),
        };
        let model = PoaModel::of_rank(&settings, device, settings.train.seed, (share, ranks))?;
        let chart = chart_in(dir.unwrap_or(Path::new("")));
        let evaluation = Evaluation::prepare(&settings, &model, (&source, val.as_ref()), chart)?;
        Ok(Self {
            schedules: Schedules::new(&settings.optim, &settings.length()),
            teacher_schedules: TeacherSchedules::new(&settings),
            draws: Draws::new(&settings, &model.grid, share)?,
            share,
            health: HealthMonitor::new(&settings),
            bad: dir.map(|dir| BadSamplesFile::open(&dir.join("bad_samples.txt"))).transpose()?,
            loader: None,
            ahead: None,
            held_out: all - source.len(),
            evaluation,
            source,
            model,
            settings,
            config,
        })
    }

    /// The task with the share of one of several ranks, which see other images, masks and, unless `train.network_per_rank` says
    /// otherwise, sub-networks.
    pub fn with_share(mut self, share: Share) -> Result<Self> {
        self.draws = Draws::new(&self.settings, &self.model.grid, share)?;
        self.share = share;
        Ok(self)
    }

    /// k-NN accuracies before training and after `done` steps, where there are labels.
    pub fn gains(&self, done: usize) -> Vec<KnnGain> {
        self.evaluation.as_ref().map_or_else(|_| Vec::new(), |e| e.gains(done))
    }

    /// What it is trained on, in a line.
    pub fn data(&self) -> String {
        let (source, images) = (self.source.describe(), self.source.len() + self.held_out);
        match self.held_out {
            0 => format!("{source}, {images} images"),
            held_out => format!(
                "{source}, {images} images, of which {held_out} are held out for evaluation (data.held_out)"
            ),
        }
    }

    /// Names the images that could not be used in the list of them, and in the error that ends the run for that.
    fn with_bad_samples(&mut self, e: Error, found: &[BadSample]) -> Error {
        with_list(e, found, self.bad.as_mut())
    }
}

/// Where the patch tokens have heads of their own, says how large these are if they differ from those of the class
/// tokens: whoever has made only `dino.head_*` small gets the paper's, which take most of the time of a small run.
fn separate_heads(settings: &Settings) -> Option<(Level, String)> {
    let (own, others) = (&settings.ibot.heads, &settings.dino.heads);
    if !settings.ibot.separate_head || own == others {
        return None;
    }
    let level = if *own == Heads::default() { Level::Warn } else { Level::Info };
    let sizes = |section: &str, heads: &Heads| {
        format!(
            "{section}.head_n_prototypes = {:?}, {section}.head_hidden_dim = {}, {section}.head_bottleneck_dim = {}",
            heads.head_n_prototypes, heads.head_hidden_dim, heads.head_bottleneck_dim
        )
    };
    let text = format!(
        "ibot.separate_head: the heads of patch tokens have other sizes ({}) than those of class tokens ({})",
        sizes("ibot", own),
        sizes("dino", others)
    );
    Some((level, text))
}

/// Where the chart of the evaluations goes, without an extension.
fn chart_in(dir: &Path) -> PathBuf {
    dir.join("knn")
}

impl Task for PoaTask {
    type Step = PoaStep;
    /// Where the step is reported.
    type Record = Option<PendingStep>;

    fn device(&self) -> &Device {
        &self.model.device
    }

    fn config(&self) -> Result<String> {
        Ok(self.config.clone())
    }

    fn samples(&self) -> usize {
        self.source.len()
    }

    fn samples_per_step(&self) -> usize {
        self.settings.images_per_step().saturating_mul(self.share.ranks)
    }

    fn share(&self) -> Share {
        self.share
    }

    fn place(&self, batches: u64) -> Option<Place> {
        self.loader.as_ref().map(|loader| loader.place(batches))
    }

    fn trained(&mut self) -> Trained<'_> {
        self.model.trained()
    }

    /// Centres of `centering` mode.
    fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut all = Vec::new();
        for head in &self.model.heads {
            let Some([cls, patch]) = &head.centers else { continue };
            let h = &head.projection;
            all.push((format!("center.{}.{}.cls", h.module, h.index), cls.clone()));
            all.push((format!("center.{}.{}.patch", h.module, h.index), patch.clone()));
        }
        all
    }

    fn start(&mut self, start: &Started, reports: &mut Reports) -> Result<()> {
        let precision = self.settings.step.precision;
        if let Some(why) = why_single(&self.model.device, precision) {
            let name = precision.name();
            reports.warn(&format!("train.precision is \"{name}\", and {why}: it trains in single precision"));
        }
        let (source, networks) = (&self.source, self.model.grid.entries().len());
        let images = source.len();
        reports.note(&match self.held_out {
            0 => format!("data: {}, {images} images to train on", source.describe()),
            held_out => {
                format!("data: {}, {images} images to train on, {held_out} more held out", source.describe())
            }
        });
        let parameters = self.model.student.values().layout().elements();
        let trained = match self.settings.dino.branches.draws() {
            true => format!("{networks} sub-networks"),
            false => format!("network {} alone", self.model.grid.intact()),
        };
        reports.note(&format!("{trained}; {parameters} parameters"));
        source.remarks().iter().for_each(|remark| reports.say(remark));
        if !start.resumed {
            self.bad.as_mut().map_or(Ok(()), BadSamplesFile::clear)?;
        }
        match separate_heads(&self.settings) {
            Some((Level::Warn, text)) => reports.warn(&text),
            Some((_, text)) => reports.say(&text),
            None => {}
        }
        if let Ok(evaluation) = &mut self.evaluation {
            evaluation.stopped_by(start.wish);
        }
        let images = self.evaluation.as_ref().map_or("none", Evaluation::images);
        self.model.ranks.agree(&[("the checksum of the images to evaluate on", images.to_string())])?;
        match &mut self.evaluation {
            Ok(evaluation) => {
                evaluation.remarks().iter().for_each(|remark| reports.say(remark));
                if start.resumed {
                    start.folder.iter().for_each(|folder| evaluation.resume(&folder.metrics()));
                }
            }
            Err(why) => reports.say(why),
        }
        let (images, batch, ranks) =
            (self.source.len(), self.settings.loading.batch_size_per_gpu, self.share.ranks);
        if !start.resumed {
            advice(&self.settings, Some(images), ranks).iter().for_each(|text| reports.warn(text));
        }
        if batch.saturating_mul(ranks) > images {
            let on = if ranks == 1 { String::new() } else { format!(" on each of {ranks} ranks") };
            reports.warn(&format!(
                "train.batch_size_per_gpu is {batch}{on}, and there are {images} images to train on: a batch has the \
                 same image more than once"
            ));
        }
        if let Some(text) = start.on_other_ranks(ranks) {
            reports.say(&text);
        }
        let config = self.settings.loading.of_rank(self.settings.loader()?, start, self.share);
        let mut loader = Loader::new(self.source.clone(), config)?;
        loader.stopped_by(start.stop);
        self.loader = Some(loader);
        self.ahead = Ahead::start(&self.settings, &self.model.device, self.share, start.step);
        Ok(())
    }

    fn step(&mut self, step: usize) -> Result<PoaStep> {
        Ok(PoaStep { step, network: self.draws.at(step), teacher_temp: self.teacher_schedules.temp(step) })
    }

    fn settings(&self, PoaStep { step, .. }: &PoaStep) -> StepSettings {
        StepSettings {
            lr: self.schedules.lr(*step),
            last_layer_lr: self.schedules.last_layer_lr(*step),
            weight_decay: self.schedules.weight_decay(*step),
            teacher_momentum: self.teacher_schedules.momentum(*step),
        }
    }

    fn forward_backward(
        &mut self,
        s: &PoaStep,
        batch: MicroBatch,
        due: bool,
    ) -> Result<(Tensor, Option<PendingStep>)> {
        let images = {
            let _phase = profile::phase("wait for images");
            let loader = self.loader.as_mut().expect("the run has started");
            match loader.next() {
                Ok(images) => images,
                Err(e) => {
                    let found = loader.take_bad_samples();
                    return Err(self.with_bad_samples(e, &found));
                }
            }
        };
        let settings = &self.settings;
        let masked = s.step >= settings.ibot_start_step() && settings.ibot.loss_weight > 0.0;
        let mut rng = drop_path(settings, self.share, s.step, batch.index);
        let health = due && batch.index == 0;
        let inputs = StepInputs { share: batch.share, health, ..StepInputs::new(s.network, s.teacher_temp) };
        let images = if masked { images } else { images.without_masks() };
        let record = self.model.forward_backward(&images, &mut inputs.with_drop_path(&mut rng))?;
        let numbers = due.then(|| record.read_later()).transpose()?;
        Ok((record.total, numbers))
    }

    fn numbers(&mut self, s: &PoaStep, records: Vec<Option<PendingStep>>) -> Result<Numbers> {
        let weights = &self.model.settings.weights;
        let all = records.into_iter().flatten().map(PendingStep::wait).collect::<Result<Vec<_>>>()?;
        let losses: Vec<LossReport> = all.iter().map(|numbers| numbers.losses(weights)).collect();
        let losses = LossReport::mean(&LossReport::of_all_ranks(losses, &self.model.ranks)?);
        let health = all.first().and_then(StepNumbers::health);
        let epoch = ((s.step + 1) * self.samples_per_step()) as f64 / self.samples() as f64;
        let effective_epoch = epoch * self.settings.crops.effective_epochs_per_epoch();
        let warnings = self.health.judge(s.step, losses.total, health.as_ref());
        let values = numbers::values(s, effective_epoch, &losses, health.as_ref());
        Ok(Numbers { loss: losses.total, values, warnings })
    }

    fn learning_rate_key(&self) -> &'static str {
        let follows = self.settings.optim.scaled_lr(self.samples_per_step());
        if self.settings.optim.lr == follows { "optim.base_lr" } else { "optim.lr" }
    }

    fn describe(&self, s: &PoaStep) -> Option<String> {
        Some(format!("sub-network {}", s.network))
    }

    fn evaluate(&mut self, done: usize, reports: &mut Reports) -> Result<bool> {
        let Ok(evaluation) = &mut self.evaluation else { return Ok(false) };
        match evaluation.run(&self.model, done, reports) {
            Ok(()) => Ok(true),
            Err(e) => {
                let found = evaluation.bad_samples();
                Err(self.with_bad_samples(e, &found))
            }
        }
    }

    /// Names new unusable images; too many of them end the run.
    fn after_step(&mut self, reports: &mut Reports) -> Result<()> {
        let found = self.loader.as_mut().map_or_else(Vec::new, Loader::take_bad_samples);
        let of = (self.source.len(), self.settings.data.max_bad_fraction);
        tell_new(found, &self.model.ranks, self.bad.as_mut(), of, reports)
    }

    fn folder_moved(&mut self, dir: &Path) {
        self.bad.iter_mut().for_each(|bad| bad.move_to(dir));
        if let Ok(evaluation) = &mut self.evaluation {
            evaluation.draw_to(chart_in(dir));
        }
    }

    fn waited(&self) -> Duration {
        self.loader.as_ref().map_or(Duration::ZERO, Loader::waited)
    }

    fn clock_numbers(&self) -> Vec<(&'static str, f64)> {
        // how far ahead the loader is depends on the clock
        vec![("bad_samples", self.bad.as_ref().map_or(0, BadSamplesFile::len) as f64)]
    }
}

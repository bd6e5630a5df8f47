//! Distillation as a task of the trainer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::collective::Collective;
use crate::data::bad_samples_file::BadSamplesFile;
use crate::data::batch::{GLOBAL, LOCAL};
use crate::data::unusable::{tell_new, with_list};
use crate::data::{HeldOut, Loader, Source, split};
use crate::error::{Error, Result};
use crate::models::backbone::CropBatch;
use crate::optim::adamw::StepSettings;
use crate::optim::schedules::Cosine;
use crate::profile;
use crate::rng::{Purpose, stream};
use crate::share::{Place, Share};
use crate::tasks::distill::evaluation::Evaluation;
use crate::tasks::distill::{DistillModel, FrozenTeacher, Settings};
use crate::tensor::{Device, PendingRead, Tensor};
use crate::train::reports::Reports;
use crate::train::step::{MicroBatch, Trained};
use crate::train::task::{Numbers, Started, Task};

/// A run that distils.
pub struct DistillTask {
    /// Student, teacher, queues, optimiser.
    pub model: DistillModel,
    settings: Settings,
    /// The settings as text.
    config: String,
    source: Arc<dyn Source>,
    /// Images that are kept out of training.
    held_out: usize,
    schedule: Cosine,
    loader: Option<Loader>,
    ranks: Collective,
    /// Where lists and charts go; of rank 0.
    dir: Option<PathBuf>,
    bad: Option<BadSamplesFile>,
    /// Or why there is none.
    evaluation: Result<Evaluation, String>,
}

/// Divides images into those to train on and those that are held out to evaluate on, as settings ask for.
fn parts(settings: &Settings, source: Arc<dyn Source>) -> (Arc<dyn Source>, Option<Arc<dyn Source>>) {
    let held_out = HeldOut { fraction: settings.data.held_out, at_most: settings.data.held_out_at_most };
    // with images of its own to evaluate on there is no use for others
    match settings.evaluation.train.is_empty() {
        true => split(source, held_out),
        false => (source, None),
    }
}

impl DistillTask {
    /// The task of one of several ranks, of settings (`config` as TOML) and a teacher, on the images of `source`, some of
    /// which may be held out to evaluate on. `dir` is the run's folder, which the first rank has.
    pub fn new(
        ranks: &Collective,
        (settings, config): (Settings, String),
        device: &Device,
        teacher: FrozenTeacher,
        source: Arc<dyn Source>,
        dir: Option<&Path>,
    ) -> Result<Self> {
        let all = source.len();
        let (source, val) = parts(&settings, source);
        let model = DistillModel::new(&settings, teacher, device)?;
        let steps = settings.plan(source.len(), ranks.size()).steps;
        Ok(Self {
            schedule: settings.schedule(steps, ranks.size()),
            evaluation: Evaluation::prepare(&settings, &source, val.as_ref())?,
            bad: dir.map(|dir| BadSamplesFile::open(&dir.join("bad_samples.txt"))).transpose()?,
            dir: dir.map(Path::to_path_buf),
            ranks: ranks.clone(),
            held_out: all - source.len(),
            loader: None,
            source,
            model,
            settings,
            config,
        })
    }

    /// The student's k-NN accuracies so far: steps done, `knn.NETWORK.K`, top-1 (0..1).
    pub fn found(&self) -> &[(usize, String, f64)] {
        self.evaluation.as_ref().map_or(&[], Evaluation::found)
    }

    /// The crops of a micro-batch on the device, and how many images they are of.
    fn next_batch(&mut self) -> Result<(Vec<CropBatch>, usize)> {
        let _phase = profile::phase("wait for images");
        let loader = self.loader.as_mut().ok_or_else(|| Error::Usage("the run has not started".into()))?;
        let batch = match loader.next() {
            Ok(batch) => batch,
            Err(e) => {
                let found = loader.take_bad_samples();
                return Err(with_list(e, &found, self.bad.as_mut()));
            }
        };
        let groups = std::iter::once(batch.group(GLOBAL)?).chain(batch.find(LOCAL));
        Ok((CropBatch::upload(&self.model.device, groups)?, batch.images()))
    }
}

impl Task for DistillTask {
    /// Its number.
    type Step = usize;
    /// The loss of a micro-batch, where the step is reported.
    type Record = Option<PendingRead>;

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
        self.settings.images_per_step(self.ranks.size())
    }

    fn share(&self) -> Share {
        self.ranks.share()
    }

    fn place(&self, batches: u64) -> Option<Place> {
        self.loader.as_ref().map(|loader| loader.place(batches))
    }

    fn trained(&mut self) -> Trained<'_> {
        self.model.trained()
    }

    /// The queues.
    fn tensors(&self) -> Vec<(String, Tensor)> {
        let named = self.model.queues.iter().zip([GLOBAL, LOCAL]);
        let of = |(queue, name): (&super::Queue, &str)| {
            [
                (format!("queue.{name}"), queue.entries.clone()),
                (format!("queue_next.{name}"), queue.next.clone()),
            ]
        };
        named.flat_map(of).collect()
    }

    fn start(&mut self, start: &Started, reports: &mut Reports) -> Result<()> {
        let (images, source) = (self.source.len(), self.source.describe());
        reports.note(&match self.held_out {
            0 => format!("data: {source}, {images} images to train on"),
            held_out => format!("data: {source}, {images} images to train on, {held_out} more held out"),
        });
        let count = |parameters: &crate::nn::parameters::Parameters| parameters.values().layout().elements();
        reports.note(&format!(
            "student {}, {} parameters with its head; teacher {}, {} parameters; a queue of {} embeddings of {} channels",
            self.model.network,
            count(&self.model.parameters),
            self.model.teacher.network,
            count(&self.model.teacher.parameters),
            self.settings.distill.queue,
            self.model.teacher.width()
        ));
        self.source.remarks().iter().for_each(|remark| reports.say(remark));
        let (step, ranks) = (self.samples_per_step(), self.ranks.size());
        if step > images {
            reports.warn(&format!(
                "a step has {step} images, and there are {images} to learn from: it has the same image more than once"
            ));
        }
        if self.settings.distill.queue > images {
            reports.warn(&format!(
                "distill.queue is {}, and there are {images} images: it holds the same image more than once",
                self.settings.distill.queue
            ));
        }
        if let Some(text) = start.on_other_ranks(ranks) {
            reports.say(&format!("{text}; its rate and its end follow the images of a step"));
        }
        if !start.resumed {
            self.bad.as_mut().map_or(Ok(()), BadSamplesFile::clear)?;
        }
        match &mut self.evaluation {
            Ok(evaluation) => {
                evaluation.stopped_by(start.wish);
                if let Some(folder) = start.folder.filter(|_| start.resumed) {
                    evaluation.resume(&folder.metrics());
                }
            }
            Err(why) => reports.say(why),
        }
        let images = self.evaluation.as_ref().map_or_else(|_| "none".into(), Evaluation::images);
        self.ranks.agree(&[("the checksum of the images to evaluate on", images)])?;
        let config = self.settings.train.loading.of_rank(self.settings.loader()?, start, self.share());
        let mut loader = Loader::new(self.source.clone(), config)?;
        loader.stopped_by(start.stop);
        self.loader = Some(loader);
        Ok(())
    }

    fn step(&mut self, step: usize) -> Result<usize> {
        Ok(step)
    }

    fn settings(&self, step: &usize) -> StepSettings {
        let lr = self.schedule.at(*step);
        StepSettings {
            lr,
            last_layer_lr: lr,
            weight_decay: self.settings.distill.weight_decay,
            teacher_momentum: self.settings.distill.ema,
        }
    }

    fn forward_backward(
        &mut self,
        step: &usize,
        batch: MicroBatch,
        due: bool,
    ) -> Result<(Tensor, Option<PendingRead>)> {
        let (crops, images) = self.next_batch()?;
        let number = self.ranks.share().number(self.settings.train.accumulation_steps, batch.index);
        let mut rng = stream(self.settings.train.seed, Purpose::DropPath, *step as u64, number as u64);
        let drop_path = (self.settings.distill.drop_path > 0.0).then_some(&mut rng);
        let loss = self.model.forward_backward(&crops, images, batch.share, drop_path, &self.ranks)?;
        let record = due.then(|| loss.read_later()).transpose()?;
        Ok((loss, record))
    }

    fn numbers(&mut self, _: &usize, records: Vec<Option<PendingRead>>) -> Result<Numbers> {
        let own = records.into_iter().flatten().map(|record| Ok(f64::from(record.wait()?[0])));
        let own = own.collect::<Result<Vec<_>>>()?;
        let all: Vec<f64> = self.ranks.tell(own)?.concat();
        let loss = all.iter().sum::<f64>() / all.len().max(1) as f64;
        Ok(Numbers { loss, values: Vec::new(), warnings: Vec::new() })
    }

    fn learning_rate_key(&self) -> &'static str {
        "distill.lr"
    }

    fn evaluate(&mut self, done: usize, reports: &mut Reports) -> Result<bool> {
        let Ok(evaluation) = &mut self.evaluation else { return Ok(false) };
        evaluation.run(&self.model, &self.ranks, done, self.dir.as_deref(), reports)?;
        Ok(true)
    }

    fn after_step(&mut self, reports: &mut Reports) -> Result<()> {
        let found = self.loader.as_mut().map_or_else(Vec::new, Loader::take_bad_samples);
        let of = (self.source.len(), self.settings.data.max_bad_fraction);
        tell_new(found, &self.ranks, self.bad.as_mut(), of, reports)
    }

    fn folder_moved(&mut self, dir: &Path) {
        self.bad.iter_mut().for_each(|bad| bad.move_to(dir));
        self.dir = Some(dir.to_path_buf());
    }

    fn waited(&self) -> Duration {
        self.loader.as_ref().map_or(Duration::ZERO, Loader::waited)
    }

    fn clock_numbers(&self) -> Vec<(&'static str, f64)> {
        vec![("bad_samples", self.bad.as_ref().map_or(0, BadSamplesFile::len) as f64)]
    }
}

//! Fine-tuning as a task of the trainer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::autograd::Tape;
use crate::collective::Collective;
use crate::data::Loader;
use crate::data::bad_samples_file::BadSamplesFile;
use crate::data::batch::WHOLE;
use crate::data::classify::{Mix, partners};
use crate::data::recipe::BatchNumber;
use crate::data::unusable::{tell_left_out, tell_new, with_list};
use crate::error::{Error, Result};
use crate::eval::classification::Classification;
use crate::models::backbone::OnDevice;
use crate::models::plain::Format;
use crate::ops::reduce::column_sum;
use crate::ops::soft_cross_entropy::{MixedLabels, soft_cross_entropy};
use crate::optim::adamw::StepSettings;
use crate::optim::schedules::Cosine;
use crate::profile;
use crate::rng::{Purpose, stream};
use crate::share::{Place, Share};
use crate::shown::shown;
use crate::tasks::finetune::evaluation::{Accuracy, BEST, Best, judge, write_best};
use crate::tasks::finetune::{FinetuneData, FinetuneModel, Settings};
use crate::tensor::{DType, Device, PendingRead, Tensor};
use crate::train::metrics::{history, number};
use crate::train::reports::Reports;
use crate::train::run_folder::RunFolder;
use crate::train::step::{MicroBatch, Trained};
use crate::train::task::{Numbers, Started, Task};

/// A run that fine-tunes.
pub struct FinetuneTask {
    /// Network, classifier, optimiser.
    pub model: FinetuneModel,
    settings: Settings,
    /// The settings as text.
    config: String,
    data: FinetuneData,
    schedule: Cosine,
    loader: Option<Loader>,
    ranks: Collective,
    /// Where lists, tables and the best network go; of rank 0.
    dir: Option<PathBuf>,
    bad: Option<BadSamplesFile>,
    /// By step, of this run and what it goes on from.
    judged: Vec<(usize, Accuracy)>,
    /// The best network that was written, and its format where this process has written it; of rank 0.
    best: Option<Best>,
    format: Option<Format>,
    /// Images to be judged by that could not be used, when that was last said.
    told_bad: usize,
    /// The last look at the images to be judged by.
    last: Option<Classification>,
}

impl FinetuneTask {
    /// The task of one of several ranks, of settings (`config` as TOML) on these images, `steps` steps long. `dir` is the
    /// run's folder, which the first rank has.
    pub fn new(
        ranks: &Collective,
        (settings, config): (Settings, String),
        device: &Device,
        data: FinetuneData,
        steps: usize,
        dir: Option<&Path>,
    ) -> Result<Self> {
        let model = FinetuneModel::new(&settings, data.train.classes().len(), device)?;
        Ok(Self {
            schedule: settings.schedule(steps, ranks.size()),
            bad: dir.map(|dir| BadSamplesFile::open(&dir.join("bad_samples.txt"))).transpose()?,
            dir: dir.map(Path::to_path_buf),
            ranks: ranks.clone(),
            loader: None,
            judged: Vec::new(),
            best: None,
            format: None,
            told_bad: 0,
            last: None,
            model,
            settings,
            config,
            data,
        })
    }

    /// What it was judged to be, by the number of steps done.
    pub fn judged(&self) -> &[(usize, Accuracy)] {
        &self.judged
    }

    /// The last look at the images to be judged by, where there was one.
    pub fn last(&self) -> Option<&Classification> {
        self.last.as_ref()
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        self.data.train.classes()
    }

    /// The format that the best network was written in by this process, if it was.
    pub fn written(&self) -> Option<Format> {
        self.format
    }

    /// Takes up what an earlier process has judged. Other classes than it had are an error; where the images to be judged by
    /// are others, what was found on them does not count.
    fn take_up(&mut self, folder: &RunFolder, reports: &mut Reports) -> Result<()> {
        let Some(best) = Best::read(folder.dir()) else { return Ok(()) };
        let classes = self.data.train.classes();
        if best.classes != classes {
            let differs = best.classes.iter().zip(classes).find(|(before, now)| before != now);
            let which = differs.map_or_else(String::new, |(before, now)| {
                format!(", `{}` where `{}` is now", shown(before), shown(now))
            });
            return Err(Error::file(
                self.data.train.describe(),
                format!(
                    "has {} classes, and the run was begun with {}{which}: its classifier means those; give the same data, \
                     or start a run of its own",
                    classes.len(),
                    best.classes.len()
                ),
            ));
        }
        if best.images != self.data.val.checksum() {
            reports.say(
                "the images to be judged by are others than before: what was found on those does not count",
            );
            return Ok(());
        }
        let all = history(folder.metrics(), "eval.");
        for (step, _, top1) in all.iter().filter(|(_, name, _)| name == "eval.top1") {
            let top5 = all.iter().find(|(at, name, _)| at == step && name == "eval.top5");
            let top5 = top5.map_or(*top1, |(_, _, value)| *value);
            self.judged.push((*step, Accuracy { top1: *top1, top5 }));
        }
        self.best = Some(best);
        Ok(())
    }

    /// The micro-batch's images on the device, mixed, with their labels and those of the images mixed in.
    fn next_batch(&mut self) -> Result<(Tensor, [Tensor; 2], Mix)> {
        let _phase = profile::phase("wait for images");
        let loader = self.loader.as_mut().ok_or_else(|| Error::Usage("the run has not started".into()))?;
        let batch = match loader.next() {
            Ok(batch) => batch,
            Err(e) => {
                let found = loader.take_bad_samples();
                return Err(with_list(e, &found, self.bad.as_mut()));
            }
        };
        let group = batch.group(WHOLE)?;
        let labels = batch.labels().ok_or_else(|| Error::shape("finetune", "images without labels"))?;
        let device = &self.model.device;
        let images = OnDevice::new(device, group)?.upload(0..group.crops())?;
        let upload = |classes: &[u32]| Tensor::from_slice(device, &[classes.len()], classes);
        let labels = [upload(labels)?, upload(&partners(labels))?];
        let at = BatchNumber { seed: self.settings.train.seed, step: batch.step(), rank: self.ranks.rank() };
        let mix = Mix::draw(&self.settings.augment.mixing, at, group.size);
        Ok((mix.apply(images.normalised()?)?, labels, mix))
    }
}

impl Task for FinetuneTask {
    /// Its number.
    type Step = usize;
    /// The mean loss of a micro-batch, where the step is reported.
    type Record = Option<PendingRead>;

    fn device(&self) -> &Device {
        &self.model.device
    }

    fn config(&self) -> Result<String> {
        Ok(self.config.clone())
    }

    fn samples(&self) -> usize {
        self.data.train.len()
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

    fn start(&mut self, start: &Started, reports: &mut Reports) -> Result<()> {
        let (images, classes) = (self.data.train.len(), self.classes().len());
        let parameters = self.model.parameters.values().layout().elements();
        reports.note(&format!(
            "data: {}, {images} images of {classes} classes; {}, {} images to be judged by",
            self.data.train.describe(),
            self.data.val.describe(),
            self.data.val.len()
        ));
        reports.note(&format!("network {}; {parameters} parameters with the classifier", self.model.network));
        for remark in &self.data.remarks {
            reports.say(remark);
        }
        let (step, ranks) = (self.samples_per_step(), self.ranks.size());
        if step > images {
            reports.warn(&format!(
                "a step has {step} images, and there are {images} to learn from: it has the same image more than once"
            ));
        }
        if let Some(text) = start.on_other_ranks(ranks) {
            reports.say(&format!("{text}; its rate and its end follow the images of a step"));
        }
        if !start.resumed {
            self.bad.as_mut().map_or(Ok(()), BadSamplesFile::clear)?;
        }
        if let Some(folder) = start.folder.filter(|_| start.resumed) {
            self.take_up(folder, reports)?;
        }
        self.data.val.stopped_by(start.wish);
        let config = self.settings.train.loading.of_rank(self.settings.loader()?, start, self.share());
        let mut loader = Loader::new(self.data.train.clone(), config)?;
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
            weight_decay: self.settings.finetune.weight_decay,
            teacher_momentum: self.settings.finetune.ema,
        }
    }

    fn forward_backward(
        &mut self,
        step: &usize,
        batch: MicroBatch,
        due: bool,
    ) -> Result<(Tensor, Option<PendingRead>)> {
        let (images, [own, mixed_in], mix) = self.next_batch()?;
        let count = images.dim(0);
        let number = self.ranks.share().number(self.settings.train.accumulation_steps, batch.index);
        let mut rng = stream(self.settings.train.seed, Purpose::DropPath, *step as u64, number as u64);
        let drop_path = (self.settings.finetune.drop_path > 0.0).then_some(&mut rng);
        let tape = Tape::new();
        let logits = {
            let _phase = profile::phase("forward");
            self.model.logits(&tape, &images, drop_path)?
        };
        let labels = MixedLabels {
            a: &own,
            b: &mixed_in,
            lambda: mix.lambda,
            smoothing: self.settings.augment.mixing.label_smoothing as f32,
        };
        // the losses by row; the gradient takes the logits' place
        let losses = soft_cross_entropy(logits.value(), &labels, (batch.share / count as f64) as f32)?;
        let loss = Tensor::empty(&self.model.device, &[1], DType::F32)?;
        column_sum(&losses, &loss, 1.0 / count as f32, false)?;
        {
            let _phase = profile::phase("backward");
            tape.backward(vec![(&logits, logits.value().clone())])?;
        }
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
        "finetune.lr"
    }

    fn evaluate(&mut self, done: usize, reports: &mut Reports) -> Result<bool> {
        let found = judge(&self.model, &self.data.val, &self.ranks)?;
        let accuracy = Accuracy { top1: found.top1().unwrap_or(0.0), top5: found.top5().unwrap_or(0.0) };
        let of = (self.data.val.len(), self.settings.data.data.max_bad_fraction);
        tell_left_out(&self.data.val.bad_samples(), &mut self.told_bad, of, reports)?;
        self.judged.retain(|(step, _)| *step != done);
        self.judged.push((done, accuracy));
        let values = [
            ("eval.top1".to_string(), number(accuracy.top1)),
            ("eval.top5".to_string(), number(accuracy.top5)),
        ];
        reports.values(done, &values, &[]);
        reports.say(&format!(
            "after {done} steps: top-1 {:.2}%, top-5 {:.2}% of {} images",
            100.0 * accuracy.top1,
            100.0 * accuracy.top5,
            found.images()
        ));
        let better = self.best.as_ref().is_none_or(|best| accuracy.top1 > best.top1);
        if let Some(dir) = self.dir.clone().filter(|_| better) {
            let classes = self.data.train.classes().to_vec();
            let best = Best { images: self.data.val.checksum(), step: done, top1: accuracy.top1, classes };
            let written = write_best(&self.model, &self.settings, &best.classes, &dir);
            // what cannot be written is told, does not count, and does not end the training
            match written.and_then(|format| best.write(&dir).map(|()| format)) {
                Ok(format) => {
                    (self.best, self.format) = (Some(best), Some(format));
                    reports.note(&format!("the best so far is in {}", shown(&dir.join(BEST))));
                }
                Err(e) => reports.warn(&format!("the best network so far is not written: {e}")),
            }
        }
        self.last = Some(found);
        Ok(true)
    }

    fn after_step(&mut self, reports: &mut Reports) -> Result<()> {
        let found = self.loader.as_mut().map_or_else(Vec::new, Loader::take_bad_samples);
        let of = (self.data.train.len(), self.settings.data.data.max_bad_fraction);
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

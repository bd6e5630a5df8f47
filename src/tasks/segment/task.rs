//! Segmentation as a task of the trainer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::autograd::{Tape, Var};
use crate::collective::Collective;
use crate::data::bad_samples_file::BadSamplesFile;
use crate::data::batch::{Masks, WHOLE};
use crate::data::pixels::IGNORED;
use crate::data::unusable::{tell_left_out, tell_new, with_list};
use crate::data::{BadSample, Loader};
use crate::error::{Error, Interruption, Result};
use crate::eval::ahead::ahead;
use crate::eval::segmentation::Confusion;
use crate::models::backbone::OnDevice;
use crate::models::plain::Format;
use crate::ops::label_cross_entropy;
use crate::optim::adamw::StepSettings;
use crate::profile;
use crate::rng::{Purpose, stream};
use crate::share::{Place, Share};
use crate::shown::shown;
use crate::stop::Stop;
use crate::tasks::segment::heads::{Factors, Mode, dropout_factors};
use crate::tasks::segment::judging::{Prepared, Windows, predict};
use crate::tasks::segment::loss::pixel_loss;
use crate::tasks::segment::results::{BEST, Best, Quality, picture, write_best, write_table};
use crate::tasks::segment::{SegmentData, SegmentModel, Settings};
use crate::tensor::{Device, PendingRead, Tensor, add_scaled};
use crate::train::metrics::{history, number};
use crate::train::reports::Reports;
use crate::train::run_folder::RunFolder;
use crate::train::step::{MicroBatch, Trained};
use crate::train::task::{Numbers, Started, Task};

/// The folder of pictures of what is predicted, in a run's.
const PICTURES: &str = "predictions";
/// Images that are decoded ahead of the device when it judges.
const AHEAD: usize = 2;

/// A run that learns to segment.
pub struct SegmentTask {
    /// Network, head, optimiser.
    pub model: SegmentModel,
    settings: Settings,
    /// The settings as text.
    config: String,
    data: SegmentData,
    /// Steps of the run.
    steps: usize,
    loader: Option<Loader>,
    ranks: Collective,
    /// Where lists, tables, pictures and the best model go; of rank 0.
    dir: Option<PathBuf>,
    bad: Option<BadSamplesFile>,
    /// By step, of this run and what it goes on from.
    judged: Vec<(usize, Quality)>,
    /// The best model that was written, and its network's format where this process has written it; of rank 0.
    best: Option<Best>,
    format: Option<Format>,
    /// Unusable images to be judged by, when that was last said.
    told_bad: usize,
    wish: Stop,
}

impl SegmentTask {
    /// The task of one of several ranks, of settings (`config` as TOML) on these images, `steps` steps long. `dir` is the
    /// run's folder, which the first rank has.
    pub fn new(
        ranks: &Collective,
        (settings, config): (Settings, String),
        device: &Device,
        data: SegmentData,
        steps: usize,
        dir: Option<&Path>,
    ) -> Result<Self> {
        let model = SegmentModel::new(&settings, data.train.classes().len(), device)?;
        Ok(Self {
            bad: dir.map(|dir| BadSamplesFile::open(&dir.join("bad_samples.txt"))).transpose()?,
            dir: dir.map(Path::to_path_buf),
            ranks: ranks.clone(),
            loader: None,
            judged: Vec::new(),
            best: None,
            format: None,
            told_bad: 0,
            wish: Stop::new(),
            steps,
            model,
            settings,
            config,
            data,
        })
    }

    /// What it was judged to be, by the number of steps done.
    pub fn judged(&self) -> &[(usize, Quality)] {
        &self.judged
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
            return Err(Error::file(
                self.data.train.describe(),
                format!(
                    "has other classes ({}) than the run was begun with ({}): its head means those; give the same data, or \
                     start a run of its own",
                    classes.len(),
                    best.classes.len()
                ),
            ));
        }
        if best.images != self.data.checksum() {
            reports.say(
                "the images to be judged by are others than before: what was found on those does not count",
            );
            return Ok(());
        }
        let all = history(folder.metrics(), "eval.");
        let find = |step: usize, name: &str| {
            all.iter().find(|(at, key, _)| *at == step && key == name).map_or(0.0, |(_, _, value)| *value)
        };
        for (step, _, miou) in all.iter().filter(|(_, name, _)| name == "eval.miou") {
            let quality =
                Quality { miou: *miou, macc: find(*step, "eval.macc"), aacc: find(*step, "eval.aacc") };
            self.judged.push((*step, quality));
        }
        self.best = Some(best);
        Ok(())
    }

    /// The micro-batch's images on the device, with the class of every pixel.
    fn next_batch(&mut self) -> Result<(Tensor, Tensor)> {
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
        let Some(Masks { values, .. }) = &group.masks else {
            return Err(Error::shape("segment", "images without masks"));
        };
        let of =
            |class: &u8| if *class == IGNORED { label_cross_entropy::IGNORED } else { u32::from(*class) };
        let labels: Vec<u32> = values.iter().map(of).collect();
        let device = &self.model.device;
        let images = OnDevice::new(device, group)?.upload(0..group.crops())?;
        let labels = Tensor::from_slice(device, &[labels.len()], &labels)?;
        Ok((images.normalised()?, labels))
    }

    /// What the model makes of the images to be judged by, of all ranks; of those that a picture shows also what it is.
    fn judge(&self) -> Result<(Confusion, Vec<BadSample>)> {
        let (ranks, classes) = (&self.ranks, self.model.classes);
        let Share { rank, ranks: count } = ranks.share();
        let how = Windows {
            size: self.settings.segment.crop_size,
            stride: self.settings.segment.stride,
            sides: self.settings.sides(),
            at_once: self.settings.train.loading.batch_size_per_gpu,
        };
        let (by, len) = (self.settings.normalization()?, self.data.val.len());
        let rounds = len.div_ceil(count);
        let (source, sides) = (self.data.val.clone(), how.sides);
        let load = move |round: usize| {
            let i = round * count + rank;
            (i < len).then(|| source.load(i).map(|image| Prepared::new(image, sides)))
        };
        let (mut found, mut bad, mut round) = (Confusion::new(classes), Vec::new(), 0);
        // a rank must not leave alone: what all know ends it
        let stop = if ranks.is_alone() { self.wish.clone() } else { Stop::new() };
        ahead((rounds, AHEAD), &stop, &self.data.val.describe(), load, |image| {
            self.all_go_on()?;
            match image {
                Some(Ok(image)) => {
                    let predicted = predict(&self.model, &image, &how, &by)?;
                    found.count(&image.classes, &predicted);
                    self.draw(round, round * count + rank, &image, &predicted);
                }
                Some(Err(fault)) => bad.push(fault),
                None => {}
            }
            round += 1;
            Ok(())
        })?;
        let mut all = Confusion::new(classes);
        for counts in ranks.tell(found.counts().to_vec())? {
            all.add(&counts);
        }
        Ok((all, BadSample::of_all_ranks(bad, ranks)?))
    }

    /// An error on all ranks where one wishes to end.
    fn all_go_on(&self) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        let wish = self.wish.asked().and_then(|why| Interruption::ALL.iter().position(|one| *one == why));
        match self.ranks.tell(wish)?.into_iter().flatten().next() {
            Some(why) => Err(Error::Interrupted(Interruption::ALL[why])),
            None => Ok(()),
        }
    }

    /// A picture of one of the first images of this rank; one that cannot be written is told.
    fn draw(&self, round: usize, i: usize, image: &Prepared, predicted: &[u32]) {
        let Some(dir) = self.dir.as_ref().filter(|_| round < self.settings.segment.pictures) else { return };
        let dir = dir.join(PICTURES);
        let path = dir.join(format!("{i:04}.png"));
        let written = std::fs::create_dir_all(&dir).map_err(|e| e.to_string()).and_then(|()| {
            picture(&image.image, &image.classes, predicted).save(&path).map_err(|e| e.to_string())
        });
        if let Err(e) = written {
            crate::logging::warn(format_args!("{}: a picture cannot be written: {e}", shown(&path)));
        }
    }

    /// The factors of the head's dropouts for a micro-batch of so many images; none without dropout.
    fn dropout(&self, step: usize, batch: &MicroBatch, images: usize) -> Result<Vec<Factors>> {
        let rate = self.settings.segment.dropout;
        if rate == 0.0 {
            return Ok(Vec::new());
        }
        let number = self.ranks.share().number(self.settings.train.accumulation_steps, batch.index);
        let mut rng = stream(self.settings.train.seed, Purpose::Dropout, step as u64, number as u64);
        let of = |channels: usize| dropout_factors(&self.model.device, images, channels, rate, &mut rng);
        self.model.head.dropouts().into_iter().map(of).collect()
    }
}

impl Task for SegmentTask {
    /// Its number.
    type Step = usize;
    /// The losses of a micro-batch, the whole and the head's own, where the step is reported.
    type Record = Option<[PendingRead; 2]>;

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

    fn tensors(&self) -> Vec<(String, Tensor)> {
        self.model.running.all().map(|(name, tensor)| (format!("running.{name}"), tensor.clone())).collect()
    }

    fn start(&mut self, start: &Started, reports: &mut Reports) -> Result<()> {
        let (train, val) = (&self.data.train, &self.data.val);
        let parameters = self.model.parameters.values().layout().elements();
        reports.note(&format!(
            "data: {}, {} images with masks of {} classes; {}, {} images to be judged by",
            train.describe(),
            train.len(),
            self.model.classes,
            val.describe(),
            val.len()
        ));
        reports.note(&format!("network {}; {parameters} parameters with the head", self.model.network));
        for remark in &self.data.remarks {
            reports.say(remark);
        }
        if let Some(text) = start.on_other_ranks(self.ranks.size()) {
            reports.say(&text);
        }
        if !start.resumed {
            self.bad.as_mut().map_or(Ok(()), BadSamplesFile::clear)?;
        }
        if let Some(folder) = start.folder.filter(|_| start.resumed) {
            self.take_up(folder, reports)?;
        }
        self.wish = start.wish.clone();
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
        let lr = self.settings.lr(*step, self.steps);
        StepSettings {
            lr,
            last_layer_lr: lr,
            weight_decay: self.settings.segment.weight_decay,
            teacher_momentum: 0.0,
        }
    }

    fn forward_backward(
        &mut self,
        step: &usize,
        batch: MicroBatch,
        due: bool,
    ) -> Result<(Tensor, Option<[PendingRead; 2]>)> {
        let (images, labels) = self.next_batch()?;
        let factors = self.dropout(*step, &batch, images.dim(0))?;
        let number = self.ranks.share().number(self.settings.train.accumulation_steps, batch.index);
        let mut rng = stream(self.settings.train.seed, Purpose::DropPath, *step as u64, number as u64);
        let drop_path = (self.settings.segment.drop_path > 0.0).then_some(&mut rng);
        let tape = Tape::new();
        let logits = {
            let _phase = profile::phase("forward");
            self.model.logits(&tape, &images, drop_path, &Mode::Training(&factors))?
        };
        let (size, share) = (self.settings.segment.crop_size, batch.share as f32);
        let (main, shape) = &logits.main;
        let (own, gradient) = pixel_loss(main.value(), *shape, &labels, size, share)?;
        let mut seeds: Vec<(&Var, Tensor)> = vec![(main, gradient)];
        let mut whole = own.clone();
        if let Some((auxiliary, shape)) = &logits.auxiliary {
            let weight = self.settings.segment.auxiliary_weight as f32;
            let (more, gradient) = pixel_loss(auxiliary.value(), *shape, &labels, size, share * weight)?;
            let sum = Tensor::zeros(&self.model.device, &[1], crate::tensor::DType::F32)?;
            add_scaled(&sum, &own, 1.0)?;
            add_scaled(&sum, &more, weight)?;
            whole = sum;
            seeds.push((auxiliary, gradient));
        }
        {
            let _phase = profile::phase("backward");
            tape.backward(seeds)?;
        }
        let record = match due {
            true => Some([whole.read_later()?, own.read_later()?]),
            false => None,
        };
        Ok((whole, record))
    }

    fn numbers(&mut self, _: &usize, records: Vec<Self::Record>) -> Result<Numbers> {
        let value = |read: PendingRead| Ok(f64::from(read.wait()?[0]));
        let own = records.into_iter().flatten().map(|[whole, own]| Ok([value(whole)?, value(own)?]));
        let own = own.collect::<Result<Vec<_>>>()?;
        let all: Vec<[f64; 2]> = self.ranks.tell(own)?.concat();
        let mean = |i: usize| all.iter().map(|losses| losses[i]).sum::<f64>() / all.len().max(1) as f64;
        let values = match self.settings.segment.head {
            crate::tasks::segment::heads::HeadKind::Upernet => {
                vec![("loss_head".to_string(), number(mean(1)))]
            }
            crate::tasks::segment::heads::HeadKind::Linear => Vec::new(),
        };
        Ok(Numbers { loss: mean(0), values, warnings: Vec::new() })
    }

    fn learning_rate_key(&self) -> &'static str {
        "segment.lr"
    }

    fn evaluate(&mut self, done: usize, reports: &mut Reports) -> Result<bool> {
        let (found, bad) = self.judge()?;
        let of = (self.data.val.len(), self.settings.data.data.max_bad_fraction);
        tell_left_out(&bad, &mut self.told_bad, of, reports)?;
        let quality = Quality::of(&found);
        self.judged.retain(|(step, _)| *step != done);
        self.judged.push((done, quality));
        let values = [("eval.miou", quality.miou), ("eval.macc", quality.macc), ("eval.aacc", quality.aacc)]
            .map(|(name, value)| (name.to_string(), number(value)));
        reports.values(done, &values, &[]);
        reports.say(&format!(
            "after {done} steps: mIoU {:.2}%, mean accuracy {:.2}%, {:.2}% of {} pixels right",
            100.0 * quality.miou,
            100.0 * quality.macc,
            100.0 * quality.aacc,
            found.pixels()
        ));
        let Some(dir) = self.dir.clone() else { return Ok(true) };
        let classes = self.data.train.classes().to_vec();
        if let Err(e) = write_table(&found, &classes, &dir) {
            reports.warn(&format!("the table of classes is not written: {e}"));
        }
        if self.best.as_ref().is_none_or(|best| quality.miou > best.miou) {
            let best = Best { images: self.data.checksum(), step: done, miou: quality.miou, classes };
            let written = write_best(&self.model, &self.settings, &dir);
            // what cannot be written is told, does not count, and does not end the training
            match written.and_then(|format| best.write(&dir).map(|()| format)) {
                Ok(format) => {
                    (self.best, self.format) = (Some(best), Some(format));
                    reports.note(&format!("the best so far is in {}", shown(&dir.join(BEST))));
                }
                Err(e) => reports.warn(&format!("the best model so far is not written: {e}")),
            }
        }
        Ok(true)
    }

    fn after_step(&mut self, reports: &mut Reports) -> Result<()> {
        self.share_statistics()?;
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

impl SegmentTask {
    /// The running statistics of all ranks become their mean, so that all judge by the same, and a checkpoint holds what all have.
    /// While it learns a rank norms by its own batch, as PyTorch's BatchNorm does.
    fn share_statistics(&self) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        for (_, tensor) in self.model.running.all() {
            let mut values = tensor.to_vec::<f32>()?;
            self.ranks.sum(&mut values)?;
            let count = self.ranks.size() as f32;
            values.iter_mut().for_each(|value| *value /= count);
            tensor.upload(&values)?;
        }
        Ok(())
    }
}

//! k-NN classification of labelled images with chosen sub-networks of the teacher, while it is trained.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::data::{BadSample, Source, open_setting};
use crate::error::{Error, Result};
use crate::eval::{KnnOptions, LabelledImages, knn_accuracies};
use crate::models::grid::Network;
use crate::plot;
use crate::poa::PoaModel;
use crate::poa::settings::Settings;
use crate::stop::Stop;
use crate::train::metrics::{history, number, texts};
use crate::train::reports::Reports;

/// Accuracies are logged under `knn.NETWORK.K`.
const PREFIX: &str = "knn.";

/// What stands for the images that it was measured on.
const IMAGES: &str = "knn_images";

/// A k-NN accuracy of one sub-network.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnPoint {
    /// Steps done.
    pub step: usize,
    /// The sub-network and the number of neighbours, as `384x12.20`.
    pub name: String,
    /// Top-1, 0..1.
    pub top1: f64,
}

/// A k-NN accuracy of one sub-network before and after training.
#[derive(Clone, Debug, PartialEq)]
pub struct KnnGain {
    /// The sub-network.
    pub network: Network,
    /// The number of neighbours.
    pub k: usize,
    /// Top-1 before training, 0..1; none where that was measured on other images.
    pub before: Option<f64>,
    /// Top-1 after training, 0..1.
    pub after: f64,
}

/// Labelled images on both sides of the evaluation, and what it has found so far.
pub struct Evaluation {
    train: LabelledImages,
    val: LabelledImages,
    networks: Vec<Network>,
    options: KnnOptions,
    history: Vec<KnnPoint>,
    /// What stands for the images of both sides, wherever they lie: their names and labels.
    images: String,
    /// Whether the evaluation before the first step was made on other images.
    other_before: bool,
    /// Of both data sets: what they are called, and how many images could not be used when that was last told.
    sets: [(&'static str, usize); 2],
    plot: PathBuf,
}

impl Evaluation {
    /// Prepares the evaluation that settings ask for: on data sets of its own, or on the training images and
    /// those held out of them; its chart goes to `plot`, without an extension. Where there is nothing to evaluate
    /// with, the text says why.
    pub fn prepare(
        settings: &Settings,
        model: &PoaModel,
        (train, val): (&Arc<dyn Source>, Option<&Arc<dyn Source>>),
        plot: PathBuf,
    ) -> Result<Result<Self, String>> {
        let e = &settings.evaluation;
        let own = match e.train.is_empty() {
            true => None,
            false => {
                let open = |key, spec| open_setting(key, spec, &settings.data.reading());
                Some((open("evaluation.train", &e.train)?, open("evaluation.val", &e.val)?))
            }
        };
        let (train, val) = match (&own, val) {
            (Some((train, val)), _) => (train, val),
            (None, Some(val)) => (train, val),
            (None, None) => return Ok(Err(why_not(train, settings))),
        };
        if own.is_some() && train.classes().len() < 2 {
            let problem = match train.classes() {
                [] => "names images without labels".to_string(),
                all => format!("names images of one class alone (`{}`); give two or more", all.join("")),
            };
            return Err(Error::config("evaluation.train", problem));
        }
        let mut networks = Vec::new();
        for name in &e.networks {
            let network = model.grid.named(name).map_err(|e| Error::config("evaluation.networks", e))?;
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        let view = settings.evaluation_view(settings.crops.global_crops_size)?;
        let train = LabelledImages::new(train, e.train_images, &view)?;
        let val = LabelledImages::new(val, e.val_images, &view).and_then(|val| val.joined_to(&train));
        let val = val.map_err(|e| if own.is_some() { e.during("evaluation.val") } else { e })?;
        Ok(Ok(Self {
            images: format!("{:08x}-{:08x}", train.checksum(), val.checksum()),
            train,
            val,
            networks,
            options: KnnOptions { ks: e.k.clone(), temperature: e.temperature, ..KnnOptions::default() },
            history: Vec::new(),
            other_before: false,
            sets: match own.is_some() {
                true => [("evaluation.train", 0), ("evaluation.val", 0)],
                false => [("the images that vote", 0), ("the images held out", 0)],
            },
            plot,
        }))
    }

    /// Draws to another place from now on.
    pub fn draw_to(&mut self, plot: PathBuf) {
        self.plot = plot;
    }

    /// What stands for the images of both sides, wherever they lie.
    pub fn images(&self) -> &str {
        &self.images
    }

    /// From now on an evaluation ends as soon as `stop` wishes for it, with an error, and has then reported
    /// nothing. The wish of one of several ranks ends it on all.
    pub fn stopped_by(&mut self, stop: &Stop) {
        self.train.stopped_by(stop);
        self.val.stopped_by(stop);
    }

    /// Takes over what an earlier part of the run found, as far as its log was kept.
    pub fn resume(&mut self, metrics: &Path) {
        let known = history(metrics, PREFIX);
        self.history = known
            .into_iter()
            .map(|(step, key, top1)| KnnPoint { step, name: key[PREFIX.len()..].to_string(), top1 })
            .collect();
        let before = texts(metrics, IMAGES).into_iter().find(|(step, _)| *step == 0);
        // earlier versions did not note it
        self.other_before = before.is_some_and(|(_, images)| images != self.images);
    }

    /// The images that could not be used so far.
    pub fn bad_samples(&self) -> Vec<BadSample> {
        let mut all = self.train.bad_samples();
        all.extend(self.val.bad_samples());
        all
    }

    /// Says how many images cannot be used, where there are more than when it was last said.
    fn tell_bad(&mut self, reports: &mut Reports) {
        for (images, (what, told)) in [&self.train, &self.val].into_iter().zip(&mut self.sets) {
            let bad = images.bad_samples();
            if let Some(first) = bad.first().filter(|_| bad.len() > *told) {
                *told = bad.len();
                reports.warn(&format!(
                    "{told} of {what} cannot be used and are left out of k-NN, such as {}: {}",
                    first.name, first.reason
                ));
            }
        }
    }

    /// Evaluates the teacher after `done` steps, and draws all evaluations so far. Of several ranks all call it at once
    /// and share the work; the first reports and draws.
    pub fn run(&mut self, model: &PoaModel, done: usize, reports: &mut Reports) -> Result<()> {
        if done == 0 {
            // with a large network it is long before anything else is to be seen
            let networks: Vec<String> = self.networks.iter().map(Network::to_string).collect();
            reports.say(&format!(
                "before the first step: k-NN of {}, {} images that vote (evaluation.train_images) \
                 and {} to classify (evaluation.val_images)",
                networks.join(", "),
                self.train.len(),
                self.val.len(),
            ));
        }
        let (encoder, images) = (model.teacher_encoder(), (&self.train, &self.val));
        let (options, ranks) = (&self.options, &model.ranks);
        let all = knn_accuracies(encoder, &self.networks, images, options, ranks, &mut |_, _, _| {})?;
        if !ranks.leads() {
            return Ok(());
        }
        let ks = &self.options.ks;
        for (network, top1) in self.networks.iter().zip(all) {
            let text: Vec<String> =
                ks.iter().zip(&top1).map(|(k, a)| format!("k={k} {:.1}%", 100.0 * a)).collect();
            reports.note(&format!("k-NN after {done} steps, {network}: {}", text.join(", ")));
            let names: Vec<String> = ks.iter().map(|k| format!("{network}.{k}")).collect();
            let mut values: Vec<(String, Value)> =
                names.iter().zip(&top1).map(|(name, a)| (format!("{PREFIX}{name}"), number(*a))).collect();
            // what later ones are held against
            values.extend((done == 0).then(|| (IMAGES.into(), self.images.as_str().into())));
            reports.values(done, &values, &[]);
            self.history.extend(names.into_iter().zip(top1).map(|(name, top1)| KnnPoint {
                step: done,
                name,
                top1,
            }));
        }
        self.tell_bad(reports);
        if let Err(e) = self.draw() {
            reports.warn(&format!("{e}; training goes on without the plot"));
        }
        Ok(())
    }

    /// What a person should know of the images beside their number.
    pub fn remarks(&self) -> Vec<String> {
        let mut all = Vec::new();
        let images = self.train.len();
        let most = self.options.ks.iter().filter(|k| **k > images).max();
        all.extend(most.map(|k| {
            format!(
                "evaluation.k has {k}, and {images} images vote (evaluation.train_images, or all with labels there are): \
                 a larger k counts as {images}"
            )
        }));
        all
    }

    fn draw(&self) -> Result<()> {
        let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
        for point in &self.history {
            let at = (point.step as f64, 100.0 * point.top1);
            match series.iter_mut().find(|(name, _)| *name == point.name) {
                Some((_, points)) => points.push(at),
                None => series.push((point.name.clone(), vec![at])),
            }
        }
        let named: Vec<(String, Vec<(f64, f64)>)> =
            series.into_iter().map(|(name, points)| (name.replacen('.', ", k = ", 1), points)).collect();
        plot::lines(&named, "k-NN accuracy of the teacher's sub-networks", "step", "top-1 (%)", &self.plot)
    }

    /// Accuracies before any step and after `done`, for every network and number of neighbours that has the latter.
    pub fn gains(&self, done: usize) -> Vec<KnnGain> {
        let at = |step: usize, name: &str| {
            self.history.iter().rev().find(|p| p.step == step && p.name == name).map(|p| p.top1)
        };
        let pairs = self.networks.iter().flat_map(|n| self.options.ks.iter().map(move |k| (*n, *k)));
        pairs
            .filter_map(|(network, k)| {
                let name = format!("{network}.{k}");
                let before = at(0, &name).filter(|_| !self.other_before);
                Some(KnnGain { network, k, before, after: at(done, &name)? })
            })
            .collect()
    }
}

/// Why there is nothing to evaluate with where no images were held out.
fn why_not(source: &Arc<dyn Source>, settings: &Settings) -> String {
    match source.classes() {
        [] => "no labels: k-NN is left out (classes are the sub-folders that images lie in)".into(),
        [one] => format!("one class alone (`{one}`): k-NN is left out"),
        _ => format!(
            "no images are held out of {} with data.held_out = {}, data.held_out_at_most = {}: k-NN is left out",
            source.len(),
            settings.data.held_out,
            settings.data.held_out_at_most
        ),
    }
}

//! k-NN classification of labelled images by the student, while it learns.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::collective::Collective;
use crate::data::{Source, open_setting};
use crate::error::Result;
use crate::eval::{KnnOptions, LabelledImages, knn_accuracies};
use crate::plot;
use crate::shown::shown;
use crate::stop::Stop;
use crate::tasks::distill::{DistillModel, Settings};
use crate::train::metrics::{history, number};
use crate::train::reports::Reports;

/// Accuracies are logged under `knn.NETWORK.K`, as those of pre-training.
const PREFIX: &str = "knn.";

/// Labelled images on both sides, and what was found so far.
pub(super) struct Evaluation {
    train: LabelledImages,
    val: LabelledImages,
    options: KnnOptions,
    /// By steps and key.
    found: Vec<(usize, String, f64)>,
    /// Images of either side that could not be used, when that was last said.
    told: [usize; 2],
}

impl Evaluation {
    /// Prepares what settings ask for: data sets of its own, or the training images and those held out of them. Where there
    /// is nothing to evaluate with, the text says why.
    pub fn prepare(
        settings: &Settings,
        train: &Arc<dyn Source>,
        val: Option<&Arc<dyn Source>>,
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
            (None, None) => {
                return Ok(Err(format!(
                    "no labelled images of two classes are held out of {}: k-NN is left out; evaluation.train and \
                     evaluation.val name others",
                    train.describe()
                )));
            }
        };
        let view = settings.view()?;
        let train = LabelledImages::new(train, e.train_images, &view)?;
        let val = LabelledImages::new(val, e.val_images, &view)?.joined_to(&train)?;
        let options = KnnOptions { ks: e.k.clone(), temperature: e.temperature, ..KnnOptions::default() };
        Ok(Ok(Self { train, val, options, found: Vec::new(), told: [0; 2] }))
    }

    /// What stands for the images of both sides, wherever they lie.
    pub fn images(&self) -> String {
        format!("{:08x}-{:08x}", self.train.checksum(), self.val.checksum())
    }

    /// From now on an evaluation ends as soon as `stop` wishes for it, with an error, and has then reported nothing.
    pub fn stopped_by(&mut self, stop: &Stop) {
        self.train.stopped_by(stop);
        self.val.stopped_by(stop);
    }

    /// Takes over what an earlier part of the run found, as far as its log was kept.
    pub fn resume(&mut self, metrics: &Path) {
        self.found = history(metrics, PREFIX);
    }

    /// By steps and number of neighbours: top-1, 0..1.
    pub fn found(&self) -> &[(usize, String, f64)] {
        &self.found
    }

    /// Evaluates the student after `done` steps; all ranks share the work, the first reports and draws to `dir`.
    pub fn run(
        &mut self,
        model: &DistillModel,
        ranks: &Collective,
        done: usize,
        dir: Option<&Path>,
        reports: &mut Reports,
    ) -> Result<()> {
        let images = (&self.train, &self.val);
        let network = model.network;
        let all =
            knn_accuracies(model.encoder(), &[network], images, &self.options, ranks, &mut |_, _, _| {})?;
        if !ranks.leads() {
            return Ok(());
        }
        let top1 = all.into_iter().next().unwrap_or_default();
        let ks = &self.options.ks;
        let text: Vec<String> =
            ks.iter().zip(&top1).map(|(k, a)| format!("k={k} {:.1}%", 100.0 * a)).collect();
        reports.say(&format!("after {done} steps: k-NN of student {network}: {}", text.join(", ")));
        let values: Vec<(String, Value)> =
            ks.iter().zip(&top1).map(|(k, a)| (format!("{PREFIX}{network}.{k}"), number(*a))).collect();
        reports.values(done, &values, &[]);
        self.found.retain(|(step, _, _)| *step != done);
        self.found.extend(ks.iter().zip(top1).map(|(k, a)| (done, format!("{PREFIX}{network}.{k}"), a)));
        self.tell_bad(reports);
        if let Some(dir) = dir
            && let Err(e) = self.draw(dir)
        {
            reports.warn(&format!("{e}; training goes on without the plot"));
        }
        Ok(())
    }

    /// Says how many images cannot be used, where there are more than when it was last said.
    fn tell_bad(&mut self, reports: &mut Reports) {
        for ((images, what), told) in
            [(&self.train, "vote"), (&self.val, "are classified")].into_iter().zip(&mut self.told)
        {
            let bad = images.bad_samples();
            if let Some(first) = bad.first().filter(|_| bad.len() > *told) {
                *told = bad.len();
                reports.warn(&format!(
                    "{told} of the images that {what} cannot be used and are left out of k-NN, such as {}: {}",
                    shown(&first.name),
                    shown(&first.reason)
                ));
            }
        }
    }

    fn draw(&self, dir: &Path) -> Result<()> {
        let mut series: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
        for (step, key, top1) in &self.found {
            let (at, name) = ((*step as f64, 100.0 * top1), key[PREFIX.len()..].replacen('.', ", k = ", 1));
            match series.iter_mut().find(|(known, _)| *known == name) {
                Some((_, points)) => points.push(at),
                None => series.push((name, vec![at])),
            }
        }
        plot::lines(&series, "k-NN accuracy of the student", "step", "top-1 (%)", &dir.join("knn"))
    }
}

//! How good the moving average is on images that it has not seen, and the best so far as a network of its own.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::eval::LabelledImages;
use crate::eval::classification::Classification;
use crate::eval::classify::classify;
use crate::files::durable::replace_file;
use crate::models::plain::Format;
use crate::tasks::best::write_network;
use crate::tasks::finetune::Settings;
use crate::tasks::finetune::model::{FinetuneModel, HEAD_BIAS, HEAD_WEIGHT};
use crate::weights::extract::Classifier;

/// Share of images that a classifier is right about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// With its first choice.
    pub top1: f64,
    /// With one of its first five.
    pub top5: f64,
}

/// What the average makes of `images`, whole on every rank.
pub(super) fn judge(
    model: &FinetuneModel,
    images: &LabelledImages,
    ranks: &Collective,
) -> Result<Classification> {
    classify(ranks, model.encoder(), model.network, images, &mut |features| model.average_logits(features))
}

/// The folder of the best network so far, in a run's.
pub(super) const BEST: &str = "best";

/// What is kept of the looks at the images to be judged by, beside the best network: `best.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    /// The names of the classes, in the order of the logits.
    pub classes: Vec<String>,
    /// A checksum of the images to be judged by.
    pub images: u32,
    /// After how many steps.
    pub step: usize,
    /// Share of the images that the network is right about.
    pub top1: f64,
}

impl Best {
    fn path(run: &Path) -> PathBuf {
        run.join("best.json")
    }

    /// What a run's folder has; `None` where there is none that can be read.
    pub fn read(run: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(run)).ok()?).ok()
    }

    /// To a run's folder.
    pub fn write(&self, run: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|e| Error::file(run, e.to_string()))?;
        replace_file(&Self::path(run), &text)
    }
}

/// Writes the average as a network with its classifier to `best` in a run's folder: for timm, or where timm has no such
/// network in POA's format. Says in which.
pub(super) fn write_best(
    model: &FinetuneModel,
    settings: &Settings,
    classes: &[String],
    run: &Path,
) -> Result<Format> {
    let values = model.average.values();
    let classifier = Classifier {
        weight: values.read(HEAD_WEIGHT)?,
        bias: values.read(HEAD_BIAS)?,
        classes: classes.to_vec(),
    };
    write_network(values, &*model.backbone, &run.join(BEST), settings.normalization()?, Some(classifier))
}

//! What every evaluation needs: sub-networks of a checkpoint, and labelled images as they are shown.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::subject::image_size;
use crate::data::{self, EvaluationView, Source};
use crate::error::{Error, Result};
use crate::eval::LabelledImages;
use crate::gpu::DeviceChoice;
use crate::logging::{info, warn};
use crate::models::backbone::Cost;
use crate::models::grid::Network;
use crate::ops;
use crate::ops::matmul::by_timing;
use crate::recipes::teacher::Teacher;
use crate::shown::shown;
use crate::weights::networks::choose;

/// What all kinds need.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// A run's folder (its newest checkpoint is taken) or a checkpoint's
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// WIDTHxDEPTH, smallest, middle, intact, all, or the paper's small, base, ...; several separated by
    /// spaces or commas
    #[arg(long, value_name = "NETWORK", num_args = 1.., default_value = "intact")]
    pub network: Vec<String>,
    /// Pixels a side that images are brought to, a multiple of the patch size [default: the global crops']
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    pub size: Option<usize>,
    /// Folder for the results: CSV, JSON and, of several networks, plots [default: none are written]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true, default_value = "auto")]
    pub device: DeviceChoice,
}

/// The networks that are evaluated, and how they are shown images.
pub(super) struct Evaluated {
    pub teacher: Teacher,
    pub networks: Vec<Network>,
    view: EvaluationView,
    out: Option<PathBuf>,
}

impl Evaluated {
    pub(super) fn open(args: &Common) -> Result<Self> {
        let device = by_timing(ops::open(&args.device)?)?;
        let teacher = Teacher::open(&args.checkpoint, &device)?;
        let networks = choose(&teacher.grid, &args.network)?;
        let view = teacher.config.evaluation_view(image_size(args.size, &teacher)?)?;
        Ok(Self { teacher, networks, view, out: args.out.clone() })
    }

    /// Pixels a side of images.
    pub(super) fn size(&self) -> usize {
        self.view.shape()[1]
    }

    /// The images that `spec` names.
    pub(super) fn source(&self, spec: &str) -> Result<Arc<dyn Source>> {
        data::open(spec, &self.teacher.config.data.reading())
    }

    /// Makes the folder for results, once the images are known to be there.
    pub(super) fn make_folder(&self) -> Result<()> {
        match &self.out {
            None => Ok(()),
            Some(out) => {
                std::fs::create_dir_all(out).map_err(|e| Error::file(out, format!("cannot be created: {e}")))
            }
        }
    }

    /// At most `most` labelled images of a source, 0 for all.
    pub(super) fn images(&self, source: &Arc<dyn Source>, most: usize) -> Result<LabelledImages> {
        LabelledImages::new(source, most, &self.view)
    }

    pub(super) fn introduce(&self) {
        say!("teacher: {} ({} steps)", shown(&self.teacher.dir), self.teacher.step);
    }

    pub(super) fn cost(&self, network: Network) -> Cost {
        self.teacher.encoder().backbone.cost(network)
    }

    /// What all results begin with, with the images by what they are for.
    pub(super) fn about(&self, kind: &str, sets: &[(&str, &LabelledImages)]) -> Value {
        let mut about =
            json!({ "evaluation": kind, "checkpoint": self.teacher.dir, "steps": self.teacher.step });
        for (what, images) in sets {
            about[*what] = json!({
                "source": images.describe(), "images": images.len(), "without_label": images.unlabelled(),
                "classes": images.present().len(),
            });
            about["classes"] = json!(images.classes());
            about["size"] = json!(images.size());
        }
        about
    }
}

/// A source that has just been opened says what a person should know of it.
pub(super) fn tell(source: &dyn Source) {
    source.remarks().into_iter().for_each(info);
}

/// Images of one class alone show nothing.
pub(super) fn several_classes(images: &LabelledImages, classes: usize) -> Result<()> {
    match classes {
        0 | 1 => Err(Error::file(images.describe(), "has one class alone; give images of two or more")),
        _ => Ok(()),
    }
}

/// Says how many images there are, behind a name of eight letters.
pub(super) fn count(what: &str, images: &LabelledImages) {
    let unlabelled = match images.unlabelled() {
        0 => String::new(),
        count => format!(" ({count} without a label are left out)"),
    };
    let (count, classes, all) = (images.len(), images.present().len(), images.classes().len());
    let of = if classes == all { String::new() } else { format!(" of {all}") };
    say!("{what:<8} {}, {count} images{unlabelled}, {classes}{of} classes", images.describe());
}

/// Says which images could not be used.
pub(super) fn note_unreadable(what: &str, images: &LabelledImages) {
    let bad = images.bad_samples();
    if let Some(first) = bad.first() {
        let count = bad.len();
        warn(format_args!("{count} {what} images cannot be used, such as {}: {}", first.name, first.reason));
    }
}

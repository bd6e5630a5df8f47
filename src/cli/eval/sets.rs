//! Two sets of labelled images: those to learn from and those to be classified.

use clap::Args;

use crate::cli::eval::common::{Evaluated, count, note_unreadable, several_classes, tell};
use crate::cli::subject::data_spec;
use crate::data;
use crate::data::labels::first_three;
use crate::error::{Error, Result};
use crate::eval::LabelledImages;
use crate::logging::warn;
use crate::shown::shown;

/// Which images.
#[derive(Debug, Clone, Args)]
pub struct Sets {
    /// Labelled images to learn from, as in `poa-gpu train --data`
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub train: String,
    /// Labelled images to be classified; default: those that the source of --train brings or that are held
    /// out of it
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub val: Option<String>,
    /// At most that many images of --train, random ones; 0 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub train_images: usize,
    /// At most that many images of --val, random ones; 0 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub val_images: usize,
}

/// Both sets, with the classes of the first.
pub(super) struct Pair {
    pub train: LabelledImages,
    pub val: LabelledImages,
}

impl Sets {
    /// Opens and checks both sets.
    pub(super) fn open(&self, evaluated: &Evaluated) -> Result<Pair> {
        let train = evaluated.source(&self.train)?;
        let (train, val) = match &self.val {
            Some(spec) => (train, evaluated.source(spec)?),
            None => match data::split(train, data::HeldOut::default()) {
                (train, Some(val)) => (train, val),
                (train, None) => {
                    return Err(Error::file(train.describe(), why_none_held_out(train.classes())));
                }
            },
        };
        evaluated.make_folder()?;
        tell(&*train);
        if self.val.is_some() {
            tell(&*val);
        }
        let train = evaluated.images(&train, self.train_images)?;
        several_classes(&train, train.classes().len())?;
        let val = evaluated.images(&val, self.val_images)?.joined_to(&train)?;
        Ok(Pair { train, val })
    }

    /// The first set alone.
    pub(super) fn first(&self, evaluated: &Evaluated) -> Result<LabelledImages> {
        let train = evaluated.source(&self.train)?;
        evaluated.make_folder()?;
        tell(&*train);
        let train = evaluated.images(&train, self.train_images)?;
        several_classes(&train, train.classes().len())?;
        Ok(train)
    }
}

impl Pair {
    pub(super) fn introduce(&self) {
        count("train:", &self.train);
        count("val:", &self.val);
        let known = self.train.present();
        let unseen: Vec<&str> = self
            .val
            .present()
            .difference(&known)
            .filter_map(|class| Some(self.val.classes().get(*class as usize)?.as_str()))
            .collect();
        if !unseen.is_empty() {
            warn(format_args!(
                "{} classes that are to be found have no image to learn from among the {} that were picked: {}",
                unseen.len(),
                self.train.len(),
                first_three(&unseen)
            ));
        }
    }

    pub(super) fn note_unreadable(&self) {
        note_unreadable("training", &self.train);
        note_unreadable("validation", &self.val);
    }

    /// Both by the names they have in results.
    pub(super) fn named(&self) -> [(&'static str, &LabelledImages); 2] {
        [("train", &self.train), ("val", &self.val)]
    }
}

/// Why no images of a source with these classes could be held out.
fn why_none_held_out(classes: &[String]) -> String {
    match classes {
        [] => "has no labels to evaluate with (classes are the sub-folders that images lie in)".into(),
        [one] => format!("has one class alone, `{}`; give images of two or more", shown(one)),
        _ => "has too few labelled images to hold a tenth of them out; give --val SPEC too".into(),
    }
}

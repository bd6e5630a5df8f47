//! The images of a run that fine-tunes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::data::channels::in_channels;
use crate::data::labelled_part::{listed, stratified};
use crate::data::{HeldOut, Source, labelled, open_setting, split};
use crate::error::{Error, Result};
use crate::eval::LabelledImages;
use crate::tasks::finetune::Settings;

/// What is learnt from, and what it is judged by.
pub struct FinetuneData {
    /// Images to learn from, all with labels.
    pub train: Arc<dyn Source>,
    /// Images to be judged by, with the classes of the others.
    pub val: LabelledImages,
    /// What there is to say of both.
    pub remarks: Vec<String>,
}

/// Opens the images that settings name. Too few classes, a class that is only in one of both, and nothing to be judged by
/// are errors.
pub fn open(settings: &Settings) -> Result<FinetuneData> {
    let (data, reading) = (&settings.data, settings.data.data.reading());
    let opened = |key: &str, spec: &str| -> Result<Arc<dyn Source>> {
        in_channels(open_setting(key, spec, &reading)?, settings.channels())
    };
    let train = opened("data.spec", &data.data.spec)?;
    let mut remarks = train.remarks();
    let (train, val) = if data.val.is_empty() {
        let held_out = HeldOut { fraction: data.data.held_out, at_most: data.data.held_out_at_most };
        match split(train, held_out) {
            (train, Some(val)) => (train, val),
            (train, None) => {
                return Err(Error::config(
                    "data.val",
                    format!("is empty, and of {} no images are held out; give --val", train.describe()),
                ));
            }
        }
    } else {
        let val = opened("data.val", &data.val)?;
        remarks.extend(val.remarks());
        (train, val)
    };
    let (train, without) = labelled(train)?;
    if without > 0 {
        remarks.push(format!("{without} images without a label are left out"));
    }
    let view = settings.view()?;
    // before a part is taken: its classes are those of the whole
    let whole = LabelledImages::new(&train, 0, &view)?;
    if whole.present().len() < 2 {
        return Err(Error::file(
            train.describe(),
            "has images of one class alone; give those of two or more",
        ));
    }
    let val = LabelledImages::new(&val, 0, &view)?.joined_to(&whole)?;
    let train = match data.subset.is_empty() {
        true => train,
        false => listed(train, Path::new(&data.subset))?,
    };
    let train = match data.fraction < 1.0 {
        true => stratified(train, data.fraction, settings.train.seed),
        false => train,
    };
    let known: BTreeSet<u32> = (0..train.len()).filter_map(|i| train.label(i)).collect();
    let unseen: Vec<&str> = val
        .present()
        .difference(&known)
        .filter_map(|class| Some(train.classes().get(*class as usize)?.as_str()))
        .collect();
    if !unseen.is_empty() {
        return Err(Error::file(
            train.describe(),
            format!(
                "has no image to learn from of {} classes that it is to be judged by: {}",
                unseen.len(),
                crate::data::labels::first_three(&unseen)
            ),
        ));
    }
    Ok(FinetuneData { train, val, remarks })
}

//! The images and masks of a run that learns to segment.

use std::collections::BTreeSet;
use std::sync::Arc;

use rayon::prelude::*;

use crate::data::channels::in_channels;
use crate::data::pixels::IGNORED;
use crate::data::segmentation;
use crate::data::{BadSample, HeldOut, Source, hold_out};
use crate::error::{Error, Result};
use crate::shown::shown;
use crate::tasks::segment::Settings;

/// Images of each part that are looked at before a run begins, at most.
const LOOKED_AT: usize = 256;

/// What is learnt from, and what it is judged by.
pub struct SegmentData {
    /// Images to learn from, with masks.
    pub train: Arc<dyn Source>,
    /// Images to be judged by, with masks of the same classes.
    pub val: Arc<dyn Source>,
    /// What there is to say of both.
    pub remarks: Vec<String>,
}

impl SegmentData {
    /// What stands for the images to be judged by: a checksum of their names.
    pub fn checksum(&self) -> u32 {
        (0..self.val.len())
            .fold(0, |sum, i| crc32c::crc32c_append(sum, format!("{}\n", self.val.name(i)).as_bytes()))
    }
}

/// Opens the images that settings name, and looks at some of their masks. One class alone, other classes in what it is to be
/// judged by, and masks that do not fit their images or the classes are errors.
pub fn open(settings: &Settings) -> Result<SegmentData> {
    let (data, reading) = (&settings.data, settings.data.data.reading());
    let meaning = settings.meaning()?;
    let opened = |spec: &str| segmentation::registry::open(spec, meaning.as_ref(), &reading);
    let parts = opened(&data.data.spec)?;
    let mut remarks = parts.train.remarks();
    let (train, val) = match (data.val.is_empty(), parts.own_val) {
        (true, Some(val)) => (parts.train, val),
        (true, None) => {
            let held_out = HeldOut { fraction: data.data.held_out, at_most: data.data.held_out_at_most };
            match hold_out(parts.train, held_out, |_, _| true) {
                (train, Some(val)) => (train, val),
                (train, None) => {
                    let problem =
                        format!("is empty, and of {} no images are held out; give --val", train.describe());
                    return Err(Error::config("data.val", problem));
                }
            }
        }
        (false, _) => {
            let val = opened(&data.val)?.train;
            remarks.extend(val.remarks());
            (parts.train, val)
        }
    };
    if train.classes().len() < 2 {
        return Err(Error::file(train.describe(), "has one class alone; there is nothing to tell apart"));
    }
    if train.classes() != val.classes() {
        let (a, b) = (train.classes().len(), val.classes().len());
        return Err(Error::file(
            val.describe(),
            format!("has {b} classes of its own, and what is learnt from {a}; both must have the same"),
        ));
    }
    let train = in_channels(train, settings.channels())?;
    let val = in_channels(val, settings.channels())?;
    let allowed = settings.data.data.max_bad_fraction;
    let (seen, all) = look(&train, allowed)?;
    let (wanted, _) = look(&val, allowed)?;
    if all && seen.len() < 2 {
        let class = seen.first().map_or("no class", |class| &train.classes()[usize::from(*class)]);
        let problem =
            format!("has pixels of one class alone, `{}`; see data.classes and data.from_one", shown(class));
        return Err(Error::file(train.describe(), problem));
    }
    let unseen: Vec<&str> =
        wanted.difference(&seen).map(|class| train.classes()[usize::from(*class)].as_str()).collect();
    if !unseen.is_empty() {
        let text = format!(
            "{} classes that it is to be judged by: {}",
            unseen.len(),
            crate::data::labels::first_three(&unseen)
        );
        match all {
            true => {
                return Err(Error::file(train.describe(), format!("has no pixel to learn from of {text}")));
            }
            false => remarks.push(format!("of {LOOKED_AT} masks to learn from none has a pixel of {text}")),
        }
    }
    Ok(SegmentData { train, val, remarks })
}

/// The classes of some images all over a source, and whether these were all there are. Too many unusable ones are an error.
fn look(source: &Arc<dyn Source>, allowed: f64) -> Result<(BTreeSet<u8>, bool)> {
    let (len, count) = (source.len(), source.len().min(LOOKED_AT));
    let found: Vec<Result<[bool; 256], BadSample>> = (0..count)
        .into_par_iter()
        .map(|k| {
            let image = source.load(k * len / count)?;
            let mut there = [false; 256];
            image.classes().unwrap_or_default().iter().for_each(|class| there[usize::from(*class)] = true);
            Ok(there)
        })
        .collect();
    let bad: Vec<&BadSample> = found.iter().filter_map(|one| one.as_ref().err()).collect();
    if let Some(first) = bad.first().filter(|_| bad.len() as f64 > allowed * count as f64) {
        return Err(Error::file(
            source.describe(),
            format!(
                "{} of {count} images cannot be used (data.max_bad_fraction = {allowed}), such as {}: {}",
                bad.len(),
                shown(&first.name),
                shown(&first.reason)
            ),
        ));
    }
    let classes = (0..IGNORED).filter(|class| found.iter().flatten().any(|there| there[usize::from(*class)]));
    Ok((classes.collect(), count == len))
}

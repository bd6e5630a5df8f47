//! The kinds of images with masks, and how each is named.

use std::path::Path;
use std::sync::Arc;

use crate::checks::nearest;
use crate::data::reading::Reading;
use crate::data::segmentation::meaning::Meaning;
use crate::data::segmentation::pairs::Pairs;
use crate::data::shapes::Shapes;
use crate::data::source::Source;
use crate::error::{Error, Result};
use crate::shown::shown;

/// The kinds and how each is named.
const KINDS: &str = "`pairs:IMAGES::MASKS` (two folders with files of the same names), `ade20k:DIR` (ADEChallengeData2016), `shapes`, \
    `shapes:N` or `shapes:NxSIZE` (the embedded data set with its masks)";
const NAMES: [&str; 3] = ["pairs", "ade20k", "shapes"];
/// Classes of ADE20K.
const ADE20K_CLASSES: usize = 150;

/// A part to learn from and, where the data set brings one, a part to be judged by.
pub struct Parts {
    /// To learn from.
    pub train: Arc<dyn Source>,
    /// To be judged by.
    pub own_val: Option<Arc<dyn Source>>,
}

/// Opens the images with masks that `spec` names: `pairs:IMAGES::MASKS`, `ade20k:DIR`, `shapes`, `shapes:N` or `shapes:NxSIZE`.
/// `meaning` says what the values of `pairs` are, and may give names to ADE20K's classes.
pub fn open(spec: &str, meaning: Option<&Meaning>, reading: &Reading) -> Result<Parts> {
    let (kind, rest) = match spec.split_once(':') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (spec, None),
    };
    match (kind, rest) {
        ("shapes", rest) => {
            let shapes = Shapes::from_spec(rest)
                .map_err(|problem| Error::Usage(format!("data set `{}` {problem}", shown(spec))))?
                .with_masks();
            let own_val = Some(Arc::new(shapes.held_out()) as Arc<dyn Source>);
            Ok(Parts { train: Arc::new(shapes), own_val })
        }
        ("ade20k", Some(dir)) if !dir.is_empty() => ade20k(Path::new(dir), meaning, reading),
        ("pairs", Some(folders)) => {
            let Some((images, masks)) =
                folders.split_once("::").filter(|(a, b)| !a.is_empty() && !b.is_empty())
            else {
                return Err(Error::Usage(format!(
                    "data set `{}` is not `pairs:IMAGES::MASKS`, with two folders",
                    shown(spec)
                )));
            };
            let meaning = meaning.ok_or_else(|| {
                Error::config(
                    "data.classes",
                    "is empty; give the number of classes, or a file that names them, a line each (with colours, where the \
                     masks are pictures)",
                )
            })?;
            let train =
                Pairs::open(Path::new(images), Path::new(masks), &Arc::new(meaning.clone()), reading)?;
            Ok(Parts { train: Arc::new(train), own_val: None })
        }
        _ => Err(unknown(spec, kind)),
    }
}

/// ADE20K as the challenge of 2016 had it: index 0 is not looked at, 1 to 150 are the classes.
fn ade20k(dir: &Path, meaning: Option<&Meaning>, reading: &Reading) -> Result<Parts> {
    let names = meaning.map(|meaning| meaning.classes.clone());
    if let Some(names) = names.as_ref().filter(|names| names.len() != ADE20K_CLASSES) {
        return Err(Error::config(
            "data.classes",
            format!("names {} classes, and ADE20K has {ADE20K_CLASSES}", names.len()),
        ));
    }
    let numbered = Meaning::numbered(ADE20K_CLASSES);
    let meaning = Meaning {
        classes: names.unwrap_or_else(|| (1..=ADE20K_CLASSES).map(|i| i.to_string()).collect()),
        from_one: true,
        ignore: None,
        ..numbered
    };
    let meaning = Arc::new(meaning);
    let part = |name: &str| -> Result<Arc<dyn Source>> {
        let folder = |kind: &str| dir.join(kind).join(name);
        Ok(Arc::new(Pairs::open(&folder("images"), &folder("annotations"), &meaning, reading)?))
    };
    Ok(Parts { train: part("training")?, own_val: Some(part("validation")?) })
}

fn unknown(spec: &str, kind: &str) -> Error {
    let hint = match Path::new(spec).is_dir() {
        true => format!(" (did you mean `ade20k:{}`?)", shown(spec)),
        false => nearest(kind, NAMES.into_iter())
            .map_or_else(String::new, |kind| format!(" (did you mean `{kind}`?)")),
    };
    Error::Usage(format!("unknown data set with masks `{}`{hint}: use {KINDS}", shown(spec)))
}

//! The backgrounds challenge (MadryLab's ImageNet-9): the same objects before other backgrounds. A folder holds variants of
//! the images, each `<variant>/val/<class>/` or `<variant>/<class>/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rayon::prelude::*;
use serde_json::Value;

use crate::data::decode::{decode_file, is_image_extension};
use crate::data::labels::{first_three, join};
use crate::data::npy::Plane;
use crate::data::{EvaluationView, Image, Reading};
use crate::error::{Error, Result};
use crate::eval::pass::{Progress, images_at_once};
use crate::eval::robustness::pass::Subject;
use crate::models::encoder::Encoder;
use crate::shown::shown;
use crate::tensor::Tensor;

/// The variant that holds masks in place of images.
const MASKS: &str = "fg_mask";
/// The images that the masks are of.
const ORIGINAL: &str = "original";
/// Backgrounds without an object, cut out of other parts of the images.
const TILED: &str = "only_bg_t";

/// The variants in a folder, by name, with the folder of their classes; that of masks is not among them.
pub fn variants(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let all = folders(dir)?;
    let all = all.into_iter().filter(|(name, _)| name != MASKS);
    let all: BTreeMap<String, PathBuf> = all.map(|(name, path)| (name, classes_in(path))).collect();
    match all.is_empty() {
        true => Err(Error::file(
            dir,
            "holds no folders of variants, as mixed_same and mixed_rand; give bg_challenge",
        )),
        false => Ok(all),
    }
}

/// The folder of classes of a variant.
fn classes_in(variant: PathBuf) -> PathBuf {
    let val = variant.join("val");
    if val.is_dir() { val } else { variant }
}

fn folders(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    Ok(listed(dir)?.into_iter().filter(|(name, path)| !name.starts_with('.') && path.is_dir()).collect())
}

/// What is in a folder, by name.
fn listed(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |e: std::io::Error| Error::file(dir, format!("cannot be listed: {e}"));
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if let Some(name) = path.file_name() {
            all.push((name.to_string_lossy().into_owned(), path));
        }
    }
    all.sort();
    Ok(all)
}

/// Of every class of a classifier, `names`, that of the images, `classes`, which it counts as. `file` is a JSON object from
/// classes, by name or number, to classes of the images, by name or number, or −1 (`in_to_in9.json`); without one classes
/// of equal names are the same.
pub fn class_map(file: Option<&Path>, names: &[String], classes: &[String]) -> Result<Vec<Option<u32>>> {
    let Some(file) = file else {
        return match join(classes, names) {
            Ok(ours) => {
                let place = |class: u32| ours.iter().position(|own| *own == class).map(|at| at as u32);
                Ok((0..names.len() as u32).map(place).collect())
            }
            Err(unknown) => Err(Error::Usage(format!(
                "the classifier does not have the classes {} of the backgrounds; give --class-map in_to_in9.json",
                first_three(&unknown)
            ))),
        };
    };
    let text =
        std::fs::read_to_string(file).map_err(|e| Error::file(file, format!("cannot be read: {e}")))?;
    let all: Value =
        serde_json::from_str(&text).map_err(|e| Error::file(file, format!("is no JSON: {e}")))?;
    let wrong = |what: String| {
        Error::file(
            file,
            format!(
                "{what}; it maps classes of the classifier, by number or name, to those of the images, or -1"
            ),
        )
    };
    let all = all.as_object().ok_or_else(|| wrong("is no JSON object".into()))?;
    let mut map = vec![None; names.len()];
    for (from, to) in all {
        let at = names.iter().position(|name| name == from).or_else(|| from.parse().ok());
        let at = at.filter(|at| *at < names.len());
        let at = at.ok_or_else(|| {
            wrong(format!("has the class `{}`, the classifier {}", shown(from), names.len()))
        })?;
        map[at] = match (to.as_i64(), to.as_str()) {
            (Some(-1), _) => None,
            (Some(n), _) if (0..classes.len() as i64).contains(&n) => Some(n as u32),
            (_, Some(name)) if classes.iter().any(|class| class == name) => {
                classes.iter().position(|class| class == name).map(|at| at as u32)
            }
            _ => {
                return Err(wrong(format!(
                    "maps `{}` to {to}, and the images have {} classes",
                    shown(from),
                    classes.len()
                )));
            }
        };
    }
    match map.iter().all(Option::is_none) {
        true => Err(wrong("maps no class of the classifier".into())),
        false => Ok(map),
    }
}

/// An object with its mask.
struct Foreground {
    class: u32,
    image: PathBuf,
    mask: PathBuf,
}

/// Every object before every background.
pub struct Challenge {
    /// The classes.
    pub classes: Vec<String>,
    foregrounds: Vec<Foreground>,
    backgrounds: Vec<PathBuf>,
    /// The backgrounds that were needed so far.
    decoded: Vec<OnceLock<Image>>,
    reading: Reading,
}

impl Challenge {
    /// Finds masks, the images of `original` with their names, and the backgrounds of `only_bg_t`.
    pub fn open(dir: &Path, reading: &Reading) -> Result<Self> {
        let [masks, originals, tiled] = [MASKS, ORIGINAL, TILED].map(|name| classes_in(dir.join(name)));
        let (mut foregrounds, mut backgrounds, mut classes) = (Vec::new(), Vec::new(), Vec::new());
        for (class, masks) in folders(&masks)? {
            let images = listed(&originals.join(&class))?;
            for (name, mask) in listed(&masks)?.into_iter().filter(|(name, _)| name.ends_with(".npy")) {
                let stem = Path::new(&name).file_stem().map(|stem| stem.to_owned());
                let image = images.iter().find(|(_, path)| path.file_stem().map(|s| s.to_owned()) == stem);
                let image = image.ok_or_else(|| {
                    Error::file(
                        &mask,
                        format!("is the mask of no image in {}", shown(&originals.join(&class))),
                    )
                })?;
                foregrounds.push(Foreground { class: classes.len() as u32, image: image.1.clone(), mask });
            }
            classes.push(class);
        }
        for (_, folder) in folders(&tiled)? {
            let images = listed(&folder)?.into_iter().map(|(_, path)| path);
            backgrounds.extend(images.filter(|path| path.extension().is_some_and(is_image_extension)));
        }
        for (what, folder, count) in
            [("masks (.npy)", &masks, foregrounds.len()), ("images", &tiled, backgrounds.len())]
        {
            if count == 0 {
                return Err(Error::file(
                    folder,
                    format!("holds no {what} in folders of classes, which --challenge needs"),
                ));
            }
        }
        let decoded = backgrounds.iter().map(|_| OnceLock::new()).collect();
        Ok(Self { classes, foregrounds, backgrounds, decoded, reading: *reading })
    }

    /// How many objects and backgrounds there are.
    pub fn len(&self) -> [usize; 2] {
        [self.foregrounds.len(), self.backgrounds.len()]
    }

    /// The share of the objects that some background makes a classifier wrong about, whatever class that background is of;
    /// for every subject. `map` is that of [`class_map`].
    pub fn vulnerable(
        &self,
        encoder: Encoder<'_>,
        subjects: &[Subject<'_>],
        view: &EvaluationView,
        map: &[Option<u32>],
        progress: Progress<'_>,
    ) -> Result<Vec<f64>> {
        let at_once = subjects.iter().map(|s| images_at_once(encoder, s.network, view.size)).min();
        let at_once = at_once.unwrap_or(1).clamp(1, 128);
        let mut wrong = vec![0usize; subjects.len()];
        for (done, foreground) in self.foregrounds.iter().enumerate() {
            let image = self.load(&foreground.image)?;
            let mask = Plane::open(&foreground.mask)?;
            let mut left: Vec<usize> = (0..subjects.len()).collect();
            for first in (0..self.backgrounds.len()).step_by(at_once) {
                let numbers = first..self.backgrounds.len().min(first + at_once);
                let count = numbers.len();
                let composed = numbers.into_par_iter().map(|i| {
                    let background = match self.decoded[i].get() {
                        Some(image) => image,
                        None => {
                            let image = self.load(&self.backgrounds[i])?;
                            self.decoded[i].get_or_init(|| image)
                        }
                    };
                    let composed = composed(&image, background, &mask).ok_or_else(|| {
                        Error::file(
                            &self.backgrounds[i],
                            format!("and {} and its mask differ in size", shown(&foreground.image)),
                        )
                    })?;
                    in_view(composed, view, &self.backgrounds[i])
                });
                let pixels = composed.collect::<Result<Vec<Vec<f32>>>>()?.concat();
                let [channels, side, _] = view.shape();
                let images = Tensor::from_slice(encoder.device, &[count, channels, side, side], &pixels)?;
                let mut still = Vec::new();
                for at in left {
                    let guesses = subjects[at].head.guesses(encoder, subjects[at].network, &images)?;
                    let meant = |guess: Option<u32>| map.get(guess? as usize).copied().flatten();
                    match guesses.into_iter().all(|guess| meant(guess) == Some(foreground.class)) {
                        true => still.push(at),
                        false => wrong[at] += 1,
                    }
                }
                left = still;
                if left.is_empty() {
                    break;
                }
            }
            progress("objects", done + 1, self.foregrounds.len());
        }
        Ok(wrong.into_iter().map(|wrong| wrong as f64 / self.foregrounds.len() as f64).collect())
    }

    fn load(&self, path: &Path) -> Result<Image> {
        let image = decode_file(path, &self.reading).map_err(|fault| Error::file(path, fault.reason))?;
        Ok(Image::from(image))
    }
}

/// An image as a network sees it.
fn in_view(image: Image, view: &EvaluationView, path: &Path) -> Result<Vec<f32>> {
    let channels = view.shape()[0];
    let image = image.in_channels(channels);
    let image = image
        .ok_or_else(|| Error::file(path, format!("has 3 channels, and the network takes {channels}")))?;
    Ok(view.of(&image))
}

/// image · mask + background · (1 − mask); `None` where their sizes differ.
fn composed(image: &Image, background: &Image, mask: &Plane) -> Option<Image> {
    let (width, height) = image.dimensions();
    let fits = background.dimensions() == (width, height) && background.channels() == image.channels();
    if !fits || (mask.width, mask.height) != (width as usize, height as usize) {
        return None;
    }
    let channels = image.channels();
    let pairs = image.values().iter().zip(background.values()).enumerate();
    let mixed = pairs.map(|(i, (object, behind))| {
        let share = mask.values[i / channels].clamp(0.0, 1.0);
        (f32::from(*object) * share + f32::from(*behind) * (1.0 - share)).round() as u8
    });
    Image::new(width, height, channels, mixed.collect())
}

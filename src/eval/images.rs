//! Labelled images for evaluation. They are decoded by all cores a few batches ahead of the device and never
//! all held in memory, unless they are few.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::collective::Collective;
use crate::data::augment::{Scratch, apply_into};
use crate::data::batch::{Batch, CropGroup, Pixels, WHOLE};
use crate::data::channels::in_channels;
use crate::data::labels::{first_three, join};
use crate::data::order::{Order, Pick};
use crate::data::{
    BadSample, BlurProbabilities, Crop, CropConfig, EvaluationView, Image, Source, View, draw,
};
use crate::error::{Error, Result};
use crate::eval::ahead::ahead;
use crate::rng::{Purpose, stream};
use crate::stop::Stop;

/// Images of a batch that is decoded together, at most.
const BATCH: usize = 100;
/// Bytes of such a batch on the device, at most (but one image).
const BATCH_BYTES: usize = 64 << 20;
/// Batches that wait, beside the one in the making and the one in use.
const AHEAD: usize = 2;
/// Bytes of decoded images up to which they are kept for the next pass.
const KEPT_BYTES: usize = 1 << 30;
/// Range of the share of an image's area that a crop for training covers.
const CROP_SCALE: (f64, f64) = (0.08, 1.0);

/// In what order images are seen to train a classifier on them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingOrder {
    /// Images a batch.
    pub batch: usize,
    /// Number of batches.
    pub batches: usize,
    /// The seed of order and crops.
    pub seed: u64,
}

/// Some labelled images of a source, the same ones every time.
pub struct LabelledImages {
    decoder: Arc<Decoder>,
    picked: Arc<[u32]>,
    unlabelled: usize,
    /// Batches of a pass over few images, and their numbers.
    kept: OnceCell<(Vec<usize>, Vec<Batch>)>,
    /// Images that other ranks have found unreadable.
    heard: RefCell<BTreeMap<usize, BadSample>>,
    stop: Stop,
}

impl LabelledImages {
    /// At most `most` random images of a source (0 for all), shown as `view` does. Images without a label are
    /// left out; a source without any label is an error. Images of another number of channels are brought to its,
    /// or are an error.
    pub fn new(source: &Arc<dyn Source>, most: usize, view: &EvaluationView) -> Result<Self> {
        let source = in_channels(source.clone(), view.normalization.channels())?;
        if source.classes().is_empty() {
            return Err(Error::file(
                source.describe(),
                "has no labels to evaluate with (classes are the sub-folders that images lie in)",
            ));
        }
        let labelled: Vec<u32> =
            (0..source.len()).filter(|i| source.label(*i).is_some()).map(|i| i as u32).collect();
        let count = if most == 0 { labelled.len() } else { most.min(labelled.len()) };
        let picked = sample(&mut ChaCha8Rng::seed_from_u64(0), labelled.len(), count);
        let mut picked: Vec<u32> = picked.into_iter().map(|i| labelled[i]).collect();
        picked.sort_unstable();
        let unlabelled = source.len() - labelled.len();
        let decoder = Arc::new(Decoder { source, view: view.clone(), joined: None, bad: Mutex::default() });
        let picked = picked.into();
        let (kept, heard) = (OnceCell::new(), RefCell::default());
        Ok(Self { decoder, picked, unlabelled, kept, heard, stop: Stop::new() })
    }

    /// The same images with the classes of `others`, found by their names. A class that `others` do not have is
    /// an error; that some of theirs have no image here is none.
    pub fn joined_to(self, others: &Self) -> Result<Self> {
        self.joined_to_classes(others.classes(), &others.describe())
    }

    /// As [`LabelledImages::joined_to`] the classes `names`, which are those of `whose`.
    pub fn joined_to_classes(mut self, classes: &[String], whose: &str) -> Result<Self> {
        let problem = match join(self.classes(), classes) {
            Ok(class_of) => {
                let names = classes.to_vec();
                let decoder = Arc::get_mut(&mut self.decoder).expect("no pass has begun");
                decoder.joined = Some(Joined { class_of, names });
                self.kept = OnceCell::new();
                return Ok(self);
            }
            Err(unknown) => format!(
                "{} of its {} classes are not among the {} of {}: {}; there they are {}. Classes are found by their \
                 names",
                unknown.len(),
                self.classes().len(),
                classes.len(),
                whose,
                first_three(&unknown),
                first_three(classes),
            ),
        };
        Err(Error::file(self.describe(), problem))
    }

    /// From now on a pass over the images ends as soon as `stop` wishes for it, with an error.
    pub fn stopped_by(&mut self, stop: &Stop) {
        self.stop = stop.clone();
    }

    /// What ends a pass.
    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Number of images, with those that turn out to be unreadable.
    pub fn len(&self) -> usize {
        self.picked.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.picked.is_empty()
    }

    /// Pixels a side.
    pub fn size(&self) -> usize {
        self.decoder.view.size
    }

    /// Images of the source that are left out for want of a label.
    pub fn unlabelled(&self) -> usize {
        self.unlabelled
    }

    /// The names of the classes.
    pub fn classes(&self) -> &[String] {
        match &self.decoder.joined {
            Some(joined) => &joined.names,
            None => self.decoder.source.classes(),
        }
    }

    /// The classes that the images have, by number: with few images not all that there are.
    pub fn present(&self) -> BTreeSet<u32> {
        self.picked.iter().filter_map(|i| self.decoder.label(*i as usize)).collect()
    }

    /// What stands for the images: a checksum of their names and classes, which is the same wherever they lie.
    pub fn checksum(&self) -> u32 {
        self.picked.iter().map(|i| *i as usize).fold(0, |sum, i| {
            let class = self.decoder.label(i).and_then(|class| self.classes().get(class as usize));
            let line = format!("{}\t{}\n", self.decoder.source.name(i), class.map_or("", String::as_str));
            crc32c::crc32c_append(sum, line.as_bytes())
        })
    }

    /// What the source is called in messages.
    pub fn describe(&self) -> String {
        self.decoder.source.describe()
    }

    /// The images found unreadable so far, by number, on any rank that has told. They are left out.
    pub fn bad_samples(&self) -> Vec<BadSample> {
        let mut all = self.decoder.bad().clone();
        all.extend(self.heard.borrow().iter().map(|(i, bad)| (*i, bad.clone())));
        all.into_values().collect()
    }

    /// Lets all ranks know which images each has found unreadable.
    pub(super) fn share_bad_samples(&self, ranks: &Collective) -> Result<()> {
        let own: Vec<(usize, BadSample)> =
            self.decoder.bad().iter().map(|(i, bad)| (*i, bad.clone())).collect();
        self.heard.borrow_mut().extend(ranks.tell(own)?.into_iter().flatten());
        Ok(())
    }

    /// An error that says that none of the images is readable.
    pub(super) fn nothing(&self) -> Error {
        self.decoder.nothing()
    }

    /// Hands every image to `take`, in order, as [`EvaluationView`] shows it. An error of `take` ends the
    /// pass.
    pub fn for_each_batch(&self, mut take: impl FnMut(&Batch) -> Result<()>) -> Result<()> {
        let mut readable = 0;
        self.for_these_batches((0..self.batches()).collect(), |batch| {
            if batch.images() == 0 {
                return Ok(()); // not one of them is readable
            }
            readable += batch.images();
            take(batch)
        })?;
        if readable == 0 { Err(self.nothing()) } else { Ok(()) }
    }

    /// Images of a batch.
    fn of_batch(&self) -> usize {
        let values = self.decoder.view.shape().iter().product::<usize>();
        (BATCH_BYTES / (size_of::<f32>() * values).max(1)).clamp(1, BATCH)
    }

    /// Number of batches that [`LabelledImages::for_each_batch`] goes through: the same wherever the same images are
    /// shown in the same way.
    pub(super) fn batches(&self) -> usize {
        self.picked.len().div_ceil(self.of_batch())
    }

    /// Hands the batches with these numbers to `take`, in their order; one without a readable image is empty.
    pub(super) fn for_these_batches(
        &self,
        numbers: Vec<usize>,
        mut take: impl FnMut(&Batch) -> Result<()>,
    ) -> Result<()> {
        if let Some((_, kept)) = self.kept.get().filter(|(those, _)| *those == numbers) {
            return kept.iter().try_for_each(|batch| {
                self.stop.check()?;
                take(batch)
            });
        }
        let (decoder, one) = (self.decoder.clone(), self.of_batch());
        let values = decoder.view.shape().iter().product::<usize>();
        let keep = self.picked.len().min(numbers.len() * one) * values <= KEPT_BYTES;
        let mut kept = Vec::new();
        let (picked, stop, wanted) = (self.picked.clone(), self.stop.clone(), numbers.clone());
        let decode = move |i: usize| {
            let first = wanted[i] * one;
            let view = |image: &Image, _: &u32, _: &mut Scratch| decoder.view.bytes(image);
            decoder.decode(&stop, &picked[first..picked.len().min(first + one)], |i| *i as usize, view)
        };
        self.ahead(numbers.len(), decode, |batch| {
            take(&batch)?;
            kept.extend(keep.then_some(batch));
            Ok(())
        })?;
        if keep {
            let _ = self.kept.set((numbers, kept)); // where others are kept, they stay
        }
        Ok(())
    }

    /// Hands batches of randomly cropped and mirrored images to `take`, which gets the number of the batch as
    /// well. Every epoch has a permutation of its own. Everything follows from (seed, epoch, index) alone.
    pub fn for_each_training_batch(
        &self,
        order: TrainingOrder,
        mut take: impl FnMut(usize, &Batch) -> Result<()>,
    ) -> Result<()> {
        let (decoder, picked, stop) = (self.decoder.clone(), self.picked.clone(), self.stop.clone());
        let len = picked.len();
        let picks = Order::new(len, order.batch, order.seed);
        let crops = CropConfig {
            global: Crop { size: decoder.view.size, scale: CROP_SCALE },
            jitter: 0.0,
            grayscale: 0.0,
            blur: BlurProbabilities { a: 0.0, b: 0.0, local: 0.0 },
            solarize: 0.0,
            normalization: decoder.view.normalization.clone(),
            ..CropConfig::default()
        };
        let decode = move |step: usize| {
            let view = |image: &Image, pick: &Pick, scratch: &mut Scratch| {
                let number = (pick.index + pick.repeat * len) as u64;
                let mut rng = stream(order.seed, Purpose::ProbeCrops, pick.epoch, number);
                let choices = draw(&mut rng, &crops, View::GlobalA, image.width(), image.height());
                let mut out = vec![0; decoder.view.shape().iter().product()];
                apply_into(image, &choices, scratch, &mut out);
                out
            };
            let all: Vec<Pick> = (0..order.batch).map(|slot| picks.pick(step as u64, slot)).collect();
            decoder.decode(&stop, &all, |pick| picked[pick.index] as usize, view)
        };
        let mut number = 0;
        self.ahead(order.batches, decode, |batch| {
            if batch.images() == 0 {
                return Err(self.decoder.nothing());
            }
            number += 1;
            take(number - 1, &batch)
        })
    }

    /// Makes batches ahead, and hands them over in order.
    fn ahead(
        &self,
        count: usize,
        make: impl Fn(usize) -> Result<Batch> + Send + 'static,
        mut take: impl FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        ahead((count, AHEAD), &self.stop, &self.describe(), make, |batch| take(batch?))
    }
}

/// The classes of other images, and which of them each class of the source is.
struct Joined {
    class_of: Vec<u32>,
    names: Vec<String>,
}

/// What the decoding threads share.
struct Decoder {
    source: Arc<dyn Source>,
    view: EvaluationView,
    joined: Option<Joined>,
    bad: Mutex<BTreeMap<usize, BadSample>>,
}

impl Decoder {
    fn nothing(&self) -> Error {
        Error::file(self.source.describe(), "has no readable labelled image to evaluate on; check the files")
    }

    fn bad(&self) -> MutexGuard<'_, BTreeMap<usize, BadSample>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The class of image `i`.
    fn label(&self, i: usize) -> Option<u32> {
        let own = self.source.label(i)?;
        match &self.joined {
            Some(joined) => joined.class_of.get(own as usize).copied(),
            None => Some(own),
        }
    }

    /// The images that `picks` name (`index` says which), as `view` shows them, without the unreadable ones,
    /// and without those that are left once `stop` wishes for the end.
    fn decode<P: Sync>(
        &self,
        stop: &Stop,
        picks: &[P],
        index: impl Fn(&P) -> usize + Sync,
        view: impl Fn(&Image, &P, &mut Scratch) -> Vec<u8> + Sync,
    ) -> Result<Batch> {
        let decoded: Vec<Option<(usize, u32, Vec<u8>)>> = picks
            .par_iter()
            .map_init(Scratch::default, |scratch, pick| {
                if stop.asked().is_some() {
                    return None;
                }
                let i = index(pick);
                Some((i, self.label(i)?, view(&self.load(i)?, pick, scratch)))
            })
            .collect();
        let (mut indices, mut labels, mut pixels) = (Vec::new(), Vec::new(), Vec::new());
        pixels.reserve_exact(decoded.iter().flatten().map(|(.., pixels)| pixels.len()).sum());
        for (index, label, image) in decoded.into_iter().flatten() {
            indices.push(index);
            labels.push(label);
            pixels.extend(image);
        }
        let [channels, size, _] = self.view.shape();
        let pixels = Pixels::Bytes(pixels, self.view.normalization.clone());
        let group = CropGroup { name: WHOLE, views: 1, channels, size, pixels, masks: None };
        Batch::new(indices.len(), vec![group])?.with_labels(labels)?.with_indices(indices)
    }

    fn load(&self, i: usize) -> Option<Image> {
        match self.source.load(i) {
            Ok(image) => Some(image),
            Err(bad) => {
                self.bad().insert(i, bad);
                None
            }
        }
    }
}

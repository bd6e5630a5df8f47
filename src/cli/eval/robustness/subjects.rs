//! Networks with classifiers: fine-tuned ones, and sub-networks of a checkpoint with neighbours or probes.

use std::path::Path;
use std::sync::Arc;

use crate::cli::eval::common::{several_classes, tell};
use crate::cli::eval::robustness::arguments::RobustnessArgs;
use crate::cli::progress::bar;
use crate::cli::subject::image_size;
use crate::data::{self, EvaluationView, HeldOut, Reading, Source};
use crate::error::{Error, Result};
use crate::eval::knn::KnnOptions;
use crate::eval::knn_bank::KnnBank;
use crate::eval::linear::trained_probes;
use crate::eval::robustness::{Head, Subject};
use crate::eval::{LabelledImages, LinearOptions};
use crate::models::encoder::Encoder;
use crate::models::grid::Network;
use crate::recipes::Stored;
use crate::recipes::teacher::Teacher;
use crate::shown::shown;
use crate::tasks::finetune::{Settings, Tuned};
use crate::tensor::{Device, Tensor};
use crate::weights::networks::choose;

/// Steps of an epoch of linear probes, of which the number of steps is made.
const EPOCH: usize = 1250;

/// Networks of one set of weights, which see images alike.
pub(super) struct Family {
    /// What it is called in results.
    pub name: String,
    pub networks: Vec<Network>,
    pub view: EvaluationView,
    pub reading: Reading,
    of: Of,
    /// Of every network.
    heads: Vec<Head>,
    classes: Vec<String>,
    /// Images to make classifiers of, and those that are held out of them.
    train: Option<(LabelledImages, Option<Arc<dyn Source>>)>,
}

enum Of {
    Tuned(Box<Tuned>),
    Teacher(Box<Teacher>),
}

impl Family {
    /// A fine-tuned network.
    pub(super) fn tuned(path: &Path, device: &Device) -> Result<Self> {
        let tuned = Tuned::open(path, device, <Settings as Stored>::from_stored)?;
        Ok(Self {
            name: shown(path).into_owned(),
            networks: vec![tuned.network],
            view: tuned.view.clone(),
            reading: tuned.reading,
            heads: vec![Head::Linear(tuned.weight.clone(), tuned.bias.clone())],
            classes: tuned.classes.clone(),
            of: Of::Tuned(Box::new(tuned)),
            train: None,
        })
    }

    /// Sub-networks of a checkpoint, which have no classifiers yet.
    pub(super) fn pretrained(path: &Path, args: &RobustnessArgs, device: &Device) -> Result<Self> {
        let teacher = Teacher::open(path, device)?;
        let view = teacher.config.evaluation_view(image_size(args.size, &teacher)?)?;
        let reading = teacher.config.data.reading();
        let spec = args.train.as_deref().unwrap_or_default();
        let source = data::open(spec, &reading)?;
        tell(&*source);
        let (source, held_out) = match args.data {
            Some(_) => (source, None),
            None => data::split(source, HeldOut::default()),
        };
        let train = LabelledImages::new(&source, args.train_images, &view)?;
        several_classes(&train, train.classes().len())?;
        Ok(Self {
            name: shown(&teacher.dir).into_owned(),
            networks: choose(&teacher.grid, &args.network)?,
            view,
            reading,
            heads: Vec::new(),
            classes: train.classes().to_vec(),
            of: Of::Teacher(Box::new(teacher)),
            train: Some((train, held_out)),
        })
    }

    pub(super) fn encoder(&self) -> Encoder<'_> {
        match &self.of {
            Of::Tuned(tuned) => tuned.encoder(),
            Of::Teacher(teacher) => teacher.encoder(),
        }
    }

    /// The classes of the classifiers.
    pub(super) fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The images to be classified, with the classifiers' classes; none where backgrounds alone are asked for.
    pub(super) fn tested(&self, args: &RobustnessArgs) -> Result<Option<LabelledImages>> {
        let source = match (&args.data, &self.train) {
            (Some(spec), _) => {
                let source = data::open(spec, &self.reading)?;
                tell(&*source);
                source
            }
            (None, Some((_, Some(held_out)))) => held_out.clone(),
            (None, _) if args.backgrounds.is_some() => return Ok(None),
            (None, Some((train, None))) => {
                return Err(Error::file(
                    train.describe(),
                    "has too few labelled images to hold some out; give --data SPEC",
                ));
            }
            (None, None) => {
                return Err(Error::Usage(format!(
                    "--data SPEC is missing: the images that {} classifies",
                    self.name
                )));
            }
        };
        let images = LabelledImages::new(&source, args.images, &self.view)?;
        Ok(Some(images.joined_to_classes(&self.classes, &self.name)?))
    }

    /// Makes the classifiers of sub-networks.
    pub(super) fn learn(&mut self, args: &RobustnessArgs) -> Result<()> {
        let Some((train, _)) = &self.train else { return Ok(()) };
        let (encoder, networks) = (self.encoder(), &self.networks);
        crate::cli::eval::common::count("train:", train);
        self.heads = match args.classifier.as_str() {
            "linear" => {
                let val = self.tested(args)?.ok_or_else(|| {
                    Error::Usage(
                        "--classifier linear needs --data, whose images say which probe is the best".into(),
                    )
                })?;
                let epochs = args.probe_steps.div_ceil(EPOCH);
                let options = LinearOptions {
                    epochs,
                    epoch_iterations: args.probe_steps.div_ceil(epochs),
                    seed: args.seed,
                    ..LinearOptions::default()
                };
                let probes = trained_probes(encoder, networks, (train, &val), &options, &mut bar())?;
                probes.into_iter().map(Head::Probe).collect()
            }
            _ => {
                let votes = (args.k, KnnOptions::default().temperature);
                let banks = KnnBank::of(encoder, networks, train, votes, &mut bar())?;
                banks.into_iter().map(Head::Neighbours).collect()
            }
        };
        Ok(())
    }

    pub(super) fn subjects(&self) -> Vec<Subject<'_>> {
        self.networks
            .iter()
            .zip(&self.heads)
            .map(|(network, head)| Subject { network: *network, head })
            .collect()
    }
}

/// The network whose attention says what is salient.
pub(super) fn attention(dir: &Path, args: &RobustnessArgs, device: &Device) -> Result<(Teacher, Network)> {
    let teacher = Teacher::open(dir, device)?;
    match choose(&teacher.grid, &[&args.salience_network])?[..] {
        [network] => Ok((teacher, network)),
        _ => Err(Error::Usage(format!(
            "--salience-network `{}` is more than one sub-network; give one",
            shown(&args.salience_network)
        ))),
    }
}

/// Whether there is attention of a class token to go by: that of another network, which must take the images of a family,
/// or its own.
pub(super) fn attends(other: Option<(Encoder<'_>, Network)>, family: &Family) -> Result<bool> {
    let (encoder, network) = other.unwrap_or((family.encoder(), family.networks[0]));
    let [channels, side, _] = family.view.shape();
    let blank = Tensor::zeros(encoder.device, &[1, channels, side, side], crate::tensor::DType::F32)?;
    let found = encoder.class_attention(network, &blank);
    match other {
        None => Ok(found?.is_some()),
        Some(_) => {
            match found.map_err(|e| e.during("--salience-of cannot see the images of the classifiers"))? {
                Some(_) => Ok(true),
                None => Err(Error::Usage(
                    "--salience-of has no class token whose attention says what is salient; give a ViT's run"
                        .into(),
                )),
            }
        }
    }
}

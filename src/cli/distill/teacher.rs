//! The frozen teacher of a run that distils: a checkpoint's, or a plain network's.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::checkpoint::{self, Checkpoint};
use crate::files::durable::replace_file;
use crate::models::backbone::Backbone;
use crate::models::grid::Network;
use crate::nn::elastic::InputScale;
use crate::nn::head::{HeadSizes, ProjectionHead};
use crate::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use crate::recipes::Config;
use crate::recipes::teacher::config_of;
use crate::shown::shown;
use crate::tasks::distill::{FrozenTeacher, Settings, TeacherOutput};
use crate::tensor::Device;
use crate::train::save::{TEACHER, fill};
use crate::weights::import::Import;
use crate::weights::networks::choose;
use crate::weights::sizes::{Described, student_in};

/// What a path to a teacher turned out to be.
pub(in crate::cli) enum Found {
    /// A checkpoint, and how it was made.
    Checkpoint(Checkpoint, Box<Config>),
    /// A file of a plain network, or a folder with one; what that says of it.
    Plain(PathBuf, Option<Box<Described>>),
}

impl Found {
    pub(in crate::cli) fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            let problem = "no such file or folder; --teacher takes a run, a checkpoint or weights";
            return Err(Error::file(path, problem));
        }
        if path.is_dir() && (checkpoint::has_manifest(path) || checkpoint::find_in(path)?.is_some()) {
            let found = checkpoint::find(path)?;
            let config = config_of(&found)?;
            return Ok(Self::Checkpoint(found, Box::new(config)));
        }
        let described = if path.is_dir() { student_in(path)?.map(Box::new) } else { None };
        Ok(Self::Plain(path.to_path_buf(), described))
    }

    /// Where it is, so that a run finds the same again although its teacher's run goes on.
    pub(super) fn path(&self) -> PathBuf {
        let path = match self {
            Self::Checkpoint(found, _) => found.dir(),
            Self::Plain(path, _) => path,
        };
        std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
    }

    /// What settings begin with: the sizes, images and values of the teacher.
    pub(super) fn base(&self) -> Settings {
        let mut base = Settings::default();
        match self {
            Self::Checkpoint(_, config) => {
                base.student = config.student.clone();
                base.crops.global_crops_size = config.crops.global_crops_size;
                base.crops.local_crops_size = config.crops.local_crops_size;
                (base.data.mean, base.data.std) = (config.data.mean.clone(), config.data.std.clone());
                (base.data.max_pixels, base.data.deep_bits) = (config.data.max_pixels, config.data.deep_bits);
            }
            Self::Plain(_, Some(of)) => {
                base.student = of.student.clone();
                base.crops.global_crops_size = of.image;
                (base.data.mean, base.data.std) = (of.mean.clone(), of.std.clone());
            }
            Self::Plain(_, None) => {}
        }
        base
    }

    /// The teacher that settings ask for, on a device.
    pub(in crate::cli) fn frozen(&self, settings: &Settings, device: &Device) -> Result<FrozenTeacher> {
        self.check_images(settings)?;
        let d = &settings.distill;
        let (backbone, network) = match self {
            Self::Checkpoint(_, config) => elastic(config.backbone()?, &d.teacher_network)?,
            Self::Plain(_, Some(of)) => {
                let backbone = of.student.open(of.image)?;
                let network = backbone.grid().intact();
                (backbone, network)
            }
            Self::Plain(..) => {
                let whole = settings.student.open(settings.crops.global_crops_size)?;
                let (whole, network) = elastic(whole, &d.teacher_network)?;
                (whole.alone(network)?, network)
            }
        };
        let head = match (d.output, self) {
            (TeacherOutput::Features, _) => None,
            (TeacherOutput::Projection, Self::Checkpoint(found, config)) => {
                Some(projection(config, &*backbone, d.head).map_err(|e| e.during(shown(found.dir())))?)
            }
            (TeacherOutput::Projection, Self::Plain(path, _)) => {
                return Err(Error::config(
                    "distill.output",
                    format!(
                        "is projection, and {} is a plain network without heads; set it to features",
                        shown(path)
                    ),
                ));
            }
        };
        let mut specs = backbone.specs();
        specs.extend(head.iter().flat_map(ProjectionHead::mlp_specs));
        let layout = FlatLayout::new(&specs, device.max_tensor_bytes())?;
        let values = FlatBuffers::zeros(&layout, device)?;
        match self {
            Self::Checkpoint(found, _) => fill(&values, &found.tensors(TEACHER)?, "")?,
            Self::Plain(path, _) => Import::open(path, &*backbone, &specs)?.fill_all(
                &*backbone,
                &values,
                "section student and distill.teacher_network",
            )?,
        }
        Ok(FrozenTeacher { backbone, network, parameters: Parameters::frozen(values), head })
    }

    /// The teacher must see images as it was trained on them.
    fn check_images(&self, settings: &Settings) -> Result<()> {
        let own = self.base();
        if matches!(self, Self::Plain(_, None)) {
            return Ok(());
        }
        let (channels, of_teacher) = (settings.channels(), own.channels());
        if channels != of_teacher {
            return Err(Error::config(
                "student.in_chans",
                format!(
                    "is {channels}, and the teacher's images have {of_teacher} channels; both see the same"
                ),
            ));
        }
        let (here, there) = (settings.normalization()?, own.normalization()?);
        match here == there {
            true => Ok(()),
            false => Err(Error::config(
                "data.mean",
                format!(
                    "and data.std are {:?} and {:?}, and the teacher's {:?} and {:?}; leave them out",
                    here.mean(),
                    here.std(),
                    there.mean(),
                    there.std()
                ),
            )),
        }
    }
}

/// The sub-network of that name.
fn elastic(backbone: Box<dyn Backbone>, name: &String) -> Result<(Box<dyn Backbone>, Network)> {
    let networks = choose(backbone.grid(), &[name]).map_err(|e| match e {
        Error::Usage(problem) => Error::config("section student and distill.teacher_network", problem),
        other => other,
    })?;
    match networks[..] {
        [one] => Ok((backbone, one)),
        ref several => Err(Error::config(
            "section student and distill.teacher_network",
            format!("is `{}`, {} networks; one is the teacher", shown(name), several.len()),
        )),
    }
}

/// A projection head for the class tokens of a checkpoint.
fn projection(config: &Config, backbone: &dyn Backbone, index: usize) -> Result<ProjectionHead> {
    let heads = &config.dino.heads;
    let Some(prototypes) = heads.head_n_prototypes.get(index) else {
        return Err(Error::config(
            "distill.head",
            format!(
                "is {index}, and the teacher has {} heads; the first is 0",
                heads.head_n_prototypes.len()
            ),
        ));
    };
    let sizes = HeadSizes {
        input: backbone.feature_width(backbone.grid().intact()),
        hidden: heads.head_hidden_dim,
        bottleneck: heads.head_bottleneck_dim,
        prototypes: *prototypes,
        input_scale: InputScale(config.student.elastic().input_scale),
        init_std: heads.head_init_std,
    };
    Ok(ProjectionHead { module: "dino_head".into(), index, sizes })
}

/// Which teacher a run has: `teacher.json` in its folder.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// Where it was.
    pub teacher: String,
    /// Its sub-network.
    pub network: String,
    /// Of all its values.
    pub checksum: String,
}

impl Identity {
    fn path(run: &Path) -> PathBuf {
        run.join("teacher.json")
    }

    /// Notes the teacher of a run that begins; of one that goes on another than it had is an error.
    pub(super) fn keep(&self, run: &Path, goes_on: bool) -> Result<()> {
        let path = Self::path(run);
        let before: Option<Self> =
            std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match before {
            Some(before) if goes_on && before.checksum != self.checksum => Err(Error::file(
                path,
                format!(
                    "the run was begun with the teacher {} ({}, checksum {}), and {} ({}) has the checksum {}: its student would \
                     follow two; give the same teacher, or start a run of its own",
                    shown(&before.teacher),
                    before.network,
                    before.checksum,
                    shown(&self.teacher),
                    self.network,
                    self.checksum
                ),
            )),
            _ => {
                let text = serde_json::to_vec_pretty(self).map_err(|e| Error::file(&path, e.to_string()))?;
                replace_file(&path, &text)
            }
        }
    }
}

//! What a run of a task beside pre-training starts from.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::checkpoint;
use crate::files::tensor_writer::write_tensors_with;
use crate::models::backbone::Backbone;
use crate::models::grid::Network;
use crate::models::plain::Format;
use crate::recipes::Config;
use crate::recipes::teacher::config_of;
use crate::shown::shown;
use crate::train::save::{RunState, TEACHER};
use crate::weights::extract::Extraction;
use crate::weights::import::Import;
use crate::weights::sizes::{Described, student_in};

/// What a run starts from.
pub(super) enum Init {
    /// A checkpoint of pre-training, and how it was made.
    Checkpoint(checkpoint::Checkpoint, Box<Config>),
    /// A file of a plain network, or a folder with one.
    Plain(PathBuf),
}

impl Init {
    /// What lies at a path: a run, a checkpoint or weights.
    pub fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::file(
                path,
                "no such file or folder; --init takes a run, a checkpoint or weights",
            ));
        }
        match path.is_dir() && (checkpoint::has_manifest(path) || checkpoint::find_in(path)?.is_some()) {
            true => {
                let found = checkpoint::find(path)?;
                let config = config_of(&found)?;
                Ok(Self::Checkpoint(found, Box::new(config)))
            }
            false => Ok(Self::Plain(path.to_path_buf())),
        }
    }

    /// The sizes of its networks and of their images, where it says them.
    pub fn describe(&self) -> Result<Option<Described>> {
        Ok(match self {
            Self::Plain(path) => student_in(path)?,
            Self::Checkpoint(_, config) => Some(Described {
                student: config.student.clone(),
                image: config.crops.global_crops_size,
                mean: config.data.mean.clone(),
                std: config.data.std.clone(),
            }),
        })
    }

    /// The network that was trained, where a run has trained one alone.
    pub fn only_network(&self) -> Result<Option<String>> {
        Ok(match self {
            Self::Checkpoint(_, config) if !config.dino.branches.draws() => {
                Some(config.backbone()?.grid().intact().to_string())
            }
            _ => None,
        })
    }

    /// How the images of its training were read, where it says so.
    pub fn reading(&self) -> Option<(u64, u32)> {
        match self {
            Self::Plain(_) => None,
            Self::Checkpoint(_, config) => Some((config.data.max_pixels, config.data.deep_bits)),
        }
    }

    /// Gives `backbone`, which is the sub-network `network` by itself, its weights through `start`; `dir` is the run's folder.
    pub fn fill(
        &self,
        backbone: &dyn Backbone,
        network: Network,
        dir: &Path,
        start: impl FnOnce(&Import) -> Result<String>,
    ) -> Result<String> {
        let specs = backbone.specs();
        match self {
            Self::Plain(path) => start(&Import::open(path, backbone, &specs)?),
            Self::Checkpoint(checkpoint, config) => {
                let (teacher, whole) = (checkpoint.tensors(TEACHER)?, config.backbone()?);
                let extraction = Extraction::new(&teacher, &*whole, network, Format::Poa)?;
                let file = dir.join("start.safetensors");
                write_tensors_with(&file, &extraction.tensors(), &[], |name| extraction.read(name))?;
                let summary = Import::open(&file, backbone, &specs).and_then(|import| start(&import));
                let removed = std::fs::remove_file(&file);
                summary?;
                removed.map_err(|e| Error::file(&file, format!("cannot be removed: {e}")))?;
                let step = checkpoint.state::<RunState>()?.step;
                Ok(format!("starts from network {network} of {} ({step} steps)", shown(checkpoint.dir())))
            }
        }
    }
}

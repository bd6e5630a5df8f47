//! A recorded run of the official code: `fixture.json` and its tensors.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::data::batch::{Batch, CropGroup, GLOBAL, LOCAL, Masks};
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;
use crate::models::Student;
use crate::models::grid::Network;
use crate::optim::settings::ScalingRule;
use crate::poa::settings::Centering;
use crate::recipes::Config;
use crate::shown::shown;

/// `fixture.json`, as far as a replay needs it.
#[derive(Deserialize)]
pub(super) struct Record {
    arch: String,
    /// How many ranks took part.
    #[serde(default = "one")]
    pub ranks: usize,
    student: Map<String, Value>,
    pub crops: CropsRecord,
    heads: HeadsRecord,
    loss: LossRecord,
    pub optim: OptimRecord,
    pub steps: Vec<StepExpectation>,
    pub features: Vec<FeatureExpectation>,
    pytorch_float32_error: BTreeMap<String, Value>,
    /// What single precision promises where the usual tolerance is no bound: by kind, the worst of a hundred
    /// replays in double precision with the result of every operation rounded to single; docs/devices.md has
    /// the argument.
    #[serde(default)]
    single_precision: BTreeMap<String, Value>,
}

fn one() -> usize {
    1
}

#[derive(Deserialize)]
pub(super) struct CropsRecord {
    pub global_size: usize,
    pub local_size: usize,
    pub local_number: usize,
    pub batch: usize,
}

#[derive(Deserialize)]
struct HeadsRecord {
    prototypes: Vec<usize>,
    hidden_dim: usize,
    bottleneck_dim: usize,
    separate_ibot_head: bool,
}

#[derive(Deserialize)]
struct LossRecord {
    lambda_ie: f64,
    student_temp: f64,
    teacher_temp: f64,
    koleo_weight: f64,
    ibot_weight: f64,
    dino_weight: f64,
    centering: String,
    sinkhorn_iterations: usize,
}

#[derive(Deserialize)]
pub(super) struct OptimRecord {
    pub lr: f64,
    pub weight_decay: f64,
    beta1: f64,
    beta2: f64,
    eps: f64,
    clip_grad: f64,
    layerwise_decay: f64,
    patch_embed_lr_mult: f64,
    pub teacher_momentum: f64,
}

/// What a step gave.
#[derive(Deserialize)]
pub(super) struct StepExpectation {
    /// Of one rank; of several each has its own.
    network: Option<NetworkRecord>,
    /// Losses of one rank, or means over several.
    #[serde(flatten)]
    pub losses: LossExpectation,
    /// Norms of the gradients, of several ranks averaged, before clipping.
    pub grad_norm: BTreeMap<String, f64>,
    /// What each of several ranks did.
    #[serde(default)]
    pub ranks: Vec<RankExpectation>,
}

/// What a step gave on one of several ranks.
#[derive(Deserialize)]
pub(super) struct RankExpectation {
    network: NetworkRecord,
    #[serde(flatten)]
    pub losses: LossExpectation,
}

/// The losses of a step.
#[derive(Deserialize)]
pub(super) struct LossExpectation {
    pub total: f64,
    pub components: BTreeMap<String, f64>,
}

/// Which network's features were recorded under which number.
#[derive(Deserialize)]
pub(super) struct FeatureExpectation {
    pub index: usize,
    network: NetworkRecord,
}

/// A sub-network as a record names it.
#[derive(Deserialize)]
#[serde(untagged)]
enum NetworkRecord {
    /// Width and depth.
    Sized([usize; 2]),
    /// Widths and depths of the stages.
    Staged([[usize; 4]; 2]),
}

impl NetworkRecord {
    fn network(&self) -> Network {
        match self {
            Self::Sized([width, depth]) => Network::new(*width, *depth),
            Self::Staged([widths, depths]) => Network::staged(widths[0], *depths),
        }
    }
}

impl StepExpectation {
    /// The network that a rank trains.
    pub fn network(&self, rank: usize) -> Option<Network> {
        let of_rank = self.ranks.get(rank).map(|own| &own.network);
        of_rank.or(self.network.as_ref()).map(NetworkRecord::network)
    }

    /// What is wrong with it in a record of so many ranks.
    fn problem(&self, ranks: usize) -> Option<String> {
        match (ranks, self.ranks.len(), &self.network) {
            (0, ..) => Some("is of 0 ranks".into()),
            (1, 0, Some(_)) => None,
            (1, 0, None) => Some("names no network".into()),
            (1, count, _) => {
                Some(format!("has {count} ranks, and the record does not say that it has several"))
            }
            (_, count, _) if count != ranks => Some(format!("has {count} ranks, the record {ranks}")),
            _ => None,
        }
    }
}

impl FeatureExpectation {
    pub fn network(&self) -> Network {
        self.network.network()
    }
}

/// A recorded run. Ranks that are threads share it.
pub struct Fixture {
    /// What it is called in reports: the folder, or "embedded".
    pub name: String,
    pub(super) record: Record,
    pub(super) student: TensorFile,
    pub(super) teacher: TensorFile,
    /// Every rank's images.
    pub(super) batches: Vec<TensorFile>,
    pub(super) expected: TensorFile,
    pub(super) teacher_temp: f64,
}

macro_rules! embedded {
    ($file:literal) => {
        include_bytes!(concat!("../../kernels-tests/fixtures/vit/", $file))
    };
}

impl Fixture {
    /// The ViT's record that is built into the program.
    pub fn embedded() -> Result<Self> {
        let file = |name: &str| {
            let bytes: &'static [u8] = match name {
                "student.safetensors" => embedded!("student.safetensors"),
                "teacher.safetensors" => embedded!("teacher.safetensors"),
                "batch.safetensors" => embedded!("batch.safetensors"),
                _ => embedded!("expected.safetensors"),
            };
            TensorFile::from_static(name, bytes)
        };
        Self::new("embedded ViT record", Path::new("fixture.json"), embedded!("fixture.json"), file)
    }

    /// The record in a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("fixture.json");
        let json = std::fs::read(&path).map_err(|e| {
            Error::file(
                &path,
                format!("cannot be read ({e}); a record is a folder with fixture.json and its tensors"),
            )
        })?;
        Self::new(&shown(folder), &path, &json, |name| TensorFile::open(folder.join(name)))
    }

    fn new(name: &str, path: &Path, json: &[u8], file: impl Fn(&str) -> Result<TensorFile>) -> Result<Self> {
        // the architecture first: a record of something else has other fields
        #[derive(Deserialize)]
        struct Arch {
            arch: String,
        }
        let broken =
            |e: serde_json::Error| Error::file(path, format!("is not a record of training steps: {e}"));
        let Arch { arch } = serde_json::from_slice(json).map_err(broken)?;
        let known: Vec<&str> = Student::names().filter_map(|name| name.strip_suffix("_dynamic")).collect();
        if !known.contains(&arch.as_str()) {
            let known = known.join(", ");
            return Err(Error::file(path, format!("records a `{arch}`; this version replays {known}")));
        }
        let record: Record = serde_json::from_slice(json).map_err(broken)?;
        if record.steps.is_empty() {
            return Err(Error::file(path, "records no steps"));
        }
        let problem = |(s, step): (usize, &StepExpectation)| Some((s, step.problem(record.ranks)?));
        if let Some((s, problem)) = record.steps.iter().enumerate().find_map(problem) {
            return Err(Error::file(path, format!("step {s} {problem}")));
        }
        let batch = |rank: usize| match record.ranks {
            1 => file("batch.safetensors"),
            _ => file(&format!("batch.rank{rank}.safetensors")),
        };
        Ok(Self {
            name: name.to_string(),
            student: file("student.safetensors")?,
            teacher: file("teacher.safetensors")?,
            batches: (0..record.ranks).map(batch).collect::<Result<_>>()?,
            expected: file("expected.safetensors")?,
            teacher_temp: record.loss.teacher_temp,
            record,
        })
    }

    /// How many ranks the record is of.
    pub fn ranks(&self) -> usize {
        self.record.ranks
    }

    /// Largest error of a kind of quantity that passes in single precision, of which other records are asked
    /// `usual`: twice what single precision promises of this record, where that is known, for half of the
    /// error may come from the order of sums. The Swin's gradients and what follows from them are noisier than
    /// a ViT's by half, as they are in PyTorch's own float32 (docs/performance.md). Of several ranks' losses after
    /// updates as much is asked as of the ViT's of one.
    pub(super) fn tolerance(&self, kind: &str, usual: f64) -> f64 {
        let promised = self.record.single_precision.get(kind).and_then(Value::as_f64);
        match (promised, self.record.arch.as_str(), kind) {
            (Some(promised), ..) => usual.max(2.0 * promised),
            (None, ..) if self.record.ranks > 1 && kind == "losses after updates" => 2.5 * usual,
            (None, "swin", "gradients" | "features" | "teacher parameters") => 1.5 * usual,
            _ => usual,
        }
    }

    /// PyTorch's own error in single precision that stands under `key`, or the largest of those behind a step, as
    /// `step0.targets`.
    pub(super) fn pytorch_error(&self, key: &str) -> Option<f64> {
        let of_step = |name: &str| {
            let step = name.strip_prefix("step").and_then(|rest| rest.split_once('.'));
            step.is_some_and(|(step, rest)| rest == key && step.parse::<usize>().is_ok())
        };
        let known = self.record.pytorch_float32_error.iter();
        known
            .filter(|(name, _)| *name == key || of_step(name))
            .filter_map(|(_, e)| e.as_f64())
            .reduce(f64::max)
    }

    /// A rank's recorded images of a step, of so many channels, whose global crops have masks of `cells` a side.
    pub(super) fn step(&self, step: usize, rank: usize, cells: usize, channels: usize) -> Result<Batch> {
        let file = &self.batches[rank];
        let CropsRecord { batch: images, global_size, local_size, local_number } = self.record.crops;
        let group = |name: &'static str, views: usize, size: usize| -> Result<CropGroup> {
            let stored = format!("step{step}.{name}_crops");
            let shape = [views * images, channels, size, size];
            let pixels = file.read_f32_as(&stored, &shape)?;
            Ok(CropGroup { name, views, channels, size, pixels: pixels.into(), masks: None })
        };
        let stored = format!("step{step}.masks");
        file.expect_shape(&stored, &[2 * images, cells * cells])?;
        let masks = Some(Masks { side: cells, values: file.read_u8(&stored)? });
        let mut groups = vec![CropGroup { masks, ..group(GLOBAL, 2, global_size)? }];
        if local_number > 0 {
            groups.push(group(LOCAL, local_number, local_size)?);
        }
        Ok(Batch::new(images, groups)?.at_step(step as u64))
    }

    /// The recorded settings as a config.
    pub fn config(&self) -> Result<Config> {
        let r = &self.record;
        let (s, l, o) = (&r.student, &r.loss, &r.optim);
        let mut c = Config::default();
        let arch = format!("{}_dynamic", r.arch);
        let family = Student::families().into_iter().find(|family| family.name() == arch);
        let keys = family.map_or_else(Vec::new, |family| family.keys());
        // what a record has beside the settings follows from the backbone
        let known = s.iter().filter(|(key, _)| keys.iter().any(|known| known.name == key.as_str()));
        let mut settings = vec![format!("student.arch={arch}")];
        settings.extend(known.map(|(key, value)| format!("student.{key}={value}")));
        settings.push("student.drop_path_rate=0.0".into());
        c.apply(&settings)?;
        c.crops.global_crops_size = r.crops.global_size;
        c.crops.local_crops_size = r.crops.local_size;
        c.crops.local_crops_number = r.crops.local_number;
        c.dino.heads.head_n_prototypes.clone_from(&r.heads.prototypes);
        c.dino.heads.head_hidden_dim = r.heads.hidden_dim;
        c.dino.heads.head_bottleneck_dim = r.heads.bottleneck_dim;
        c.dino.lambda_ie = l.lambda_ie;
        c.dino.student_temp = l.student_temp;
        c.dino.koleo_loss_weight = l.koleo_weight;
        c.dino.loss_weight = l.dino_weight;
        c.dino.sinkhorn_iterations = l.sinkhorn_iterations;
        c.ibot.loss_weight = l.ibot_weight;
        c.ibot.separate_head = r.heads.separate_ibot_head;
        c.loading.batch_size_per_gpu = r.crops.batch;
        c.step.centering = match l.centering.as_str() {
            "sinkhorn_knopp" => Centering::SinkhornKnopp,
            "centering" => Centering::Centering,
            other => return Err(Error::config("train.centering", format!("the record names `{other}`"))),
        };
        c.optim.scaling_rule = ScalingRule::None;
        c.optim.lr = o.lr;
        c.optim.clip_grad = o.clip_grad;
        c.optim.adamw_beta1 = o.beta1;
        c.optim.adamw_beta2 = o.beta2;
        c.optim.adamw_eps = o.eps;
        c.optim.layerwise_decay = o.layerwise_decay;
        c.optim.patch_embed_lr_mult = o.patch_embed_lr_mult;
        Ok(c)
    }
}

//! A recorded run of the official code: `fixture.json` and its tensors.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::config::{Centering, Config, ScalingRule};
use crate::error::{Error, Result};
use crate::models::grid::Network;
use crate::train::tensor_file::TensorFile;

/// `fixture.json`, as far as a replay needs it.
#[derive(Deserialize)]
pub(super) struct Record {
    student: StudentRecord,
    pub crops: CropsRecord,
    heads: HeadsRecord,
    loss: LossRecord,
    pub optim: OptimRecord,
    pub steps: Vec<StepExpectation>,
    pub features: Vec<FeatureExpectation>,
    pub pytorch_float32_error: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct StudentRecord {
    min_embed_dim: usize,
    max_embed_dim: usize,
    min_depth: usize,
    max_depth: usize,
    head_dim: usize,
    patch_size: usize,
    layerscale: f64,
    width_interval: usize,
    depth_interval: usize,
    net_select_scale: f64,
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
    network: [usize; 2],
    pub total: f64,
    pub components: BTreeMap<String, f64>,
    pub grad_norm: BTreeMap<String, f64>,
}

/// Which network's features were recorded under which number.
#[derive(Deserialize)]
pub(super) struct FeatureExpectation {
    pub index: usize,
    network: [usize; 2],
}

impl StepExpectation {
    pub fn network(&self) -> Network {
        Network { width: self.network[0], depth: self.network[1] }
    }
}

impl FeatureExpectation {
    pub fn network(&self) -> Network {
        Network { width: self.network[0], depth: self.network[1] }
    }
}

/// A recorded run.
pub struct Fixture {
    /// What it is called in reports: the folder, or "embedded".
    pub name: String,
    pub(super) record: Record,
    pub(super) student: TensorFile,
    pub(super) teacher: TensorFile,
    pub(super) batch: TensorFile,
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
        let file = |name: &str, bytes: &'static [u8]| TensorFile::from_static(name, bytes);
        Self::new(
            "embedded ViT record",
            Path::new("fixture.json"),
            embedded!("fixture.json"),
            [
                file("student.safetensors", embedded!("student.safetensors"))?,
                file("teacher.safetensors", embedded!("teacher.safetensors"))?,
                file("batch.safetensors", embedded!("batch.safetensors"))?,
                file("expected.safetensors", embedded!("expected.safetensors"))?,
            ],
        )
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
        let file = |name: &str| TensorFile::open(folder.join(name));
        Self::new(
            &folder.display().to_string(),
            &path,
            &json,
            [
                file("student.safetensors")?,
                file("teacher.safetensors")?,
                file("batch.safetensors")?,
                file("expected.safetensors")?,
            ],
        )
    }

    fn new(name: &str, path: &Path, json: &[u8], files: [TensorFile; 4]) -> Result<Self> {
        // the architecture first: another one has other fields
        #[derive(Deserialize)]
        struct Arch {
            arch: String,
        }
        let broken =
            |e: serde_json::Error| Error::file(path, format!("is not a record of training steps: {e}"));
        let Arch { arch } = serde_json::from_slice(json).map_err(broken)?;
        if arch != "vit" {
            return Err(Error::file(path, format!("records a `{arch}`; this version replays `vit`")));
        }
        let record: Record = serde_json::from_slice(json).map_err(broken)?;
        if record.steps.is_empty() {
            return Err(Error::file(path, "records no steps"));
        }
        let [student, teacher, batch, expected] = files;
        let teacher_temp = record.loss.teacher_temp;
        Ok(Self { name: name.to_string(), record, student, teacher, batch, expected, teacher_temp })
    }

    /// The recorded settings as a config.
    pub fn config(&self) -> Result<Config> {
        let r = &self.record;
        let (s, l, o) = (&r.student, &r.loss, &r.optim);
        let mut c = Config::default();
        c.student.patch_size = s.patch_size;
        c.student.min_embed_dim = s.min_embed_dim;
        c.student.max_embed_dim = s.max_embed_dim;
        c.student.min_depth = s.min_depth;
        c.student.max_depth = s.max_depth;
        c.student.head_dim = s.head_dim;
        c.student.width_interval = s.width_interval;
        c.student.depth_interval = s.depth_interval;
        c.student.net_select_scale = s.net_select_scale;
        c.student.layerscale = s.layerscale;
        c.student.drop_path_rate = 0.0;
        c.crops.global_crops_size = r.crops.global_size;
        c.crops.local_crops_size = r.crops.local_size;
        c.crops.local_crops_number = r.crops.local_number;
        c.dino.head_n_prototypes.clone_from(&r.heads.prototypes);
        c.dino.head_hidden_dim = r.heads.hidden_dim;
        c.dino.head_bottleneck_dim = r.heads.bottleneck_dim;
        c.dino.lambda_ie = l.lambda_ie;
        c.dino.student_temp = l.student_temp;
        c.dino.koleo_loss_weight = l.koleo_weight;
        c.dino.loss_weight = l.dino_weight;
        c.dino.sinkhorn_iterations = l.sinkhorn_iterations;
        c.ibot.loss_weight = l.ibot_weight;
        c.ibot.separate_head = r.heads.separate_ibot_head;
        c.train.batch_size_per_gpu = r.crops.batch;
        c.train.centering = match l.centering.as_str() {
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

//! Running the recorded steps and comparing.

use std::collections::BTreeMap;
use std::path::Path;

use super::Fixture;
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;
use crate::files::tensor_writer::{TensorSpec, write_tensors};
use crate::files::whole::write_whole;
use crate::nn::parameters::FlatBuffers;
use crate::optim::adamw::StepSettings;
use crate::optim::loss_scale::ScaleState;
use crate::poa::model::why_single;
use crate::poa::settings::Precision;
use crate::poa::{PoaModel, StepInputs};
use crate::tensor::{Device, Tensor};
use crate::train::step::apply;

/// One kind of quantity and how far it is from the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The kind.
    pub kind: &'static str,
    /// How many numbers or tensors of it were compared.
    pub compared: usize,
    /// The worst relative error, |a−b|/|b| or ‖a−b‖/‖b‖.
    pub worst: f64,
    /// Where that was.
    pub at: String,
    /// PyTorch's own error in float32, where it was recorded.
    pub pytorch: Option<f64>,
    /// Largest error that passes.
    pub tolerance: f64,
}

impl Check {
    /// Whether the kind passes; NaN does not.
    pub fn passes(&self) -> bool {
        self.compared > 0 && self.worst <= self.tolerance
    }
}

/// What a replay computed.
pub struct Replay {
    /// All kinds of quantities.
    pub checks: Vec<Check>,
    /// Every number, by the record's names.
    values: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Replay {
    /// Whether every check passes.
    pub fn passes(&self) -> bool {
        self.checks.iter().all(Check::passes)
    }

    /// Writes every number that was computed as safetensors.
    pub fn dump(&self, path: &Path) -> Result<()> {
        let specs: Vec<_> =
            self.values.iter().map(|(name, (shape, _))| TensorSpec::f32(name.as_str(), shape)).collect();
        write_whole(path, |partial| {
            write_tensors(partial, &specs, |name| match self.values.get(name) {
                Some((_, values)) => Ok(values.clone()),
                None => Err(Error::file(path, format!("`{name}` was not computed"))),
            })
            .map(|_| ())
        })
    }
}

/// Worst errors by kind.
struct Comparison<'a> {
    fixture: &'a Fixture,
    precision: Precision,
    checks: Vec<Check>,
    values: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// A kind of quantity.
struct Kind {
    name: &'static str,
    /// Largest error that passes in single precision, but for the record's slack.
    single: f64,
    /// The same in mixed precision.
    mixed: f64,
    /// Key of PyTorch's own error in the record.
    key: &'static str,
}

const fn kind(name: &'static str, single: f64, mixed: f64, key: &'static str) -> Kind {
    Kind { name, single, mixed, key }
}

// Of mixed precision: of losses, norms and gradients of a first step what tests/mixed_precision.rs asks; of the
// rest three to six times what llvmpipe's drivers differ by (docs/devices.md). Features are always single.
const LOSSES: Kind = kind("losses", 2e-6, 5e-3, "losses");
const LATER_LOSSES: Kind = kind("losses after updates", 2e-6, 1e-2, "losses");
const NORMS: Kind = kind("gradient norms", 2e-5, 1e-2, "grad_norm");
const GRADIENTS: Kind = kind("gradients", 2e-5, 3e-2, "step0.grad");
const FEATURES: Kind = kind("features", 2e-5, 5e-4, "features");
const STUDENT: Kind = kind("student parameters", 5e-5, 2e-2, "student");
const STUDENT_QKV: Kind = kind("student qkv biases", 2e-3, 1e-1, "student.qkv_bias");
const TEACHER: Kind = kind("teacher parameters", 2e-6, 1e-3, "teacher");
const TEACHER_QKV: Kind = kind("teacher qkv biases", 1e-4, 2e-3, "teacher.qkv_bias");

/// How much wider the tolerances of mixed precision are for products of bfloat16, which has three bits less than half
/// precision; not eight times, as nothing but products' operands is rounded.
const BF16: f64 = 4.0;

/// The loss scale of a replay in mixed precision: as much as the gradients of all records bear, so that no step
/// is skipped.
const LOSS_SCALE: f32 = 256.0;

impl Comparison<'_> {
    fn note(&mut self, kind: &Kind, at: &str, error: f64) {
        let Kind { name: kind, single, mixed, key } = *kind;
        let tolerance = match self.precision {
            Precision::F32 => self.fixture.tolerance(kind, single),
            Precision::Mixed => mixed,
            Precision::Bf16 => mixed * BF16,
        };
        let check = match self.checks.iter_mut().find(|c| c.kind == kind) {
            Some(check) => check,
            None => {
                let last = self.fixture.record.steps.len() - 1;
                let recorded = &self.fixture.record.pytorch_float32_error;
                let value = recorded.get(key).or_else(|| recorded.get(&format!("step{last}.{key}")));
                self.checks.push(Check {
                    kind,
                    compared: 0,
                    worst: -1.0,
                    at: String::new(),
                    pytorch: value
                        .and_then(serde_json::Value::as_f64)
                        .filter(|_| self.precision == Precision::F32),
                    tolerance,
                });
                self.checks.last_mut().expect("just pushed")
            }
        };
        check.compared += 1;
        // NaN counts as worst
        if error.is_nan() || error > check.worst {
            (check.worst, check.at) = (error, at.to_string());
        }
    }

    fn number(&mut self, kind: &Kind, name: String, got: f64, want: f64) {
        self.note(kind, &name, (got - want).abs() / want.abs().max(1e-30));
        self.values.insert(name, (vec![1], vec![got as f32]));
    }

    fn tensor(&mut self, kind: &Kind, name: &str, shape: &[usize], got: Vec<f32>) -> Result<()> {
        let want = self.fixture.expected.read_f32_as(name, shape)?;
        let distance: f64 = got.iter().zip(&want).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
        let norm: f64 = want.iter().map(|b| (*b as f64).powi(2)).sum();
        let error = if norm > 0.0 { (distance / norm).sqrt() } else { distance.sqrt() };
        self.note(kind, name, error);
        self.values.insert(name.to_string(), (shape.to_vec(), got));
        Ok(())
    }

    fn parameters(&mut self, what: &str, values: &FlatBuffers, kinds: [&Kind; 2]) -> Result<()> {
        let last = self.fixture.record.steps.len() - 1;
        for place in values.layout().places() {
            let name = &place.spec.name;
            let kind = kinds[name.ends_with("qkv.linear.bias") as usize];
            self.tensor(kind, &format!("step{last}.{what}.{name}"), &place.spec.shape, values.read(name)?)?;
        }
        Ok(())
    }
}

fn load(buffers: &FlatBuffers, file: &TensorFile) -> Result<()> {
    for place in buffers.layout().places() {
        let values = file.read_f32_as(&place.spec.name, &place.spec.shape)?;
        buffers.write(&place.spec.name, &values)?;
    }
    Ok(())
}

/// Replays a recorded run on `device` in this precision, where the device can.
pub fn replay(fixture: &Fixture, device: &Device, precision: Precision) -> Result<Replay> {
    let record = &fixture.record;
    let mut config = fixture.config()?;
    let mut scale = 1.0;
    if let Some(why) = why_single(device, precision) {
        return Err(Error::Usage(format!("{}: {why}; leave --precision out", fixture.name)));
    }
    config.step.precision = precision;
    if precision == Precision::Mixed {
        scale = LOSS_SCALE;
    }
    let mut model = PoaModel::new(&config, device, 0)?;
    if let Some(state) = model.optimizer.loss_scale() {
        state.set(ScaleState { scale, good_steps: 0 })?;
    }
    load(model.student.values(), &fixture.student)?;
    load(model.teacher.values(), &fixture.teacher)?;
    model.trained().values_changed()?;
    let mut all = Comparison { fixture, precision, checks: Vec::new(), values: BTreeMap::new() };
    let cells = model.backbone.cells(record.crops.global_size);
    for (s, step) in record.steps.iter().enumerate() {
        let batch = fixture.step(s, cells, config.channels())?;
        let network = model.grid.named(&step.network().to_string()).map_err(|e| {
            Error::file(&fixture.name, format!("step {s} names a network outside the recorded grid: {e}"))
        })?;
        let mut inputs = StepInputs::new(network, fixture.teacher_temp);
        let done = model.forward_backward(&batch, &mut inputs)?;
        let report = done.read(&model.settings.weights)?;
        let losses = if s == 0 { &LOSSES } else { &LATER_LOSSES };
        all.number(losses, format!("step{s}.loss.total"), report.total, step.total);
        for (name, value) in report.components {
            let want = step
                .components
                .get(&name)
                .ok_or_else(|| Error::file(&fixture.name, format!("step {s} has no component `{name}`")))?;
            all.number(losses, format!("step{s}.loss.{name}"), value, *want);
        }
        if s == 0 {
            let gradients = model.student.gradients().expect("students are trained");
            for place in gradients.layout().places() {
                let name = &place.spec.name;
                let values = gradients.read(name)?.into_iter().map(|g| g / scale).collect();
                all.tensor(&GRADIENTS, &format!("step0.grad.{name}"), &place.spec.shape, values)?;
            }
        }
        let settings = StepSettings {
            lr: record.optim.lr,
            last_layer_lr: record.optim.lr,
            weight_decay: record.optim.weight_decay,
            teacher_momentum: record.optim.teacher_momentum,
        };
        let measured = apply(&mut model.trained(), &done.total, settings)?;
        for (module, norm) in model.student.values().layout().modules().iter().zip(&measured.norms) {
            let want = step.grad_norm.get(module).copied().unwrap_or(f64::NAN);
            all.number(&NORMS, format!("step{s}.grad_norm.{module}"), *norm, want);
        }
        if !measured.finite {
            return Err(Error::Mismatch(format!("{}: step {s} is not finite", fixture.name)));
        }
    }
    all.parameters("student", model.student.values(), [&STUDENT, &STUDENT_QKV])?;
    all.parameters("teacher", model.teacher.values(), [&TEACHER, &TEACHER_QKV])?;
    let shape = fixture.batch.shape("features.images")?.to_vec();
    let images = Tensor::from_slice(device, &shape, &fixture.batch.read_f32("features.images")?)?;
    for f in &record.features {
        let network = f.network();
        let (cls, tokens) = model.teacher_encoder().features(network, &images, true)?;
        let tokens = tokens.expect("asked for").to_vec()?;
        let width = model.backbone.feature_width(network);
        let per_image = tokens.len() / (shape[0] * width);
        let name = |part: &str| format!("features.{}.{part}", f.index);
        all.tensor(&FEATURES, &name("clstoken"), &[shape[0], width], cls.to_vec()?)?;
        all.tensor(&FEATURES, &name("patchtokens"), &[shape[0], per_image, width], tokens)?;
    }
    Ok(Replay { checks: all.checks, values: all.values })
}

//! Running the recorded steps and comparing.

use std::path::Path;

use super::Fixture;
use super::compare::{
    CENTERS, Check, Comparison, FEATURES, GRADIENTS, LATER_LOSSES, LOSSES, NORMS, STUDENT, TARGETS, TEACHER,
    Values,
};
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::files::tensor_file::TensorFile;
use crate::files::tensor_writer::{TensorSpec, write_tensors};
use crate::files::whole::write_whole;
use crate::nn::parameters::FlatBuffers;
use crate::optim::adamw::StepSettings;
use crate::optim::loss_scale::ScaleState;
use crate::poa::losses::{HeadRecord, LossReport};
use crate::poa::model::why_single;
use crate::poa::settings::Precision;
use crate::poa::{PoaModel, StepInputs};
use crate::tensor::{Device, Tensor};
use crate::train::gradient_sum::GradientSum;
use crate::train::step::apply;

/// What a replay computed.
pub struct Replay {
    /// All kinds of quantities.
    pub checks: Vec<Check>,
    /// Every number, by the record's names.
    values: Values,
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

/// The loss scale of a replay in mixed precision: as much as the gradients of all records bear, so that no step
/// is skipped.
const LOSS_SCALE: f32 = 256.0;

fn load(buffers: &FlatBuffers, file: &TensorFile) -> Result<()> {
    for place in buffers.layout().places() {
        let values = file.read_f32_as(&place.spec.name, &place.spec.shape)?;
        buffers.write(&place.spec.name, &values)?;
    }
    Ok(())
}

/// Replays a recorded run on `device` in this precision, where the device can. `ranks` are as many as the record is
/// of; each replays its own part, and what the first returns has the checks and numbers of all.
pub fn replay(
    fixture: &Fixture,
    device: &Device,
    precision: Precision,
    ranks: &Collective,
) -> Result<Replay> {
    let (recorded, here) = (fixture.ranks(), ranks.size());
    if recorded != here {
        return Err(Error::Usage(format!(
            "{} is a record of {recorded} rank{}, and this is a run of {here}: start it with as many as the record has, \
             or without others, when ranks are threads",
            fixture.name,
            if recorded == 1 { "" } else { "s" }
        )));
    }
    if let Some(why) = why_single(device, precision) {
        return Err(Error::Usage(format!("{}: {why}; leave --precision out", fixture.name)));
    }
    let mut config = fixture.config()?;
    config.step.precision = precision;
    let model = PoaModel::of_rank(&config, device, 0, (ranks.share(), ranks))?;
    let scale = if precision == Precision::Mixed { LOSS_SCALE } else { 1.0 };
    if let Some(state) = model.optimizer.loss_scale() {
        state.set(ScaleState { scale, good_steps: 0 })?;
    }
    load(model.student.values(), &fixture.student)?;
    load(model.teacher.values(), &fixture.teacher)?;
    let sum = GradientSum::new(ranks, &model.student);
    let mut own = Own { fixture, model, sum, scale, channels: config.channels() };
    own.model.trained().values_changed()?;
    let mut all = Comparison::new(fixture, precision, ranks);
    let steps = fixture.record.steps.len();
    for s in 0..steps {
        own.step(&mut all, s)?;
        let model = &own.model;
        if s + 1 == steps || all.knows_parameters(model, s) {
            all.parameters(&format!("step{s}.student"), model.student.values(), &STUDENT)?;
            all.parameters(&format!("step{s}.teacher"), model.teacher.values(), &TEACHER)?;
        }
    }
    if ranks.leads() {
        features(&mut all, fixture, &own.model)?;
    }
    let (checks, values) = all.finish(ranks)?;
    Ok(Replay { checks, values })
}

/// This rank's part of a run.
struct Own<'a> {
    fixture: &'a Fixture,
    model: PoaModel,
    sum: Option<GradientSum>,
    /// The loss scale.
    scale: f32,
    /// Of the images.
    channels: usize,
}

impl Own<'_> {
    fn step(&mut self, all: &mut Comparison, s: usize) -> Result<()> {
        let Self { fixture, model, .. } = self;
        let (record, ranks) = (&fixture.record, model.ranks.clone());
        let (step, rank) = (&record.steps[s], ranks.rank());
        let cells = model.backbone.cells(record.crops.global_size);
        let batch = fixture.step(s, rank, cells, self.channels)?;
        let network = step.network(rank).map_or_else(String::new, |network| network.to_string());
        let network = model.grid.named(&network).map_err(|e| {
            Error::file(&fixture.name, format!("step {s} names a network outside the recorded grid: {e}"))
        })?;
        let mut inputs = StepInputs {
            share: 1.0 / ranks.size() as f64,
            keep_targets: !ranks.is_alone(),
            ..StepInputs::new(network, fixture.teacher_temp)
        };
        if let Some(sum) = &self.sum {
            sum.begin();
        }
        let done = model.forward_backward(&batch, &mut inputs)?;
        let loss = match &self.sum {
            Some(sum) => sum.finish(&done.total)?,
            None => done.total.clone(),
        };

        let kind = if s == 0 { &LOSSES } else { &LATER_LOSSES };
        let own = done.read(&model.settings.weights)?;
        if let Some(expected) = step.ranks.get(rank) {
            all.losses(kind, &format!("step{s}.rank{rank}"), own.clone(), &expected.losses)?;
            all.targets(&format!("step{s}.rank{rank}.targets"), &done.heads)?;
        }
        let mean = LossReport::mean(&LossReport::of_all_ranks(vec![own], &ranks)?);
        all.losses(kind, &format!("step{s}"), mean, &step.losses)?;
        all.centers(&format!("step{s}.center"), model)?;
        if s == 0 {
            let gradients = model.student.gradients().expect("students are trained");
            for place in gradients.layout().places() {
                let name = &place.spec.name;
                let values = gradients.read(name)?.into_iter().map(|g| g / self.scale).collect();
                all.tensor(&GRADIENTS, &format!("step0.grad.{name}"), &place.spec.shape, values)?;
            }
        }

        let settings = StepSettings {
            lr: record.optim.lr,
            last_layer_lr: record.optim.lr,
            weight_decay: record.optim.weight_decay,
            teacher_momentum: record.optim.teacher_momentum,
        };
        let measured = apply(&mut model.trained(), &loss, settings)?;
        for (module, norm) in model.student.values().layout().modules().iter().zip(&measured.norms) {
            let want = step.grad_norm.get(module).copied().unwrap_or(f64::NAN);
            all.number(&NORMS, format!("step{s}.grad_norm.{module}"), *norm, want);
        }
        if !measured.finite {
            return Err(Error::Mismatch(format!("{}: step {s} is not finite", fixture.name)));
        }
        Ok(())
    }
}

impl Comparison<'_> {
    /// Every head's targets, which a record of several ranks has.
    fn targets(&mut self, what: &str, heads: &[HeadRecord]) -> Result<()> {
        for head in heads {
            for (targets, rows) in head.targets.iter().flatten().zip(["cls", "patch"]) {
                let Some(targets) = targets else { continue };
                let values = targets.to_vec()?.into_iter().map(|p| p as f32).collect();
                let shape = [targets.rows(), targets.prototypes()];
                self.tensor(&TARGETS, &format!("{what}.{rows}.{}", head.index), &shape, values)?;
            }
        }
        Ok(())
    }

    /// The centres after a step, where there are some and the record has them.
    fn centers(&mut self, what: &str, model: &PoaModel) -> Result<()> {
        for head in &model.heads {
            let seen = [head.part.has_cls(), head.part.has_masked()];
            for ((center, rows), seen) in head.centers.iter().flatten().zip(["cls", "patch"]).zip(seen) {
                let name = format!("{what}.{rows}.{}", head.projection.index);
                if seen && self.knows(&name) {
                    self.tensor(&CENTERS, &name, center.shape(), center.to_vec()?)?;
                }
            }
        }
        Ok(())
    }

    /// Whether the record has the parameters after step `s`.
    fn knows_parameters(&self, model: &PoaModel, s: usize) -> bool {
        let first = model.student.values().layout().places().first();
        first.is_some_and(|place| self.knows(&format!("step{s}.student.{}", place.spec.name)))
    }
}

/// Features of the final teacher's sub-networks.
fn features(all: &mut Comparison, fixture: &Fixture, model: &PoaModel) -> Result<()> {
    let file = &fixture.batches[0];
    let shape = file.shape("features.images")?.to_vec();
    let images = Tensor::from_slice(&model.device, &shape, &file.read_f32("features.images")?)?;
    for f in &fixture.record.features {
        let network = f.network();
        let (cls, tokens) = model.teacher_encoder().features(network, &images, true)?;
        let tokens = tokens.expect("asked for").to_vec()?;
        let width = model.backbone.feature_width(network);
        let per_image = tokens.len() / (shape[0] * width);
        let name = |part: &str| format!("features.{}.{part}", f.index);
        all.tensor(&FEATURES, &name("clstoken"), &[shape[0], width], cls.to_vec()?)?;
        all.tensor(&FEATURES, &name("patchtokens"), &[shape[0], per_image, width], tokens)?;
    }
    Ok(())
}

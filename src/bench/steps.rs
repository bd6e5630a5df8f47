//! Whole training steps: forward and backward of all branches, losses, clipping, AdamW and EMA.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::harness::{Bench, Event, Ready, Sink, wrong};
use crate::data::{self, Loader};
use crate::error::{Error, Result};
use crate::memory;
use crate::optim::adamw::StepSettings;
use crate::poa::model::why_single;
use crate::poa::rows::LossWeights;
use crate::poa::{PoaModel, StepInputs};
use crate::profile::Work;
use crate::recipes::Config;
use crate::tensor::Device;
use crate::train::step::Stepper;

/// Memory that a step of ViT-L takes with the recipe's batch (measured on the CPU device).
const VIT_L_BYTES: u64 = 14 << 30;

pub(super) fn run(bench: &Bench, sink: &mut Sink) -> Result<()> {
    for (name, recipe) in
        [("step/tiny", "bench_tiny"), ("step/vit-s", "bench_vit_s"), ("step/vit-l", "bench_vit_l")]
    {
        if !bench.wanted(name) {
            continue;
        }
        if let Some(reason) = left_out(bench, name) {
            sink(bench, Event::Note(format!("{name}/{}: left out, {reason}", bench.device.kind())))?;
            continue;
        }
        // the share of useful arithmetic is not counted for a whole step; the time is what is compared
        bench.case(sink, name, Work::default(), || step(bench, recipe))?;
        let peak = bench.device.peak_bytes() >> 20;
        sink(bench, Event::Note(format!("{name}/{}: peak device memory {peak} MiB", bench.device.kind())))?;
    }
    Ok(())
}

/// Why a step is not timed on this device.
fn left_out(bench: &Bench, name: &str) -> Option<String> {
    match (&bench.device, name) {
        (_, "step/vit-s") if bench.software() && !bench.full() => {
            Some("a software adapter takes half a minute a step".into())
        }
        (_, "step/vit-l") if bench.software() => Some("a software adapter takes many minutes a step".into()),
        (_, "step/vit-l") if !bench.full() => Some("`cargo bench -- step/vit-l` times it".into()),
        (Device::Cpu(_), "step/vit-l") => match memory::available() {
            Some(free) if free >= VIT_L_BYTES => None,
            Some(free) => {
                Some(format!("{} GiB of memory are free, {} needed", free >> 30, VIT_L_BYTES >> 30))
            }
            None => Some("how much memory is free is not known on this system".into()),
        },
        _ => None,
    }
}

fn step<'a>(bench: &'a Bench, recipe: &str) -> Result<Ready<'a>> {
    // another batch than the recipe's, for devices with more memory, and another precision
    let others =
        [("POA_BENCH_BATCH", "train.batch_size_per_gpu"), ("POA_BENCH_PRECISION", "train.precision")];
    let settings: Vec<String> = others
        .into_iter()
        .filter_map(|(variable, key)| Some(format!("{key}={}", std::env::var(variable).ok()?)))
        .collect();
    let mut config = Config::load(recipe, &settings)?;
    config.resolve(1)?;
    if let Some(why) = why_single(&bench.device, config.step.precision) {
        return Err(Error::Usage(format!("POA_BENCH_PRECISION={}: {why}", config.step.precision.name())));
    }
    let mut model = PoaModel::new(&config, &bench.device, 0)?;
    let network = model
        .grid
        .named(&config.student.elastic().fixed_network)
        .map_err(|e| Error::config("student.fixed_network", e))?;
    let source = data::open(&config.data.spec, &config.data.reading())?;
    let batch = Loader::new(source, config.loader()?)?.next()?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let settings =
        StepSettings { lr: 1e-4, last_layer_lr: 1e-4, weight_decay: 0.04, teacher_momentum: 0.992 };
    let weights = LossWeights::of(&config);
    let mut stepper = Stepper::default();
    let record = std::rc::Rc::new(std::cell::Cell::new(None));
    let last = record.clone();
    Ready::new(
        move || {
            let mut how = StepInputs::new(network, 0.04).with_drop_path(&mut rng);
            let losses = model.forward_backward(&batch, &mut how)?;
            stepper.apply(&mut model.trained(), &losses.total, settings, ())?;
            record.set(Some(losses));
            Ok(())
        },
        move || {
            let total = last.take().expect("the step has run").read(&weights)?.total;
            if total.is_finite() { Ok(()) } else { Err(wrong("step", format!("a loss of {total}"))) }
        },
    )
}

//! Training in mixed precision: the numbers stay near those of single precision, overflow skips a step and
//! moves the loss scale, a resumed run continues bit for bit, and a device without half precision says so.

use std::path::{Path, PathBuf};

use half::f16;
use poa_gpu::data::{self, Batch, Loader};
use poa_gpu::files::checkpoint::Checkpoint;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::ops::matmul::multiplies_bf16;
use poa_gpu::optim::adamw::{GradientReport, StepSettings};
use poa_gpu::optim::loss_scale::ScaleState;
use poa_gpu::poa::losses::StepRecord;
use poa_gpu::poa::{PoaModel, PoaTask, StepInputs};
use poa_gpu::recipes::Config;
use poa_gpu::tensor::Device;
use poa_gpu::train::run_folder::RunFolder;
use poa_gpu::train::save::RunState;
use poa_gpu::train::step::apply;
use poa_gpu::train::trainer::{Outcome, Start, Trainer};

const MIXED: &str = "train.precision=\"mixed\"";
const BF16: &str = "train.precision=\"bf16\"";

/// A recipe of each family.
const RECIPES: [&str; 3] = ["demo", "demo_swin", "demo_resnet"];

fn demo(recipe: &str, settings: &[&str]) -> Config {
    let mut config = Config::recipe(recipe).unwrap();
    config.apply(settings).unwrap();
    config.resolve(1).unwrap();
    config
}

fn gpu() -> Device {
    ops::open(&DeviceChoice::Gpu).expect("these tests need a wgpu adapter; kernels-tests/run installs one")
}

fn batches(config: &Config) -> impl Iterator<Item = Batch> {
    let source = data::open(&config.data.spec, &data::Reading::default()).unwrap();
    let mut loader = Loader::new(source, config.loader().unwrap()).unwrap();
    std::iter::from_fn(move || Some(loader.next().unwrap()))
}

/// Forward and backward of one step.
fn backward(model: &PoaModel, batch: &Batch) -> StepRecord {
    let network = model.grid.named("middle").unwrap();
    model.forward_backward(batch, &mut StepInputs::new(network, 0.05)).unwrap()
}

/// A whole step.
fn step(model: &mut PoaModel, batch: &Batch, lr: f64) -> (StepRecord, GradientReport) {
    let record = backward(model, batch);
    let settings = StepSettings { lr, last_layer_lr: lr, weight_decay: 0.04, teacher_momentum: 0.99 };
    let report = apply(&mut model.trained(), &record.total, settings).unwrap();
    (record, report)
}

#[test]
fn losses_and_gradients_are_near_those_of_single_precision() {
    check_gradients("demo", &["student.layerscale=0.1"]);
}

#[test]
fn losses_and_gradients_of_a_swin_are_near_those_of_single_precision() {
    check_gradients("demo_swin", &[]);
}

#[test]
fn losses_and_gradients_of_a_resnet_are_near_those_of_single_precision() {
    check_gradients("demo_resnet", &[]);
}

/// |a − b| / |b|
fn distance(a: &[f64], b: &[f32]) -> f64 {
    let square = |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>();
    let difference = square(&mut a.iter().zip(b).map(|(a, b)| a - *b as f64));
    (difference / square(&mut b.iter().map(|b| *b as f64)).max(1e-30)).sqrt()
}

/// How far each parameter's gradient, divided by `scale`, is from another model's; the farthest comes last.
fn distances(of: &PoaModel, from: &PoaModel, scale: f32) -> Vec<(f64, String)> {
    let [of, from] = [of, from].map(|m| m.student.gradients().unwrap());
    let places = from.layout().places().iter();
    let mut all: Vec<(f64, String)> = places
        .map(|place| {
            let name = place.spec.name.clone();
            let a: Vec<f64> = of.read(&name).unwrap().iter().map(|v| (*v / scale) as f64).collect();
            (distance(&a, &from.read(&name).unwrap()), name)
        })
        .collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all
}

/// A model in single precision whose weights have been rounded to half, after forward and backward.
fn with_rounded_weights(config: &Config, device: &Device, batch: &Batch) -> PoaModel {
    let model = PoaModel::new(config, device, 5).unwrap();
    for values in [model.student.values(), model.teacher.values()] {
        for place in values.layout().places() {
            let rounded =
                values.read(&place.spec.name).unwrap().into_iter().map(|v| f16::from_f32(v).to_f32());
            values.write(&place.spec.name, &rounded.collect::<Vec<f32>>()).unwrap();
        }
    }
    backward(&model, batch);
    model
}

fn check_gradients(recipe: &str, settings: &[&str]) {
    let device = gpu();
    let settings = [&["train.batch_size_per_gpu=4"], settings].concat();
    let single = demo(recipe, &settings);
    let mixed = demo(recipe, &[&settings[..], &[MIXED]].concat());
    let batch = batches(&single).next().unwrap();
    let models = [&single, &mixed].map(|c| PoaModel::new(c, &device, 5).unwrap());
    // as much as this first step's gradients bear
    let scale = 256.0;
    models[1].optimizer.loss_scale().unwrap().set(ScaleState { scale, good_steps: 0 }).unwrap();
    let [(losses, report), (half_losses, half_report)] = [0, 1].map(|i| {
        let model: &PoaModel = &models[i];
        let record = backward(model, &batch);
        model.optimizer.measure(model.student.gradients().unwrap(), &record.total).unwrap();
        let control = model.optimizer.control().to_vec::<f32>().unwrap();
        (record.read(&model.settings.weights).unwrap(), GradientReport::from_control(&control))
    });
    assert_eq!((report.loss_scale, half_report.loss_scale), (None, Some(scale as f64)));
    for ((name, want), (_, got)) in losses.components.iter().zip(&half_losses.components) {
        assert!((got - want).abs() <= 5e-3 * want.abs(), "{name}: {got}, {want} in single precision");
    }
    for (got, want) in half_report.norms.iter().zip(&report.norms) {
        assert!((got / want - 1.0).abs() < 1e-2, "a gradient's norm is {got}, {want} in single precision");
    }
    let all = distances(&models[1], &models[0], scale);
    // what lies near a kink of ReLU is beyond it once weights are rounded, whatever the arithmetic
    let rounded = distances(&with_rounded_weights(&single, &device, &batch), &models[0], 1.0);
    let ((error, name), (least, _)) = (&all[all.len() - 1], &rounded[rounded.len() - 1]);
    println!("{recipe}: gradients within {error:.4}, within {least:.4} where weights are rounded alone");
    assert!(*error < (2.0 * least).max(1e-2), "gradient of {name}: {error:e} from that of single precision");
}

/// The teacher's and the student's halves are the rounded values after every kind of change.
#[test]
fn halves_follow_the_values() {
    RECIPES.iter().for_each(|recipe| check_halves(recipe));
}

fn check_halves(recipe: &str) {
    let config = demo(recipe, &["train.batch_size_per_gpu=4", MIXED]);
    let mut model = PoaModel::new(&config, &gpu(), 5).unwrap();
    let batch = batches(&config).next().unwrap();
    let check = |model: &PoaModel, when: &str| {
        for parameters in [&model.student, &model.teacher] {
            let halves = parameters.halves().unwrap();
            for (values, halves) in parameters.values().buffers().iter().zip(halves.buffers()) {
                let rounded = values.to_vec::<f32>().unwrap().into_iter().map(f16::from_f32);
                assert!(rounded.eq(halves.to_vec::<f16>().unwrap()), "{when}");
            }
        }
    };
    check(&model, "new");
    step(&mut model, &batch, 0.01);
    check(&model, "updated");
    let name = model.student.values().layout().places()[0].spec.name.clone();
    let other = vec![0.3; model.student.values().get(&name).unwrap().elements()];
    model.student.values().write(&name, &other).unwrap();
    model.trained().values_changed().unwrap();
    check(&model, "written");
}

#[test]
fn overflow_skips_the_step_and_halves_the_loss_scale() {
    RECIPES.iter().for_each(|recipe| check_overflow(recipe));
}

fn check_overflow(recipe: &str) {
    let config = demo(recipe, &["train.batch_size_per_gpu=4", MIXED]);
    let mut model = PoaModel::new(&config, &gpu(), 5).unwrap();
    let batch = batches(&config).next().unwrap();
    let snapshot = |m: &PoaModel| {
        let sets = [m.student.values(), m.teacher.values(), &m.optimizer.m, &m.optimizer.v];
        sets.map(|s| s.buffers().iter().flat_map(|b| b.to_vec::<f32>().unwrap()).collect::<Vec<_>>())
    };
    let before = snapshot(&model);
    let scale = |model: &PoaModel| model.optimizer.loss_scale().unwrap().get().unwrap();
    let high = ScaleState { scale: (1u64 << 40) as f32, good_steps: 7 };
    model.optimizer.loss_scale().unwrap().set(high).unwrap();
    let (record, report) = step(&mut model, &batch, 0.1);
    let losses = record.read(&model.settings.weights).unwrap();
    assert!(losses.total.is_finite(), "the forward pass knows nothing of the scale");
    assert!(!report.finite);
    assert!(snapshot(&model) == before, "a skipped step moved something");
    assert_eq!(scale(&model), ScaleState { scale: (1u64 << 39) as f32, good_steps: 0 });
    // it falls until gradients fit, and then training goes on
    let mut steps = 0;
    while !step(&mut model, &batch, 0.1).1.finite {
        steps += 1;
        assert!(steps < 40, "no scale fits");
    }
    let after = snapshot(&model);
    assert!(after[0] != before[0] && after.iter().flatten().all(|v| v.is_finite()));
    assert_eq!(scale(&model).good_steps, 1);
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("poa-mixed-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

/// Trains to step `stop` in a folder, from its newest checkpoint where it has one.
fn train(recipe: &str, out: &Path, device: &Device, settings: &[&str], stop: usize) -> Outcome<PoaTask> {
    let config = demo(recipe, settings);
    let resume = out.exists();
    let run = match resume {
        true => RunFolder::open(out).unwrap(),
        false => RunFolder::create(Some(out), "demo", &config.to_toml().unwrap()).unwrap(),
    };
    let start = Start { resume, ..Start::default() };
    let (plan, text) = (config.plan(), config.to_toml().unwrap());
    let source = data::open(&config.data.spec, &data::Reading::default()).unwrap();
    let task = PoaTask::new(config, text, device, source, run.dir()).unwrap();
    let mut trainer = Trainer::new(task, plan, run, &start).unwrap();
    trainer.stop_after(stop);
    trainer.run().unwrap()
}

/// The lines of `metrics.jsonl` with a loss, without what depends on the clock.
fn metrics(out: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    lines.retain(|l| l.get("loss").is_some());
    lines.iter_mut().for_each(|l| drop(l.as_object_mut().unwrap().remove("time")));
    lines
}

const SMALL: [&str; 5] = [
    "train.batch_size_per_gpu=8",
    "dino.head_hidden_dim=128",
    "evaluation.train_images=50",
    "evaluation.val_images=20",
    "evaluation.k=[5]",
];

const TWELVE: [&str; 2] = ["train.total_steps=12", "train.log_every=2"];

const SHALLOW: &str = "student.max_depth=2";

#[test]
fn fifty_steps_have_the_losses_of_single_precision() {
    let settings = [SHALLOW, "train.total_steps=50", "train.log_every=5"];
    let losses = check_losses("demo", &gpu(), MIXED, &settings, 0.02);
    assert!(losses.last().unwrap() < &(0.98 * losses[0]), "nothing was learnt: {losses:?}");
}

#[test]
fn steps_of_a_swin_have_the_losses_of_single_precision() {
    check_losses("demo_swin", &gpu(), MIXED, &TWELVE, 0.01);
}

#[test]
fn steps_of_a_resnet_have_the_losses_of_single_precision() {
    check_losses("demo_resnet", &gpu(), MIXED, &TWELVE, 0.01);
}

#[test]
fn steps_with_swiglu_and_registers_have_the_losses_of_single_precision() {
    let (gated, registers) = ("student.ffn_layer=\"swiglufused\"", "student.num_register_tokens=4");
    check_losses("demo", &gpu(), MIXED, &[&[SHALLOW, gated][..], &TWELVE].concat(), 0.01);
    // registers begin near zero, where LayerNorm's gradient is large: the loss scale skips the first two steps, so that
    // this run is two steps behind
    check_losses("demo", &gpu(), MIXED, &[&[SHALLOW, gated, registers][..], &TWELVE].concat(), 0.03);
}

/// Products of bfloat16, or single precision where the processor has none.
#[test]
fn steps_in_bfloat16_have_the_losses_of_single_precision() {
    let settings = [SHALLOW, "train.total_steps=50", "train.log_every=5"];
    let losses = check_losses("demo", &Device::cpu(), BF16, &settings, 0.02);
    assert!(losses.last().unwrap() < &(0.98 * losses[0]), "nothing was learnt: {losses:?}");
    for recipe in ["demo_swin", "demo_resnet"] {
        check_losses(recipe, &Device::cpu(), BF16, &TWELVE, 0.01);
    }
}

/// Logged losses of a run in another precision lie within `tolerance` of those in single precision, which are
/// given back.
fn check_losses(recipe: &str, device: &Device, lower: &str, settings: &[&str], tolerance: f64) -> Vec<f64> {
    let run = |precision: &str| {
        let settings = [&SMALL[..], settings, &[precision]].concat();
        let out = folder(&format!("{recipe}-{}-{}", device.kind(), precision.len()));
        train(recipe, &out, device, &settings, usize::MAX);
        let losses: Vec<f64> = metrics(&out).iter().map(|l| l["loss"].as_f64().unwrap()).collect();
        let skipped = metrics(&out).last().unwrap()["skipped"].as_u64().unwrap();
        std::fs::remove_dir_all(out).unwrap();
        (losses, skipped)
    };
    let (single, _) = run("train.precision=\"f32\"");
    let (mixed, skipped) = run(lower);
    assert_eq!(single.len(), mixed.len());
    assert!(skipped <= 3, "{skipped} steps were skipped");
    for (i, (got, want)) in mixed.iter().zip(&single).enumerate() {
        assert!((got / want - 1.0).abs() <= tolerance, "line {i}: {got}, {want} in single precision");
    }
    println!("{recipe}, {lower}: {mixed:.4?}, {skipped} skipped, {single:.4?} in single precision");
    single
}

#[test]
fn a_resumed_run_continues_bit_for_bit() {
    let (loss_scale, lines) = resumes(&gpu(), MIXED);
    assert!(loss_scale.is_some_and(|s| s.good_steps > 0), "{loss_scale:?}");
    assert!(lines.iter().all(|l| l.get("loss_scale").is_some()));
}

#[test]
fn a_resumed_run_in_bfloat16_continues_bit_for_bit() {
    resumes(&Device::cpu(), BF16);
}

/// A run in three pieces is the run in one; gives its loss scale and lines.
fn resumes(device: &Device, precision: &str) -> (Option<ScaleState>, Vec<serde_json::Value>) {
    let settings = ["train.total_steps=6", "train.log_every=1", "student.drop_path_rate=0.3", precision];
    let settings = [&SMALL[..], &[SHALLOW], &settings].concat();
    let run = |name: &str, stops: &[usize]| {
        let out = folder(&format!("{name}-{}", device.kind()));
        let outcomes: Vec<Outcome<PoaTask>> =
            stops.iter().map(|stop| train("demo", &out, device, &settings, *stop)).collect();
        let last = outcomes.last().unwrap();
        let files = ["student.safetensors", "teacher.safetensors", "optimizer.safetensors"];
        let files = files.map(|f| std::fs::read(last.checkpoint.join(f)).unwrap());
        let state: RunState = Checkpoint::open(&last.checkpoint).unwrap().state().unwrap();
        let lines = metrics(&out);
        std::fs::remove_dir_all(out).unwrap();
        (files, state.loss_scale, lines)
    };
    let (whole, pieces) = (run("whole", &[6]), run("pieces", &[2, 3, 6]));
    assert_eq!(whole.1, pieces.1, "loss scale");
    assert_eq!(whole.2, pieces.2, "metrics");
    assert!(whole.0 == pieces.0, "parameters and moments");
    (whole.1, whole.2)
}

/// A device without half precision trains in single precision, to the bit, and says so once.
#[test]
fn the_cpu_trains_in_the_precision_it_has() {
    let run = |name: &str, precision: &str| {
        let out = folder(name);
        let settings = [&SMALL[..], &[SHALLOW, "train.total_steps=2", precision]].concat();
        let outcome = train("demo", &out, &Device::cpu(), &settings, usize::MAX);
        let weights = std::fs::read(outcome.checkpoint.join("student.safetensors")).unwrap();
        let log = std::fs::read_to_string(out.join("train.log")).unwrap();
        std::fs::remove_dir_all(out).unwrap();
        (weights, log.matches("single precision").count())
    };
    let (single, mixed) = (run("cpu-single", "train.precision=\"f32\""), run("cpu-mixed", MIXED));
    assert!(single.0 == mixed.0);
    assert_eq!((single.1, mixed.1), (0, 1));
    let lower = run("cpu-bf16", BF16);
    assert_eq!((lower.0 != single.0, lower.1), (multiplies_bf16(), usize::from(!multiplies_bf16())));
}

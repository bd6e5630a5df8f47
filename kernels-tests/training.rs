//! Whole training steps: both devices agree, runs repeat bit for bit, non-finite numbers are skipped, checkpoints hold
//! everything.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use poa_gpu::Result;
use poa_gpu::config::Config;
use poa_gpu::data::{self, Batch, Loader};
use poa_gpu::models::grid::Network;
use poa_gpu::optim::adamw::{GradientReport, StepSettings};
use poa_gpu::poa::losses::LossReport;
use poa_gpu::poa::{PoaModel, StepBatch, StepInputs};
use poa_gpu::tensor::{Device, DeviceChoice};
use poa_gpu::train::run_folder::RunFolder;
use poa_gpu::train::save::{RunState, load, save};
use poa_gpu::train::trainer::{Trainer, loader_config};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("poa-training-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

fn demo(settings: &[&str]) -> Config {
    let mut config = Config::recipe("demo").unwrap();
    config.apply(settings).unwrap();
    config.resolve(1).unwrap();
    config
}

fn batch(config: &Config) -> Batch {
    Loader::new(data::open("shapes").unwrap(), loader_config(config)).unwrap().next().unwrap()
}

fn step(model: &PoaModel, config: &Config, batch: &Batch, network: Network) -> Result<LossReport> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let inputs = StepBatch {
        images: batch.images,
        global: &batch.global,
        global_size: config.crops.global_crops_size,
        local: &batch.local,
        local_size: config.crops.local_crops_size,
        masks: Some(&batch.masks),
    };
    let mut how = StepInputs { network, teacher_temp: 0.05, drop_path: Some(&mut rng) };
    let record = model.forward_backward(&inputs, &mut how)?;
    model.optimizer.measure(model.student.gradients().unwrap(), &record.total)?;
    record.read(&model.settings.weights)
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let d: f64 = a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
    let n: f64 = b.iter().map(|b| (*b as f64).powi(2)).sum();
    if n > 0.0 { (d / n).sqrt() } else { d.sqrt() }
}

/// One step of the demo on both devices: every loss and every gradient, with each kind of stochastic depth.
#[test]
fn a_demo_step_is_the_same_on_both_devices() {
    for settings in [
        &["train.batch_size_per_gpu=8"][..],
        &["train.batch_size_per_gpu=8", "student.drop_path_rate=0.3"],
        &["train.batch_size_per_gpu=4", "student.drop_path_rate=0.1", "train.centering=\"centering\""],
        &["train.batch_size_per_gpu=4", "ibot.separate_head=true", "crops.local_crops_number=1"],
    ] {
        let config = demo(settings);
        let batch = batch(&config);
        let devices =
            [Device::cpu(), Device::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs one")];
        let models: Vec<PoaModel> = devices.iter().map(|d| PoaModel::new(&config, d, 5).unwrap()).collect();
        let network = models[0].grid.named("middle").unwrap();
        let losses: Vec<_> = models.iter().map(|m| step(m, &config, &batch, network).unwrap()).collect();
        for ((name, cpu), (_, gpu)) in losses[0].components.iter().zip(&losses[1].components) {
            assert!((cpu - gpu).abs() <= 5e-6 * cpu.abs(), "{settings:?} {name}: {cpu} and {gpu}");
        }
        let [cpu, gpu] = [&models[0], &models[1]].map(|m| m.student.gradients().unwrap());
        for place in cpu.layout().places() {
            let name = &place.spec.name;
            let (a, b) = (gpu.read(name).unwrap(), cpu.read(name).unwrap());
            let error = distance(&a, &b);
            assert!(error <= 5e-5, "{settings:?} gradient of {name}: {error:e}");
            assert!(b.iter().any(|v| *v != 0.0) || name.contains("mask_token"), "{name} has no gradient");
        }
    }
}

#[test]
fn a_run_repeats_bit_for_bit() {
    for choice in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let run = |name: &str| {
            let config = demo(&[
                "train.batch_size_per_gpu=4",
                "train.total_steps=4",
                "train.log_every=1",
                "student.drop_path_rate=0.3",
                "evaluation.train_images=100",
                "evaluation.val_images=50",
            ]);
            let device = Device::open(&choice).unwrap();
            let out = folder(name);
            let run = RunFolder::create(Some(&out), "demo", &config).unwrap();
            let metrics = run.metrics();
            let trainer = Trainer::new(config, &device, data::open("shapes").unwrap(), run).unwrap();
            let outcome = trainer.run(&AtomicBool::new(false)).unwrap();
            let lines: Vec<serde_json::Value> = std::fs::read_to_string(metrics)
                .unwrap()
                .lines()
                .map(|l| {
                    let mut line: serde_json::Value = serde_json::from_str(l).unwrap();
                    line.as_object_mut().unwrap().remove("time");
                    line
                })
                .collect();
            let teacher = std::fs::read(outcome.checkpoint.join("teacher.safetensors")).unwrap();
            assert_eq!(outcome.knn.len(), 3 * 2, "three networks, two numbers of neighbours");
            std::fs::remove_dir_all(out).unwrap();
            (lines, teacher)
        };
        let (first, second) = (run("first"), run("second"));
        assert!(first.0.len() >= 4 + 6, "four steps and six evaluations are logged");
        assert_eq!(first.0, second.0, "metrics on {choice:?}");
        assert!(first.1 == second.1, "weights on {choice:?}");
    }
}

#[test]
fn a_non_finite_step_changes_nothing() {
    for choice in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let config = demo(&["train.batch_size_per_gpu=4"]);
        let device = Device::open(&choice).unwrap();
        let model = PoaModel::new(&config, &device, 5).unwrap();
        let mut batch = batch(&config);
        let network = model.grid.smallest();
        let settings = StepSettings { lr: 0.1, last_layer_lr: 0.1, weight_decay: 0.1, teacher_momentum: 0.5 };
        let snapshot = |m: &PoaModel| {
            let sets = [m.student.values(), m.teacher.values(), &m.optimizer.m, &m.optimizer.v];
            sets.map(|s| s.buffers().iter().flat_map(|b| b.to_vec::<f32>().unwrap()).collect::<Vec<_>>())
        };
        let before = snapshot(&model);
        batch.global[17] = f32::NAN;
        step(&model, &config, &batch, network).unwrap();
        let control = model.optimizer.control().to_vec::<f32>().unwrap();
        assert!(!GradientReport::from_control(&control).finite);
        model.optimizer.update(&model.student, model.teacher.values(), settings).unwrap();
        assert!(snapshot(&model) == before, "{choice:?}: a skipped step moved something");
        let gradients = model.student.gradients().unwrap();
        assert!(gradients.buffers().iter().all(|b| b.to_vec::<f32>().unwrap().iter().all(|v| *v == 0.0)));
        // the next step is an ordinary one
        batch.global[17] = 0.0;
        step(&model, &config, &batch, network).unwrap();
        let control = model.optimizer.control().to_vec::<f32>().unwrap();
        assert!(GradientReport::from_control(&control).finite);
        model.optimizer.update(&model.student, model.teacher.values(), settings).unwrap();
        let after = snapshot(&model);
        assert!(after[0] != before[0] && after[1] != before[1]);
        assert!(after.iter().flatten().all(|v| v.is_finite()));
    }
}

#[test]
fn a_checkpoint_brings_everything_back() {
    let config = demo(&["train.batch_size_per_gpu=4", "train.centering=\"centering\""]);
    let device = Device::cpu();
    let mut model = PoaModel::new(&config, &device, 5).unwrap();
    let batch = batch(&config);
    let settings = StepSettings { lr: 1e-3, last_layer_lr: 1e-3, weight_decay: 0.1, teacher_momentum: 0.9 };
    step(&model, &config, &batch, model.grid.smallest()).unwrap();
    model.optimizer.update(&model.student, model.teacher.values(), settings).unwrap();
    model.optimizer.applied = 1;
    let state = RunState { step: 1, applied: 1, seed: 5 };
    let dir = folder("checkpoint").join("step-1");
    std::fs::create_dir_all(dir.parent().unwrap()).unwrap();
    save(&model, &state, &dir).unwrap();
    let mut other = PoaModel::new(&config, &device, 6).unwrap();
    assert_eq!(load(&mut other, &dir).unwrap(), state);
    let values = |m: &PoaModel| {
        let mut all: Vec<Vec<f32>> = Vec::new();
        for set in [m.student.values(), m.teacher.values(), &m.optimizer.m, &m.optimizer.v] {
            all.extend(set.layout().places().iter().map(|p| set.read(&p.spec.name).unwrap()));
        }
        all.extend(
            m.heads.iter().flat_map(|h| h.centers.iter().flatten()).map(|t| t.to_vec::<f32>().unwrap()),
        );
        all
    };
    assert!(values(&model) == values(&other));

    // a model of other sizes: one line that names the tensor
    let wider = demo(&["train.batch_size_per_gpu=4", "dino.head_hidden_dim=64"]);
    let mut wider = PoaModel::new(&wider, &device, 6).unwrap();
    let error = load(&mut wider, &dir).unwrap_err().to_string();
    assert!(error.contains("dino_head.mlp0.0.linear.weight") && !error.contains('\n'), "{error}");

    // cut short
    let file = dir.join("teacher.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = load(&mut other, &dir).unwrap_err().to_string();
    assert!(error.contains("teacher.safetensors") && !error.contains('\n'), "{error}");
    std::fs::remove_dir_all(dir.parent().unwrap()).unwrap();
}

/// The layout may be split over several buffers where an adapter binds little.
#[test]
fn initial_weights_depend_on_the_seed_alone() {
    let config = demo(&[]);
    let read = |seed: u64| {
        let model = PoaModel::new(&config, &Device::cpu(), seed).unwrap();
        let names = ["backbone.pos_embed", "dino_head.last_layer1.weight_v"];
        names.map(|n| (model.student.values().read(n).unwrap(), model.teacher.values().read(n).unwrap()))
    };
    let (a, b, c) = (read(1), read(1), read(2));
    assert!(a == b && a != c);
    assert!(a.iter().all(|(student, teacher)| student == teacher), "the teacher starts as a copy");
}

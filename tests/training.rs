//! Whole training steps: both devices agree, runs repeat bit for bit, non-finite numbers are skipped,
//! checkpoints hold everything.

use std::path::{Path, PathBuf};

use poa_gpu::data::batch::GLOBAL;
use poa_gpu::data::{self, Batch, Loader};
use poa_gpu::files::checkpoint::Checkpoint;
use poa_gpu::gpu::{Caps, DeviceChoice};
use poa_gpu::models::encoder::Encoder;
use poa_gpu::models::grid::Network;
use poa_gpu::ops;
use poa_gpu::ops::matmul::{Precision, Variant, by_timing_in, variants};
use poa_gpu::optim::adamw::StepSettings;
use poa_gpu::poa::losses::{LossReport, StepRecord};
use poa_gpu::poa::rows::LossWeights;
use poa_gpu::poa::{PoaModel, PoaTask, StepInputs};
use poa_gpu::recipes::Config;
use poa_gpu::recipes::teacher::Teacher;
use poa_gpu::share::{Place, Share};
use poa_gpu::tensor::{Device, Tensor};
use poa_gpu::train::run_folder::RunFolder;
use poa_gpu::train::save::{RunState, load, save};
use poa_gpu::train::step::apply;
use poa_gpu::train::trainer::{Start, Trainer};
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

fn task(config: &Config, device: &Device, dir: &Path) -> PoaTask {
    PoaTask::new(
        config.clone(),
        config.to_toml().unwrap(),
        device,
        data::open("shapes", &data::Reading::default()).unwrap(),
        dir,
    )
    .unwrap()
}

/// A run that starts, or goes on, in its folder.
fn trainer(config: &Config, device: &Device, run: RunFolder, start: &Start) -> Trainer<PoaTask> {
    Trainer::new(task(config, device, run.dir()), config.plan(), run, start).unwrap()
}

/// The lines of a `metrics.jsonl` without what depends on the clock.
fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|l| {
            let mut line: serde_json::Value = serde_json::from_str(l).unwrap();
            line.as_object_mut().unwrap().remove("time");
            line
        })
        .collect()
}

fn batch(config: &Config) -> Batch {
    Loader::new(data::open("shapes", &data::Reading::default()).unwrap(), config.loader().unwrap())
        .unwrap()
        .next()
        .unwrap()
}

/// Forward and backward of one step.
fn backward(model: &PoaModel, batch: &Batch, network: Network) -> StepRecord {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut how = StepInputs::new(network, 0.05).with_drop_path(&mut rng);
    model.forward_backward(batch, &mut how).unwrap()
}

fn losses(model: &PoaModel, record: &StepRecord) -> LossReport {
    record.read(&model.settings.weights).unwrap()
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
        let devices = [Device::cpu(), ops::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs one")];
        let models: Vec<PoaModel> = devices.iter().map(|d| PoaModel::new(&config, d, 5).unwrap()).collect();
        let network = models[0].grid.named("middle").unwrap();
        let losses: Vec<_> = models.iter().map(|m| losses(m, &backward(m, &batch, network))).collect();
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
            let device = ops::open(&choice).unwrap();
            let out = folder(name);
            let run = RunFolder::create(Some(&out), "demo", &config.to_toml().unwrap()).unwrap();
            let metrics = run.metrics();
            let outcome = trainer(&config, &device, run, &Start::default()).run().unwrap();
            let lines = lines(&metrics);
            let teacher = std::fs::read(outcome.checkpoint.join("teacher.safetensors")).unwrap();
            assert_eq!(outcome.task.gains(4).len(), 3 * 2, "three networks, two numbers of neighbours");
            std::fs::remove_dir_all(out).unwrap();
            (lines, teacher)
        };
        let (first, second) = (run("first"), run("second"));
        assert!(first.0.len() >= 4 + 6, "four steps and six evaluations are logged");
        assert_eq!(first.0, second.0, "metrics on {choice:?}");
        assert!(first.1 == second.1, "weights on {choice:?}");
    }
}

/// Times that the host waits for the last work it had recorded in a run of so many steps, and the run's metrics.
fn drains(device: &Device, settings: &[&str]) -> (u64, Vec<serde_json::Value>) {
    let Device::Gpu(gpu) = device else { unreachable!("a GPU was asked for") };
    let mut config = demo(&[
        "train.batch_size_per_gpu=2",
        "evaluation.train_images=20",
        "evaluation.val_images=10",
        "train.saveckp_freq=1000",
    ]);
    config.apply(settings).unwrap();
    let out = folder("drains");
    let run = RunFolder::create(Some(&out), "demo", &config.to_toml().unwrap()).unwrap();
    let (metrics, before) = (run.metrics(), gpu.drains());
    trainer(&config, device, run, &Start::default()).run().unwrap();
    let mut lines = lines(&metrics);
    // without those of evaluations
    lines.retain(|line| line.get("lr").is_some());
    std::fs::remove_dir_all(out).unwrap();
    (gpu.drains() - before, lines)
}

/// A step's numbers are copied behind its work, and looked at when the next step is with the device.
#[test]
fn reports_leave_the_device_something_to_do() {
    let adapter = ops::open(&DeviceChoice::Gpu).unwrap();
    let Device::Gpu(gpu) = &adapter else { unreachable!("a GPU was asked for") };
    for device in [&Device::rehearsal(gpu.caps()), &adapter] {
        let (most, every) = drains(device, &["train.total_steps=6", "train.log_every=1"]);
        assert_eq!(every.iter().map(|l| l["step"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        let (fewest, some) = drains(device, &["train.total_steps=6", "train.log_every=100"]);
        assert_eq!(some, [every[0].clone(), every[5].clone()]);
        let (short, _) = drains(device, &["train.total_steps=2", "train.log_every=1"]);
        println!("{}: {short} waits for everything in two steps, {most} in six", device.describe());
        // what is left is for the evaluations and the last checkpoint
        assert_eq!((most, fewest), (short, short), "{}", device.describe());
    }
}

#[test]
fn a_non_finite_step_changes_nothing() {
    for choice in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let config = demo(&["train.batch_size_per_gpu=4"]);
        let device = ops::open(&choice).unwrap();
        let mut model = PoaModel::new(&config, &device, 5).unwrap();
        let mut batch = batch(&config);
        let network = model.grid.smallest();
        let settings = StepSettings { lr: 0.1, last_layer_lr: 0.1, weight_decay: 0.1, teacher_momentum: 0.5 };
        let snapshot = |m: &PoaModel| {
            let sets = [m.student.values(), m.teacher.values(), &m.optimizer.m, &m.optimizer.v];
            sets.map(|s| s.buffers().iter().flat_map(|b| b.to_vec::<f32>().unwrap()).collect::<Vec<_>>())
        };
        let before = snapshot(&model);
        batch.pixels_mut(GLOBAL).unwrap()[17] = f32::NAN;
        let record = backward(&model, &batch, network);
        assert!(!apply(&mut model.trained(), &record.total, settings).unwrap().finite);
        assert!(snapshot(&model) == before, "{choice:?}: a skipped step moved something");
        assert_eq!(model.optimizer.applied, 0);
        let gradients = model.student.gradients().unwrap();
        assert!(gradients.buffers().iter().all(|b| b.to_vec::<f32>().unwrap().iter().all(|v| *v == 0.0)));
        // the next step is an ordinary one
        batch.pixels_mut(GLOBAL).unwrap()[17] = 0.0;
        let record = backward(&model, &batch, network);
        assert!(apply(&mut model.trained(), &record.total, settings).unwrap().finite);
        assert_eq!(model.optimizer.applied, 1);
        let after = snapshot(&model);
        assert!(after[0] != before[0] && after[1] != before[1]);
        assert!(after.iter().flatten().all(|v| v.is_finite()));
    }
}

#[test]
fn a_checkpoint_brings_everything_back() {
    let config = demo(&["train.batch_size_per_gpu=4", "train.centering=\"centering\""]);
    let device = Device::cpu();
    let dir = folder("checkpoint").join("step-1");
    std::fs::create_dir_all(dir.parent().unwrap()).unwrap();
    let mut saved = task(&config, &device, dir.parent().unwrap());
    let model = &mut saved.model;
    let batch = batch(&config);
    let settings = StepSettings { lr: 1e-3, last_layer_lr: 1e-3, weight_decay: 0.1, teacher_momentum: 0.9 };
    let record = backward(model, &batch, model.grid.smallest());
    apply(&mut model.trained(), &record.total, settings).unwrap();
    let state = RunState { step: 1, applied: 1, seed: 5, ..RunState::default() };
    save(&mut saved, RunState { applied: 0, ..state.clone() }, &dir).unwrap();
    let of_seed_6 = |config: &Config| {
        let mut config = config.clone();
        config.train.seed = 6;
        task(&config, &device, dir.parent().unwrap())
    };
    let mut other = of_seed_6(&config);
    assert_eq!(load(&mut other, &dir).unwrap(), state, "the optimiser says how many steps were applied");
    assert_eq!(other.model.optimizer.applied, 1);
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
    assert!(values(&saved.model) == values(&other.model));

    // the teacher alone, with everything it needs from the checkpoint
    let teacher = Teacher::open(&dir, &device).unwrap();
    assert_eq!((teacher.step, &teacher.config), (1, &config));
    let images = Tensor::from_slice(
        &device,
        &[2, 3, 32, 32],
        &batch.group(GLOBAL).unwrap().normalised()[..2 * 3 * 32 * 32],
    )
    .unwrap();
    let network = teacher.grid.named("middle").unwrap();
    let features =
        |encoder: Encoder| encoder.features(network, &images, false).unwrap().0.to_vec::<f32>().unwrap();
    assert_eq!(features(teacher.encoder()), features(saved.model.teacher_encoder()));

    // a model of other sizes: one line that names the tensor
    let wider = demo(&["train.batch_size_per_gpu=4", "dino.head_hidden_dim=64"]);
    let mut wider = of_seed_6(&wider);
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

/// A run in pieces, each on a device of its own: to `stops[0]` steps, resumed to `stops[1]`, and so on; everything that
/// it leaves.
fn in_pieces(
    name: &str,
    open: &dyn Fn(usize) -> Device,
    stops: &[usize],
    settings: &[&str],
) -> (Vec<serde_json::Value>, [Vec<u8>; 3]) {
    let out = folder(name);
    let mut last = None;
    for (piece, stop) in stops.iter().enumerate() {
        let config = demo(settings);
        let device = open(piece);
        let run = match piece {
            0 => RunFolder::create(Some(&out), "demo", &config.to_toml().unwrap()).unwrap(),
            _ => RunFolder::open(&out).unwrap(),
        };
        let start = Start { resume: piece > 0, ..Start::default() };
        let mut trainer = trainer(&config, &device, run, &start);
        trainer.stop_after(*stop);
        last = Some(trainer.run().unwrap().checkpoint);
    }
    let checkpoint = last.unwrap();
    let files = ["student.safetensors", "teacher.safetensors", "optimizer.safetensors"];
    let files = files.map(|f| std::fs::read(checkpoint.join(f)).unwrap());
    let metrics = lines(&out.join("metrics.jsonl"));
    std::fs::remove_dir_all(out).unwrap();
    (metrics, files)
}

/// 10 steps + resume + 10 are 20: every parameter, moment and metric, and so every sample; also where the
/// steps between a checkpoint and the end of the process are done again.
#[test]
fn a_resumed_run_continues_bit_for_bit() {
    for (choice, accumulation) in [(DeviceChoice::Cpu, 1), (DeviceChoice::Gpu, 1), (DeviceChoice::Cpu, 3)] {
        let accumulation = format!("train.accumulation_steps={accumulation}");
        let settings = [
            "train.batch_size_per_gpu=4",
            "train.total_steps=20",
            "train.log_every=3",
            "student.drop_path_rate=0.3",
            "train.centering=\"centering\"",
            "evaluation.eval_period_iterations=10",
            "evaluation.train_images=100",
            "evaluation.val_images=50",
            &accumulation,
        ];
        let open = |_| ops::open(&choice).unwrap();
        let whole = in_pieces("whole", &open, &[20], &settings);
        let halves = in_pieces("halves", &open, &[10, 20], &settings);
        assert_eq!(whole.0, halves.0, "metrics on {choice:?} with {accumulation}");
        assert!(whole.1 == halves.1, "parameters and moments on {choice:?} with {accumulation}");
        let losses = whole.0.iter().filter(|l| l.get("loss").is_some()).count();
        let evaluated = whole.0.iter().filter(|l| l.get("knn.48x2.10").is_some()).count();
        assert_eq!((losses, evaluated), (8, 3));
        if choice == DeviceChoice::Cpu {
            let many = in_pieces("many", &open, &[1, 7, 10, 13, 20], &settings);
            assert_eq!(whole.0, many.0);
            assert!(whole.1 == many.1);
        }
    }
}

#[test]
fn a_run_with_swiglu_and_registers_resumes_bit_for_bit() {
    for choice in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let settings = [
            "train.batch_size_per_gpu=4",
            "train.total_steps=6",
            "train.log_every=1",
            "student.drop_path_rate=0.3",
            "student.ffn_layer=\"swiglu\"",
            "student.num_register_tokens=4",
            "evaluation.eval_period_iterations=3",
            "evaluation.train_images=40",
            "evaluation.val_images=20",
        ];
        let open = |_| ops::open(&choice).unwrap();
        let whole = in_pieces("gated", &open, &[6], &settings);
        let pieces = in_pieces("gated-pieces", &open, &[2, 6], &settings);
        assert_eq!(whole.0, pieces.0, "metrics on {choice:?}");
        assert!(whole.1 == pieces.1, "parameters and moments on {choice:?}");
        assert!(whole.0.iter().any(|l| l.get("knn.48x2.10").is_some()));
    }
}

/// A checkpoint says how far its ranks have come together, and ranks of another number go on there.
#[test]
fn a_run_goes_on_on_another_number_of_ranks() {
    let out = folder("ranks");
    let settings = ["train.total_steps=20", "train.centering=\"centering\"", "evaluation.train_images=100"];
    let (mut place, mut before) = (Place::default(), None);
    for (share, batch, accumulation, done) in [
        (Share { rank: 1, ranks: 4 }, 4, 1, 3),
        (Share { rank: 0, ranks: 2 }, 3, 2, 5),
        (Share { rank: 1, ranks: 2 }, 3, 2, 6),
        (Share::ALL, 8, 1, 7),
    ] {
        let mut config = demo(&settings);
        config.loading.batch_size_per_gpu = batch;
        config.train.accumulation_steps = accumulation;
        let run = match before {
            None => RunFolder::create(Some(&out), "demo", &config.to_toml().unwrap()).unwrap(),
            Some(_) => RunFolder::open(&out).unwrap(),
        };
        let task = task(&config, &Device::cpu(), run.dir()).with_share(share).unwrap();
        let start = Start { resume: before.is_some(), ..Start::default() };
        let mut trainer = Trainer::new(task, config.plan(), run, &start).unwrap();
        trainer.stop_after(done);
        let outcome = trainer.run().unwrap();
        let state: RunState = Checkpoint::open(&outcome.checkpoint).unwrap().state().unwrap();
        let steps = done as u64 - before.map_or(0, |(_, steps)| steps);
        place.position += steps * (share.ranks * batch * accumulation) as u64;
        assert_eq!((state.step, state.ranks, state.place), (done as u64, share.ranks as u64, Some(place)));
        let log = std::fs::read_to_string(out.join("train.log")).unwrap();
        if let Some((ranks, _)) = before {
            let said = format!("goes on on {} ranks and had {ranks}: the rest of this epoch", share.ranks);
            assert_eq!(log.contains(&said), share.ranks != ranks, "{log}");
        }
        before = Some((share.ranks, done as u64));
    }
    std::fs::remove_dir_all(out).unwrap();
}

/// Which kernels products are made by changes no bit: by rule, timed, or as the cache of another machine may say, where
/// the run goes on there.
#[test]
fn a_run_is_the_same_whatever_timing_finds() {
    let settings = [
        "train.batch_size_per_gpu=16",
        "train.total_steps=4",
        "train.log_every=1",
        "evaluation.train_images=100",
        "evaluation.val_images=50",
    ];
    // subgroups of no known size: products by tiles, several of which fit
    let most = Caps { subgroup_size: (4, 64), ..Caps::everything() };
    let open = |_| ops::open_within(&DeviceChoice::Gpu, &most).unwrap();
    let by_rule = in_pieces("by-rule", &open, &[4], &settings);

    let cache = folder("cache");
    let mut tiles = String::new();
    if let Device::Gpu(gpu) = open(0) {
        let all = variants(gpu.caps(), Precision::Single);
        tiles = all
            .iter()
            .filter(|v| matches!(v, Variant::Tiled { .. }))
            .map(|v| format!("{v:?}"))
            .next_back()
            .unwrap();
    }
    let elsewhere = |piece| {
        if piece == 1 {
            let mut files = std::fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path());
            let file = files.next().expect("something was timed");
            let mut kept: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
            kept["choices"]
                .as_object_mut()
                .unwrap()
                .values_mut()
                .for_each(|choice| *choice = tiles.clone().into());
            std::fs::write(&file, kept.to_string()).unwrap();
        }
        let device = open(piece);
        by_timing_in(&device, Some(&cache));
        device
    };
    let timed = in_pieces("timed", &elsewhere, &[2, 4], &settings);
    assert_eq!(by_rule.0, timed.0, "metrics");
    assert!(by_rule.1 == timed.1, "parameters and moments");
    std::fs::remove_dir_all(cache).unwrap();
}

/// Activation checkpointing changes memory and nothing else, with every backbone and stochastic depth.
#[test]
fn recomputed_blocks_give_the_same_gradients_in_less_memory() {
    for (recipe, choice) in [
        ("demo", DeviceChoice::Cpu),
        ("demo", DeviceChoice::Gpu),
        ("demo_swin", DeviceChoice::Cpu),
        ("demo_resnet", DeviceChoice::Cpu),
    ] {
        let mut results = Vec::new();
        // a ResNet drops no path
        let rate = if recipe == "demo_resnet" { 0.0 } else { 0.3 };
        for checkpoints in ["false", "true"] {
            let mut config = Config::recipe(recipe).unwrap();
            let settings = [
                &format!("train.checkpoint_blocks={checkpoints}"),
                &format!("student.drop_path_rate={rate:?}"),
                "train.batch_size_per_gpu=4",
                // small heads, beside which the blocks count
                "dino.head_n_prototypes=[64, 64]",
                "dino.head_hidden_dim=64",
            ];
            config.apply(&settings).unwrap();
            config.resolve(1).unwrap();
            let device = ops::open(&choice).unwrap();
            let model = PoaModel::new(&config, &device, 5).unwrap();
            let before = device.peak_bytes();
            let report = losses(&model, &backward(&model, &batch(&config), model.grid.intact()));
            let gradients = model.student.gradients().unwrap();
            let bits: Vec<Vec<u32>> = gradients
                .buffers()
                .iter()
                .map(|b| b.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect())
                .collect();
            results.push((report.total, bits, device.peak_bytes() - before));
        }
        let [kept, recomputed] = &results[..] else { unreachable!("two runs") };
        assert_eq!(kept.0, recomputed.0, "{recipe} on {choice:?}");
        assert!(kept.1 == recomputed.1, "{recipe} on {choice:?}: other gradients");
        assert!(
            recomputed.2 < kept.2 * 9 / 10,
            "{recipe} on {choice:?}: {} of {} bytes",
            recomputed.2,
            kept.2
        );
    }
}

/// What the intact student gets alone is what it gets beside an elastic one that counts for nothing.
#[test]
fn without_an_elastic_student_the_intact_one_learns_the_same() {
    let configs = ["dino.branches=alone", "dino.lambda_ie=0.9999999999"]
        .map(|setting| demo(&["train.batch_size_per_gpu=4", "dino.koleo_loss_weight=0", setting]));
    let batch = batch(&configs[0]);
    for choice in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let device = ops::open(&choice).unwrap();
        let models = configs.each_ref().map(|c| PoaModel::new(c, &device, 5).unwrap());
        let network = models[1].grid.smallest();
        let [alone, both] = models.each_ref().map(|m| losses(m, &backward(m, &batch, network)));
        assert!(alone.components.iter().all(|(name, _)| !name.starts_with("distill")));
        assert!(both.components.iter().any(|(name, _)| name.starts_with("distill")));
        assert!((alone.total - both.total).abs() < 1e-6 * both.total);
        for (name, a) in &alone.components {
            let (_, b) = both.components.iter().find(|(other, _)| other == name).unwrap();
            assert!((a - b).abs() <= 1e-6 * b.abs(), "{choice:?} {name}: {a} and {b}");
        }
        let [alone, both] = models.each_ref().map(|m| m.student.gradients().unwrap());
        for place in both.layout().places() {
            let name = &place.spec.name;
            let error = distance(&alone.read(name).unwrap(), &both.read(name).unwrap());
            assert!(error <= 1e-5, "{choice:?} gradient of {name}: {error:e}");
        }
    }
    // its spreading has all of the weight then
    let koleo = ["alone", "poa"].map(|branches| {
        LossWeights::of(&demo(&[&format!("dino.branches={branches}"), "dino.koleo_loss_weight=0.3"])).koleo
    });
    assert_eq!(koleo, [0.3, 0.15]);
}

/// Two batches of two images are one of four, where nothing looks at the batch as a whole.
#[test]
fn accumulated_gradients_are_those_of_the_big_batch() {
    let big =
        demo(&["train.batch_size_per_gpu=4", "train.centering=\"centering\"", "dino.koleo_loss_weight=0"]);
    let whole = batch(&big);
    for choice in [DeviceChoice::Cpu, DeviceChoice::Gpu] {
        let device = ops::open(&choice).unwrap();
        let models = [0, 1].map(|_| PoaModel::new(&big, &device, 5).unwrap());
        let network = models[0].grid.named("middle").unwrap();
        let run = |model: &PoaModel, batch: &Batch, share: f64| {
            let mut inputs = StepInputs { share, ..StepInputs::new(network, 0.05) };
            model.forward_backward(batch, &mut inputs).unwrap().read(&model.settings.weights).unwrap()
        };
        let of_whole = run(&models[0], &whole, 1.0);
        let halves: Vec<LossReport> = (0..2)
            .map(|part| {
                // the centres move after every batch; both must see the first ones
                for center in models[1].heads.iter().flat_map(|h| h.centers.iter().flatten()) {
                    center.upload(&vec![0.0f32; center.elements()]).unwrap();
                }
                run(&models[1], &whole.part(2 * part..2 * part + 2).unwrap(), 0.5)
            })
            .collect();
        let of_halves = LossReport::mean(&halves);
        assert!((of_whole.total - of_halves.total).abs() < 2e-6 * of_whole.total.abs());
        for ((name, a), (other, b)) in of_whole.components.iter().zip(&of_halves.components) {
            assert!(name == other && (a - b).abs() <= 5e-6 * a.abs(), "{name}: {a} and {b}");
        }
        let [whole, halves] = [&models[0], &models[1]].map(|m| m.student.gradients().unwrap());
        for place in whole.layout().places() {
            let name = &place.spec.name;
            let error = distance(&halves.read(name).unwrap(), &whole.read(name).unwrap());
            assert!(error <= 2e-5, "{choice:?} gradient of {name}: {error:e}");
        }
    }
}

/// Entropy, divergence and spread as they are logged.
#[test]
fn the_health_of_a_step_is_the_same_on_both_devices() {
    let config = demo(&["train.batch_size_per_gpu=8"]);
    let batch = batch(&config).without_masks();
    let health = [DeviceChoice::Cpu, DeviceChoice::Gpu].map(|choice| {
        let model = PoaModel::new(&config, &ops::open(&choice).unwrap(), 5).unwrap();
        let mut how = StepInputs { health: true, ..StepInputs::new(model.grid.smallest(), 0.04) };
        model.forward_backward(&batch, &mut how).unwrap().health().unwrap().unwrap()
    });
    let [cpu, gpu] = &health;
    assert_eq!(cpu.heads.len(), 2);
    for (a, b) in cpu.heads.iter().zip(&gpu.heads) {
        assert!((a.entropy - b.entropy).abs() < 1e-5 && (a.kl - b.kl).abs() < 1e-5, "{a:?} {b:?}");
        assert!(a.entropy > 0.0 && a.entropy <= a.uniform && a.kl >= 0.0, "{a:?}");
    }
    assert!(
        (cpu.feature_std - gpu.feature_std).abs() < 1e-5 && cpu.feature_std > 0.0 && cpu.feature_std <= 1.0
    );
}

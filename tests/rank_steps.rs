//! Steps of several ranks: the record of the official code on two, and ranks beside one rank with all images.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use poa_gpu::collective::{Collective, Threads};
use poa_gpu::data::{self, Batch, Loader, Masks};
use poa_gpu::error::Error;
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::models::grid::Network;
use poa_gpu::nn::parameters::{FlatBuffers, Parameters};
use poa_gpu::ops;
use poa_gpu::optim::adamw::StepSettings;
use poa_gpu::poa::losses::LossReport;
use poa_gpu::poa::settings::Precision;
use poa_gpu::poa::{PoaModel, StepInputs};
use poa_gpu::recipes::Config;
use poa_gpu::tensor::Device;
use poa_gpu::train::gradient_sum::GradientSum;
use poa_gpu::train::step::{accumulate, apply};
use poa_gpu::verify::{Fixture, replay, replay_on_threads};

const BOTH: [DeviceChoice; 2] = [DeviceChoice::Cpu, DeviceChoice::Gpu];

fn open(choice: &DeviceChoice) -> Device {
    ops::open(choice).expect("kernels-tests/run installs a software adapter")
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures/vit_2ranks")
}

/// Of losses and their means, targets, norms, gradients, student and teacher after two steps, all on both ranks, and
/// of features.
const COMPARED: usize = 2 * 3 * 12 * 2 + 2 * 3 * 4 + 2 * 3 * 2 + 2 * 65 + 2 * 2 * 2 * 65 + 6;

fn holds(choice: &DeviceChoice, precision: Precision) {
    let record = Fixture::open(&folder()).unwrap();
    let done = replay_on_threads(&record, || ops::open(choice), precision).unwrap();
    for c in &done.checks {
        println!("{:<20} {:>3} compared, worst {:.1e} at {}", c.kind, c.compared, c.worst, c.at);
        assert!(c.passes(), "{} on {choice:?}: {c:?}", c.kind);
    }
    let all: usize = done.checks.iter().map(|c| c.compared).sum();
    assert_eq!(all, COMPARED, "every rank compares what is recorded of it and of all");
}

#[test]
fn the_record_of_two_holds_on_the_cpu_device() {
    holds(&DeviceChoice::Cpu, Precision::F32);
}

#[test]
fn the_record_of_two_holds_on_an_adapter() {
    holds(&DeviceChoice::Gpu, Precision::F32);
    holds(&DeviceChoice::Gpu, Precision::Mixed);
}

#[test]
fn the_dump_of_a_record_has_the_numbers_of_all() {
    let record = Fixture::open(&folder()).unwrap();
    let done = replay_on_threads(&record, || Ok(Device::cpu()), Precision::F32).unwrap();
    let path = std::env::temp_dir().join(format!("poa-dump-ranks-{}.safetensors", std::process::id()));
    done.dump(&path).unwrap();
    let (written, expected) =
        (TensorFile::open(&path).unwrap(), TensorFile::open(folder().join("expected.safetensors")).unwrap());
    for name in expected.names() {
        assert_eq!(written.shape(name).unwrap(), expected.shape(name).unwrap(), "{name}");
    }
    for name in ["step0.loss.total", "step2.rank0.loss.ibot_loss_1", "step2.rank1.loss.ibot_loss_1"] {
        assert!(written.contains(name), "{name}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_keeps_a_record_from_being_replayed_is_told() {
    let record = Fixture::open(&folder()).unwrap();
    let alone = replay(&record, &Device::cpu(), Precision::F32, &Collective::alone()).err().unwrap();
    assert!(matches!(&alone, Error::Usage(text) if text.contains("2 ranks")), "{alone}");
    let opened = AtomicUsize::new(0);
    let open = || match opened.fetch_add(1, Ordering::Relaxed) {
        0 => Ok(Device::cpu()),
        _ => Err(Error::Device("there is but one".into())),
    };
    let error = replay_on_threads(&record, open, Precision::F32).err().unwrap().to_string();
    assert!(error.contains("there is but one") && !error.contains("another rank"), "{error}");
}

/// A small network and small heads.
fn config(recipe: &str, settings: &[&str]) -> Config {
    let mut config = Config::recipe(recipe).unwrap();
    config.apply(&["dino.head_n_prototypes=[48, 80]", "dino.head_hidden_dim=64"]).unwrap();
    config
        .apply(&["ibot.head_n_prototypes=[40]", "ibot.head_hidden_dim=64", "student.drop_path_rate=0"])
        .unwrap();
    config.apply(settings).unwrap();
    config.resolve(1).unwrap();
    config
}

fn images(config: &Config) -> Batch {
    let source = data::open("shapes", &data::Reading::default()).unwrap();
    Loader::new(source, config.loader().unwrap()).unwrap().next().unwrap()
}

/// The same images with no patch hidden.
fn unmasked(batch: &Batch) -> Batch {
    let mut groups = batch.groups().to_vec();
    for Masks { values, .. } in groups.iter_mut().filter_map(|group| group.masks.as_mut()) {
        values.fill(0);
    }
    Batch::new(batch.images(), groups).unwrap()
}

/// Runs `rank` on so many threads that meet; their results in rank order.
fn on_ranks<T: Send>(size: usize, rank: impl Fn(&Collective) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let run = |side: Threads| {
            let rank = &rank;
            let ranks = move || Collective::over(move || Ok(side), Duration::from_secs(300)).unwrap();
            let thread = std::thread::Builder::new().stack_size(8 << 20);
            thread.spawn_scoped(scope, move || rank(&ranks())).unwrap()
        };
        let all: Vec<_> = Threads::meeting(size).into_iter().map(run).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A parameter's name and values.
type Named = (String, Vec<f32>);

/// What a rank holds after the gradients of a step are complete.
#[derive(Clone)]
struct Step {
    /// Means over micro-batches and ranks.
    losses: LossReport,
    loss: f32,
    gradients: Vec<Named>,
    /// Of every head: of cls rows, of masked rows.
    centers: Vec<[Vec<f32>; 2]>,
    /// Targets of masked patches, head by head, of the last micro-batch.
    patches: Vec<Vec<f64>>,
}

/// A model whose centres are somewhere, where it has some.
fn model(config: &Config, device: &Device, ranks: &Collective) -> PoaModel {
    let model = PoaModel::of_rank(config, device, 5, (ranks.share(), ranks)).unwrap();
    for center in model.heads.iter().flat_map(|head| head.centers.iter().flatten()) {
        let values: Vec<f32> = (0..center.elements()).map(|k| (k as f32 * 0.7).sin() * 0.3).collect();
        center.upload(&values).unwrap();
    }
    model
}

fn step(model: &PoaModel, batches: &[Batch], network: Network) -> (Step, poa_gpu::tensor::Tensor) {
    let sum = GradientSum::in_buckets(&model.ranks, &model.student, 10_000);
    let (mut reports, mut patches) = (Vec::new(), Vec::new());
    let own = accumulate(batches.len(), model.ranks.size(), |batch| {
        if let Some(sum) = sum.as_ref().filter(|_| batch.last) {
            sum.begin();
        }
        let mut inputs =
            StepInputs { share: batch.share, keep_targets: true, ..StepInputs::new(network, 0.05) };
        let done = model.forward_backward(&batches[batch.index], &mut inputs)?;
        reports.push(done.read(&model.settings.weights)?);
        let of_patches = done.heads.iter().filter_map(|head| head.targets.as_ref()?[1].as_ref());
        patches = of_patches.map(|targets| targets.to_vec().unwrap()).collect();
        Ok(done.total)
    });
    let own = own.unwrap();
    let loss = sum.map_or_else(|| own.clone(), |sum| sum.finish(&own).unwrap());
    let centers = model.heads.iter().filter_map(|head| head.centers.as_ref());
    let done = Step {
        losses: LossReport::mean(&LossReport::of_all_ranks(reports, &model.ranks).unwrap()),
        loss: loss.to_vec::<f32>().unwrap()[0],
        gradients: named(model.student.gradients().unwrap()),
        centers: centers.map(|both| both.each_ref().map(|center| center.to_vec().unwrap())).collect(),
        patches,
    };
    (done, loss)
}

fn named(values: &FlatBuffers) -> Vec<Named> {
    let places = values.layout().places().iter();
    places.map(|place| (place.spec.name.clone(), values.read(&place.spec.name).unwrap())).collect()
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let d: f64 = a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
    let n: f64 = b.iter().map(|b| (*b as f64).powi(2)).sum();
    if n > 0.0 { (d / n).sqrt() } else { d.sqrt() }
}

/// That one has the losses and gradients of the other, but for rounding.
fn alike(what: &str, a: &Step, b: &Step) {
    let mut worst = (0.0f64, "");
    assert_eq!(a.losses.components.len(), b.losses.components.len(), "{what}");
    for ((name, x), (other, y)) in a.losses.components.iter().zip(&b.losses.components) {
        assert!(name == other && (x - y).abs() <= 5e-6 * y.abs(), "{what}, {name}: {x} and {y}");
    }
    for loss in [a.losses.total, f64::from(a.loss)] {
        assert!((loss - b.losses.total).abs() <= 2e-6 * b.losses.total, "{what}: {loss}, {}", b.losses.total);
    }
    for ((name, x), (_, y)) in a.gradients.iter().zip(&b.gradients) {
        let error = distance(x, y);
        assert!(error <= 2e-5, "{what}: the gradient of {name} is {error:e} off");
        if error > worst.0 {
            worst = (error, name);
        }
    }
    println!("{what}: gradients are at most {:.1e} off, {}", worst.0, worst.1);
}

/// That all ranks hold the same bits.
fn same_on_all(what: &str, steps: &[Step]) {
    for other in &steps[1..] {
        assert!(steps[0].gradients == other.gradients && steps[0].centers == other.centers, "{what}");
        assert_eq!(steps[0].losses, other.losses, "{what}");
        assert_eq!(steps[0].loss.to_bits(), other.loss.to_bits(), "{what}");
    }
}

const CENTERING: &str = "train.centering=\"centering\"";
const SEPARATE: &str = "ibot.separate_head=true";

/// Where nothing but the targets looks at a batch as a whole, ranks are one rank with the images of all.
#[test]
fn four_ranks_are_one_with_all_images_and_repeat_to_the_bit() {
    for choice in BOTH {
        for settings in [&[][..], &[CENTERING], &[SEPARATE], &[SEPARATE, CENTERING]] {
            let what = format!("{choice:?} {settings:?}");
            let config = config(
                "demo",
                &[settings, &["train.batch_size_per_gpu=32", "dino.koleo_loss_weight=0"]].concat(),
            );
            let whole = images(&config);
            let alone = {
                let model = model(&config, &open(&choice), &Collective::alone());
                step(&model, std::slice::from_ref(&whole), model.grid.named("middle").unwrap()).0
            };
            let run = || {
                on_ranks(4, |ranks| {
                    let share = whole.part(8 * ranks.rank()..8 * (ranks.rank() + 1)).unwrap();
                    let model = model(&config, &open(&choice), ranks);
                    step(&model, &[share], model.grid.named("middle").unwrap()).0
                })
            };
            let four = run();
            same_on_all(&what, &four);
            alike(&what, &four[0], &alone);
            for (own, of_one) in four[0].centers.iter().zip(&alone.centers) {
                assert!(distance(&own[0], &of_one[0]) <= 1e-6, "{what}: centres of cls rows");
            }
            if settings.len() < 2 {
                let again = run();
                same_on_all(&format!("{what}: another run has other bits"), &[&four[..], &again].concat());
            }
        }
    }
}

/// A micro-batch of two ranks is one of one rank with the images of both.
#[test]
fn micro_batches_of_ranks_add_up() {
    for choice in BOTH {
        for settings in [&[][..], &[CENTERING]] {
            let config = config(
                "demo",
                &[settings, &["train.batch_size_per_gpu=8", "dino.koleo_loss_weight=0"]].concat(),
            );
            let whole = images(&config);
            let micro = |each: usize, ranks: &Collective| -> Vec<Batch> {
                let first = |i: usize| 4 * i + each * ranks.rank();
                (0..2).map(|i| whole.part(first(i)..first(i) + each).unwrap()).collect()
            };
            let run = |each: usize, ranks: &Collective| {
                let model = model(&config, &open(&choice), ranks);
                step(&model, &micro(each, ranks), model.grid.named("middle").unwrap()).0
            };
            let (one, two) = (run(4, &Collective::alone()), on_ranks(2, |ranks| run(2, ranks)));
            let what = format!("{choice:?} {settings:?}, two micro-batches");
            same_on_all(&what, &two);
            // with centres the ranks' means of masked patches count alike, however many each has
            match settings.is_empty() {
                true => alike(&what, &two[0], &one),
                false => {
                    for (own, of_one) in two[0].centers.iter().zip(&one.centers) {
                        assert!(distance(&own[0], &of_one[0]) <= 2e-6, "{what}: centres of cls rows");
                    }
                }
            }
        }
    }
}

/// A rank none of whose patches is hidden has no masked-patch loss and takes part in all else.
#[test]
fn a_rank_without_masked_patches_takes_part() {
    for choice in BOTH {
        for settings in [&[][..], &[CENTERING], &[SEPARATE], &[SEPARATE, CENTERING]] {
            let what = format!("{choice:?} {settings:?}");
            let config = config("demo", &[settings, &["train.batch_size_per_gpu=8"]].concat());
            let whole = images(&config);
            let parts = [whole.part(0..4).unwrap(), unmasked(&whole.part(4..8).unwrap())];
            let one = |batch: &Batch| {
                let model = model(&config, &open(&choice), &Collective::alone());
                step(&model, std::slice::from_ref(batch), model.grid.smallest()).0
            };
            let all = on_ranks(2, |ranks| {
                let mut model = model(&config, &open(&choice), ranks);
                let (done, loss) = step(&model, &parts[ranks.rank()..=ranks.rank()], model.grid.smallest());
                let how =
                    StepSettings { lr: 1e-3, last_layer_lr: 1e-3, weight_decay: 0.1, teacher_momentum: 0.9 };
                let before = named(model.student.values());
                assert!(apply(&mut model.trained(), &loss, how).unwrap().finite, "{what}");
                let moved = |(a, b): (&Named, &Named)| (a.0.clone(), a.1 != b.1);
                let after = named(model.student.values());
                let moved: Vec<_> = before.iter().zip(&after).map(moved).collect();
                (done, after, moved)
            });
            let (steps, rest): (Vec<_>, Vec<_>) = all.into_iter().map(|(s, v, m)| (s, (v, m))).unzip();
            same_on_all(&what, &steps);
            assert!(rest[0].0 == rest[1].0, "{what}: parameters differ between ranks");
            for (name, moved) in &rest[1].1 {
                assert!(moved | !name.ends_with("weight"), "{what}: {name} does not move");
            }
            let done = &steps[0];
            assert!(done.losses.total.is_finite() && done.loss.is_finite(), "{what}: {:?}", done.losses);
            assert!(done.losses.components.iter().any(|(name, _)| name == "ibot_loss_0"), "{what}");
            assert!(done.gradients.iter().all(|(_, g)| g.iter().all(|v| v.is_finite())), "{what}");
            // what is made of masked patches is what the first rank alone makes of its own
            let [first, second] = parts.each_ref().map(one);
            assert!(steps[1].patches.is_empty() && !done.patches.is_empty());
            for (own, of_one) in done.patches.iter().zip(&first.patches) {
                let (own, of_one) = (own.iter().map(|p| *p as f32), of_one.iter().map(|p| *p as f32));
                let error = distance(&own.collect::<Vec<_>>(), &of_one.collect::<Vec<_>>());
                assert!(error <= 1e-5, "{what}: targets of masked patches {error:e}");
            }
            for ((own, a), b) in done.centers.iter().zip(&first.centers).zip(&second.centers) {
                assert!(distance(&own[1], &a[1]) <= 1e-6, "{what}: centres of masked patches");
                let mean: Vec<f32> = a[0].iter().zip(&b[0]).map(|(a, b)| 0.5 * (a + b)).collect();
                assert!(distance(&own[0], &mean) <= 1e-6, "{what}: centres of cls rows");
            }
        }
    }
}

fn whole_buffers(parameters: &Parameters) -> Vec<Vec<f32>> {
    parameters.gradients().unwrap().buffers().iter().map(|b| b.to_vec().unwrap()).collect()
}

/// Gradients that leave while the way back goes on are those that are added up after it.
#[test]
fn gradients_that_leave_early_are_complete() {
    for choice in BOTH {
        for recipe in ["demo", "demo_swin", "demo_resnet"] {
            for checkpoint in ["train.checkpoint_blocks=false", "train.checkpoint_blocks=true"] {
                let config = config(recipe, &["train.batch_size_per_gpu=4", checkpoint]);
                let whole = images(&config);
                let what = format!("{choice:?} {recipe} {checkpoint}");
                let all = on_ranks(2, |ranks| {
                    let device = open(&choice);
                    let batch = whole.part(2 * ranks.rank()..2 * ranks.rank() + 2).unwrap();
                    let run = |elements: Option<usize>| {
                        let model = model(&config, &device, ranks);
                        let network = [model.grid.smallest(), model.grid.intact()][ranks.rank()];
                        let mut inputs = StepInputs { share: 0.5, ..StepInputs::new(network, 0.05) };
                        let sum = elements
                            .map(|n| GradientSum::in_buckets(ranks, &model.student, n).expect("two ranks"));
                        if let Some(sum) = &sum {
                            sum.begin();
                        }
                        let done = model.forward_backward(&batch, &mut inputs).unwrap();
                        let Some(sum) = sum else {
                            let mut buffers = whole_buffers(&model.student);
                            buffers.iter_mut().for_each(|values| ranks.sum(values).unwrap());
                            return (buffers, (0, 0));
                        };
                        let sent = sum.sent();
                        sum.finish(&done.total).unwrap();
                        (whole_buffers(&model.student), sent)
                    };
                    let (plain, _) = run(None);
                    for elements in [1000, 20_000] {
                        let (early, (sent, buckets)) = run(Some(elements));
                        assert!(early == plain, "{what}: buckets of {elements} give other bits");
                        assert!(sent > buckets / 2, "{what}: {sent} of {buckets} buckets left early");
                    }
                    plain
                });
                assert!(all[0] == all[1], "{what}: ranks have other bits");
                assert!(all[0].iter().flatten().any(|v| *v != 0.0));
            }
        }
    }
}

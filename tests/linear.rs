//! Linear probes: their steps against a float64 loop, on features that can be told apart, and over images.

use std::sync::Arc;

use image::{Rgb, RgbImage};
use poa_gpu::data::batch::WHOLE;
use poa_gpu::data::{BadSample, EvaluationView, Image, Reading, Source, open};
use poa_gpu::eval::images::TrainingOrder;
use poa_gpu::eval::probe::Probes;
use poa_gpu::eval::{LabelledImages, LinearOptions, linear_probes};
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::models::grid::Network;
use poa_gpu::ops;
use poa_gpu::poa::PoaModel;
use poa_gpu::recipes::Config;
use poa_gpu::tensor::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn devices() -> [Device; 2] {
    [Device::cpu(), ops::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs a software adapter")]
}

fn random(seed: u64, n: usize, size: f32) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-size..size)).collect()
}

/// One classifier in float64: weights `[classes, width]`, bias, and their velocities.
struct Plain {
    rate: f64,
    classes: usize,
    weights: Vec<f64>,
    velocity: Vec<f64>,
}

impl Plain {
    /// Weights of a row are followed by its bias.
    fn new(rate: f64, classes: usize, weights: &[f32]) -> Self {
        let width = weights.len() / classes;
        let rows = weights.chunks(width).flat_map(|row| row.iter().map(|v| *v as f64).chain([0.0]));
        Self { rate, classes, velocity: vec![0.0; classes * (width + 1)], weights: rows.collect() }
    }

    fn logits(&self, x: &[f64]) -> Vec<f64> {
        let row = |w: &[f64]| w.iter().zip(x.iter().chain([&1.0])).map(|(w, x)| w * x).sum();
        self.weights.chunks(x.len() + 1).map(row).collect()
    }

    fn step(&mut self, batch: &[Vec<f64>], labels: &[u32], factor: f64) {
        let mut gradient = vec![0.0; self.weights.len()];
        for (x, label) in batch.iter().zip(labels) {
            let logits = self.logits(x);
            let total: f64 = logits.iter().map(|l| l.exp()).sum();
            for c in 0..self.classes {
                let d = (logits[c].exp() / total - f64::from(c == *label as usize)) / batch.len() as f64;
                let row = &mut gradient[c * (x.len() + 1)..][..x.len() + 1];
                row.iter_mut().zip(x.iter().chain([&1.0])).for_each(|(g, x)| *g += d * x);
            }
        }
        for ((w, v), g) in self.weights.iter_mut().zip(&mut self.velocity).zip(gradient) {
            *v = 0.9 * *v + g;
            *w -= factor * self.rate * *v;
        }
    }
}

#[test]
fn steps_equal_a_plain_loop() {
    let (n, width, columns, classes, rates) = (24, 20, 4..17, 5, [0.01, 0.3, 2.0]);
    let weights = random(1, rates.len() * classes * columns.len(), 0.02);
    let own = |features: &[f32]| -> Vec<Vec<f64>> {
        features.chunks(width).map(|x| x[columns.clone()].iter().map(|v| *v as f64).collect()).collect()
    };
    let mut plain: Vec<Plain> = rates
        .iter()
        .zip(weights.chunks(classes * columns.len()))
        .map(|(rate, weights)| Plain::new(*rate, classes, weights))
        .collect();
    let batches: Vec<(Vec<f32>, Vec<u32>)> = (0..5)
        .map(|i| (random(10 + i, n * width, 1.5), (0..n as u32).map(|j| (j * 3 + i as u32) % 5).collect()))
        .collect();
    let factor = |i: usize| 1.0 - 0.15 * i as f64;
    for (i, (features, labels)) in batches.iter().enumerate() {
        plain.iter_mut().for_each(|p| p.step(&own(features), labels, factor(i)));
    }
    let held_out = random(99, 7 * width, 1.5);
    let want: Vec<f64> = own(&held_out).iter().flat_map(|x| plain.iter().flat_map(|p| p.logits(x))).collect();
    for device in devices() {
        let probes = Probes::new(&device, columns.clone(), classes, &rates, &weights).unwrap();
        for (i, (features, labels)) in batches.iter().enumerate() {
            let features = Tensor::from_slice(&device, &[n, width], features).unwrap();
            let labels = Tensor::from_slice(&device, &[n], labels).unwrap();
            let losses = probes.step(&features, &labels, factor(i)).unwrap();
            assert_eq!(losses.shape(), [n * rates.len(), 1]);
        }
        let held_out = Tensor::from_slice(&device, &[7, width], &held_out).unwrap();
        let got = probes.logits(&held_out).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(got.len(), want.len());
        for (g, w) in got.iter().zip(&want) {
            assert!((*g as f64 - w).abs() <= 5e-6 * (1.0 + w.abs()), "{g} {w} on {}", device.kind());
        }
    }
}

#[test]
fn classes_that_lie_apart_are_told_apart() {
    let (n, width, classes, rates) = (60, 16, 6, [0.1, 1.0]);
    // every class around a corner of its own
    let mut features = random(1, n * width, 0.3);
    let labels: Vec<u32> = (0..n as u32).map(|i| i % classes as u32).collect();
    features.chunks_mut(width).zip(&labels).for_each(|(x, label)| x[*label as usize] += 1.0);
    let weights = random(2, rates.len() * classes * width, 0.02);
    for device in devices() {
        let run = || {
            let probes = Probes::new(&device, 0..width, classes, &rates, &weights).unwrap();
            let features = Tensor::from_slice(&device, &[n, width], &features).unwrap();
            let of_labels = Tensor::from_slice(&device, &[n], &labels).unwrap();
            for _ in 0..50 {
                probes.step(&features, &of_labels, 1.0).unwrap();
            }
            assert_eq!(probes.right(&features, &labels).unwrap(), [n, n], "on {}", device.kind());
            probes.logits(&features).unwrap().to_vec::<f32>().unwrap()
        };
        assert!(run() == run(), "not the same bits twice on {}", device.kind());
    }
}

#[test]
fn training_images_follow_from_seed_epoch_and_index() {
    let images =
        LabelledImages::new(&open("shapes:40x36", &Reading::default()).unwrap(), 0, &EvaluationView::rgb(32))
            .unwrap();
    let batches = |seed: u64, batch: usize| {
        let mut all = Vec::new();
        let order = TrainingOrder { batch, batches: 5, seed };
        images
            .for_each_training_batch(order, |i, batch| {
                assert_eq!(i, all.len());
                all.push((batch.labels().unwrap().to_vec(), batch.group(WHOLE)?.normalised().into_owned()));
                Ok(())
            })
            .unwrap();
        all
    };
    let first = batches(1, 20);
    assert!(
        first.len() == 5 && first.iter().all(|(labels, pixels)| pixels.len() == labels.len() * 3 * 32 * 32)
    );
    assert!(first == batches(1, 20) && first != batches(2, 20));
    // two batches are an epoch: each class comes four times, in another order the next time
    for epoch in first.chunks_exact(2) {
        let mut labels = [&epoch[0].0[..], &epoch[1].0].concat();
        labels.sort_unstable();
        assert!(labels.chunks(4).enumerate().all(|(class, four)| four.iter().all(|l| *l == class as u32)));
    }
    assert_ne!(first[0].0, first[2].0);
    // a batch larger than the set repeats images, each time cropped anew
    let large = &batches(1, 80)[0];
    assert!(large.1[..40 * 3 * 32 * 32] != large.1[40 * 3 * 32 * 32..]);
    assert_eq!(large.0[..40], large.0[40..]);
}

fn demo() -> Config {
    let mut config = Config::recipe("demo").unwrap();
    config.resolve(1).unwrap();
    config
}

/// Pictures of one colour each, with a little noise: their class is which one.
struct Colours(Vec<String>, usize);

impl Colours {
    fn source(len: usize) -> Arc<dyn Source> {
        Arc::new(Self(["red", "green", "blue", "grey"].map(String::from).to_vec(), len))
    }
}

impl Source for Colours {
    fn len(&self) -> usize {
        self.1
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        let noise = |x: u32, y: u32| ((x * 31 + y * 17 + i as u32 * 7) % 40) as u8;
        let colour = [[160, 60, 60], [60, 160, 60], [60, 60, 160], [110, 110, 110]][i % 4];
        Ok(RgbImage::from_fn(40, 36, |x, y| Rgb(colour.map(|v: u8| v + noise(x, y)))).into())
    }
    fn label(&self, i: usize) -> Option<u32> {
        Some((i % 4) as u32)
    }
    fn classes(&self) -> &[String] {
        &self.0
    }
    fn name(&self, i: usize) -> String {
        i.to_string()
    }
    fn describe(&self) -> String {
        "colours".into()
    }
}

#[test]
fn an_untrained_network_tells_colours_apart() {
    let config = demo();
    let images = |len: usize| {
        LabelledImages::new(&Colours::source(len), 0, &EvaluationView::rgb(config.crops.global_crops_size))
            .unwrap()
    };
    let (train, val) = (images(300), images(101));
    let model = PoaModel::new(&config, &Device::cpu(), 5).unwrap();
    let networks = [model.grid.smallest(), model.grid.intact()];
    let options = LinearOptions {
        rates: vec![0.01, 0.1, 1.0],
        batch: 32,
        epochs: 2,
        epoch_iterations: 20,
        ..LinearOptions::default()
    };
    let run = |memory: usize| {
        let options = LinearOptions { memory, ..options.clone() };
        let mut told = Vec::new();
        let mut progress = |what: &str, done: usize, total: usize| told.push((what.to_string(), done, total));
        let encoder = model.teacher_encoder();
        let reports = linear_probes(encoder, &networks, (&train, &val), &options, &mut progress).unwrap();
        let last = told.pop().unwrap();
        assert!(last.0.contains("scoring") && last.1 == last.2, "{last:?}");
        reports
    };
    let together = run(options.memory);
    for (report, network) in together.iter().zip(networks) {
        assert_eq!(report.network, network);
        // one and up to four blocks, with and without patches, three rates
        assert_eq!(report.results.len(), 2 * 2 * 3);
        let best = report.best().unwrap();
        println!("{network}: {best:?}");
        assert!(best.top1 > 0.97, "{best:?}");
        assert!(report.results.iter().all(|r| r.top1 <= best.top1));
    }
    assert_eq!(together, run(0), "networks together train as each alone");
}

#[test]
fn an_untrained_network_scores_above_chance_on_shapes() {
    let config = demo();
    let size = config.crops.global_crops_size;
    let source = open("shapes:10000", &Reading::default()).unwrap();
    let (train, val) = (
        LabelledImages::new(&source, 0, &EvaluationView::rgb(size)).unwrap(),
        LabelledImages::new(&source.own_held_out().unwrap(), 0, &EvaluationView::rgb(size)).unwrap(),
    );
    let model = PoaModel::new(&config, &Device::cpu(), 5).unwrap();
    let networks = [model.grid.smallest()];
    let options = LinearOptions {
        rates: vec![1.0],
        batch: 64,
        epochs: 2,
        epoch_iterations: 100,
        ..LinearOptions::default()
    };
    let encoder = model.teacher_encoder();
    let reports = linear_probes(encoder, &networks, (&train, &val), &options, &mut |_, _, _| {}).unwrap();
    let results = &reports[0].results;
    let mean = results.iter().map(|r| r.top1).sum::<f64>() / results.len() as f64;
    println!("mean {mean}, {:?}", reports[0].best());
    // one image in ten by chance, give or take one in a hundred; such features know little more
    assert!(mean > 0.12, "{results:?}");
}

/// The features of both devices lead to the same classifiers, of a network with fewer blocks than are asked
/// for too.
#[test]
fn both_devices_find_the_same() {
    let config = demo();
    let size = config.crops.global_crops_size;
    let source = open("shapes:60", &Reading::default()).unwrap();
    let images = LabelledImages::new(&source, 0, &EvaluationView::rgb(size)).unwrap();
    let options = LinearOptions {
        rates: vec![0.1, 1.0],
        batch: 16,
        epochs: 1,
        epoch_iterations: 4,
        ..LinearOptions::default()
    };
    let reports = devices().map(|device| {
        let model = PoaModel::new(&config, &device, 5).unwrap();
        let shallow = Network::new(model.grid.smallest().width, 1);
        let networks = [shallow, model.grid.smallest()];
        let encoder = model.teacher_encoder();
        linear_probes(encoder, &networks, (&images, &images), &options, &mut |_, _, _| {}).unwrap()
    });
    assert_eq!(reports[0][0].results.len(), 2 * 2, "a single block is one kind of cls features");
    for (cpu, gpu) in reports[0].iter().zip(&reports[1]) {
        for (a, b) in cpu.results.iter().zip(&gpu.results) {
            // an image or two may lie between two classes
            assert!((a.blocks, a.mean_patch, a.rate) == (b.blocks, b.mean_patch, b.rate));
            assert!((a.top1 - b.top1).abs() <= 2.5 / 60.0, "{a:?} {b:?}");
        }
    }
}

#[test]
fn sets_of_other_classes_are_refused() {
    let source = open("shapes:60", &Reading::default()).unwrap();
    let images = LabelledImages::new(&source, 0, &EvaluationView::rgb(32)).unwrap();
    let dir = std::env::temp_dir().join(format!("poa-linear-{}", std::process::id()));
    for class in ["a", "b"] {
        std::fs::create_dir_all(dir.join(class)).unwrap();
        let picture = source.load(0).unwrap();
        let (width, height) = picture.dimensions();
        let picture = RgbImage::from_raw(width, height, picture.values().to_vec()).unwrap();
        picture.save(dir.join(class).join("0.png")).unwrap();
    }
    let other = open(&format!("folder:{}", dir.display()), &Reading::default()).unwrap();
    let others = LabelledImages::new(&other, 0, &EvaluationView::rgb(32)).unwrap();
    let model = PoaModel::new(&demo(), &Device::cpu(), 5).unwrap();
    let options = LinearOptions::default();
    let networks = [model.grid.smallest()];
    let sets = (&images, &others);
    let error = linear_probes(model.teacher_encoder(), &networks, sets, &options, &mut |_, _, _| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("2 classes are not the 10") && !error.contains('\n'), "{error}");
    std::fs::remove_dir_all(dir).unwrap();
}

//! Weighted k-NN on both devices against the official evaluation (`fixtures/knn`) and against a plain loop,
//! and over images that are decoded as they are needed.

use std::path::Path;
use std::sync::Arc;

use poa_gpu::collective::Collective;
use poa_gpu::data::batch::WHOLE;
use poa_gpu::data::{BadKind, BadSample, EvaluationView, HeldOut, Image, Reading, Source, open, split};
use poa_gpu::eval::knn::{FeatureBlocks, KnnSearch};
use poa_gpu::eval::{KnnOptions, LabelledImages, knn_accuracies};
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::poa::PoaModel;
use poa_gpu::recipes::Config;
use poa_gpu::tensor::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures/knn");

fn devices() -> [Device; 2] {
    [Device::cpu(), ops::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs a software adapter")]
}

/// Features and their classes.
type Set<'a> = (&'a [f32], &'a [u32]);

/// Accuracies with the features coming in batches.
fn top1(device: &Device, train: Set, val: Set, dim: usize, ks: &[usize], temperature: f64) -> Vec<f64> {
    let options = KnnOptions { ks: ks.to_vec(), temperature, ..KnnOptions::default() };
    let batch = |rows: &[f32]| Tensor::from_slice(device, &[rows.len() / dim, dim], rows).unwrap();
    let mut queries = FeatureBlocks::default();
    val.0.chunks(101 * dim).for_each(|rows| queries.add(&batch(rows)).unwrap());
    let mut search = KnnSearch::new(queries, options.neighbours()).unwrap();
    train.0.chunks(300 * dim).for_each(|rows| search.add(&batch(rows)).unwrap());
    search.top1(train.1, val.1, &options).unwrap()
}

fn floats(tensors: &SafeTensors, name: &str) -> Vec<f32> {
    let bytes = tensors.tensor(name).unwrap().data().chunks_exact(4);
    bytes.map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn labels(tensors: &SafeTensors, name: &str) -> Vec<u32> {
    let bytes = tensors.tensor(name).unwrap().data().chunks_exact(4);
    bytes.map(|b| i32::from_le_bytes(b.try_into().unwrap()) as u32).collect()
}

#[test]
fn equals_the_official_evaluation() {
    let expected = std::fs::read_to_string(Path::new(FIXTURES).join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let bytes = std::fs::read(Path::new(FIXTURES).join("features.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let (train, val) = (floats(&tensors, "train_features"), floats(&tensors, "val_features"));
    let (train_labels, val_labels) = (labels(&tensors, "train_labels"), labels(&tensors, "val_labels"));
    let recorded = expected["top1"].as_object().unwrap();
    assert!(!recorded.is_empty());
    let ks: Vec<usize> = recorded.keys().map(|k| k.parse().unwrap()).collect();
    let temperature = expected["temperature"].as_f64().unwrap();
    let dim = train.len() / train_labels.len();
    for device in devices() {
        let got = top1(&device, (&train, &train_labels), (&val, &val_labels), dim, &ks, temperature);
        for ((k, got), want) in ks.iter().zip(got).zip(recorded.values()) {
            // Recorded as a float32 share: equal in the number of right answers.
            assert_eq!(got as f32, want.as_f64().unwrap() as f32, "k = {k} on {}", device.kind());
        }
    }
}

/// Several blocks of training rows, equal rows, and a k beyond the training set.
#[test]
fn of_many_training_rows_equals_a_plain_loop() {
    equals_a_plain_loop(9001, 131);
}

/// Several blocks of held-out rows.
#[test]
fn of_many_held_out_rows_equals_a_plain_loop() {
    equals_a_plain_loop(301, 4099);
}

/// Against sorting all similarities. Equal rows have equal classes: five divides their distance.
fn equals_a_plain_loop(n: usize, m: usize) {
    let (dim, classes) = (7, 5);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut rows = |n: usize| -> Vec<f32> { (0..n * dim).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (mut train, val) = (rows(n), rows(m));
    train.copy_within(0..100 * dim, (n - 101) * dim);
    let train_labels: Vec<u32> = (0..n as u32).map(|i| (i * 7919) % classes).collect();
    let val_labels: Vec<u32> = (0..m as u32).map(|i| i % classes).collect();
    let ks = [1, 10, 250, 100_000];
    let got =
        devices().map(|device| top1(&device, (&train, &train_labels), (&val, &val_labels), dim, &ks, 0.07));

    let unit = |row: &[f32]| -> Vec<f64> {
        let length = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        row.iter().map(|&v| f64::from(v) / length).collect()
    };
    let train: Vec<Vec<f64>> = train.chunks(dim).map(unit).collect();
    for (at, &k) in ks.iter().enumerate() {
        let right = val.chunks(dim).zip(&val_labels).filter(|(row, label)| {
            let row = unit(row);
            let dot = |t: &Vec<f64>| t.iter().zip(&row).map(|(a, b)| a * b).sum::<f64>();
            let mut all: Vec<(f64, u32)> = train.iter().map(dot).zip(train_labels.iter().copied()).collect();
            all.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut votes = vec![0.0; classes as usize];
            all.iter().take(k).for_each(|(s, label)| votes[*label as usize] += ((s - 1.0) / 0.07).exp());
            let best = votes.iter().copied().fold(0.0, f64::max);
            votes[**label as usize] == best
        });
        let want = right.count() as f64 / m as f64;
        assert_eq!([got[0][at], got[1][at]], [want; 2], "k = {k}");
    }
}

#[test]
fn empty_sets_have_no_score() {
    for device in devices() {
        assert!(top1(&device, (&[], &[]), (&[1.0], &[0]), 1, &[10], 0.07)[0].is_nan());
        assert!(top1(&device, (&[1.0], &[0]), (&[], &[]), 1, &[10], 0.07)[0].is_nan());
    }
}

#[test]
fn features_that_are_not_numbers_win_nothing() {
    let train = [1.0, 0.0, f32::NAN, 0.0, 0.0, 1.0];
    for device in devices() {
        assert_eq!(top1(&device, (&train, &[0, 1, 1]), (&[1.0, 0.1], &[0]), 2, &[1], 0.07), [1.0]);
    }
}

#[test]
fn every_row_needs_a_class() {
    let device = Device::cpu();
    let mut search = KnnSearch::new(FeatureBlocks::default(), 5).unwrap();
    search.add(&Tensor::from_slice(&device, &[2, 1], &[1.0f32, 2.0]).unwrap()).unwrap();
    assert!(search.top1(&[0], &[], &KnnOptions::default()).is_err());
}

/// A source of which every seventh image cannot be read.
struct Broken(Arc<dyn Source>);

impl Source for Broken {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        match i % 7 {
            3 => Err(BadSample { name: self.name(i), kind: BadKind::Damaged, reason: "broken".into() }),
            _ => self.0.load(i),
        }
    }
    fn label(&self, i: usize) -> Option<u32> {
        self.0.label(i)
    }
    fn classes(&self) -> &[String] {
        self.0.classes()
    }
    fn name(&self, i: usize) -> String {
        self.0.name(i)
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[test]
fn images_come_in_order_and_unreadable_ones_are_left_out() {
    let source: Arc<dyn Source> = Arc::new(Broken(open("shapes:400x36", &Reading::default()).unwrap()));
    let images = LabelledImages::new(&source, 0, &EvaluationView::rgb(32)).unwrap();
    let readable: Vec<usize> = (0..400).filter(|i| i % 7 != 3).collect();
    // the second pass comes from memory
    for _ in 0..2 {
        let (mut labels, mut pixels) = (Vec::<u32>::new(), Vec::<f32>::new());
        images
            .for_each_batch(|batch| {
                labels.extend(batch.labels().unwrap());
                pixels.extend(batch.group(WHOLE)?.normalised().iter());
                let indices = batch.indices().unwrap();
                assert!(indices.iter().zip(batch.labels().unwrap()).all(|(i, l)| *l == (i % 10) as u32));
                Ok(())
            })
            .unwrap();
        assert!(labels.iter().zip(&readable).all(|(label, i)| *label == (i % 10) as u32));
        assert_eq!(labels.len(), readable.len());
        for (pixels, i) in pixels.chunks(3 * 32 * 32).zip(&readable) {
            assert!(pixels == EvaluationView::rgb(32).of(&source.load(*i).unwrap()), "image {i}");
        }
        assert_eq!(images.bad_samples().len(), 400 - readable.len());
    }
    // an error ends the pass
    let failed = LabelledImages::new(&source, 250, &EvaluationView::rgb(32)).unwrap();
    assert_eq!(failed.len(), 250);
    let error = failed.for_each_batch(|_| Err(poa_gpu::Error::Mismatch("enough".into()))).unwrap_err();
    assert_eq!(error.to_string(), "enough");
}

/// The first pictures of `shapes` under labels of one's own.
struct Relabelled {
    pictures: Arc<dyn Source>,
    labels: Vec<Option<u32>>,
    classes: Vec<String>,
}

impl Relabelled {
    fn source(labels: &[Option<u32>], classes: &[&str]) -> Arc<dyn Source> {
        Arc::new(Self {
            pictures: open("shapes", &Reading::default()).unwrap(),
            labels: labels.to_vec(),
            classes: classes.iter().map(ToString::to_string).collect(),
        })
    }
}

impl Source for Relabelled {
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        self.pictures.load(i)
    }
    fn label(&self, i: usize) -> Option<u32> {
        self.labels[i]
    }
    fn classes(&self) -> &[String] {
        &self.classes
    }
    fn name(&self, i: usize) -> String {
        self.pictures.name(i)
    }
    fn describe(&self) -> String {
        "relabelled".into()
    }
}

fn seen(images: &LabelledImages) -> (Vec<usize>, Vec<u32>) {
    let (mut indices, mut labels) = (Vec::new(), Vec::new());
    images
        .for_each_batch(|batch| {
            indices.extend(batch.indices().unwrap());
            labels.extend(batch.labels().unwrap());
            Ok(())
        })
        .unwrap();
    (indices, labels)
}

#[test]
fn classes_are_found_by_their_names() {
    let view = EvaluationView::rgb(32);
    let images = |source: &Arc<dyn Source>| LabelledImages::new(source, 0, &view).unwrap();
    let train =
        images(&Relabelled::source(&[Some(0), Some(1), Some(2), Some(3)], &["7", "ape", "bee", "cat"]));
    // other numbers, other spellings of a number, and one class without an image
    let val = Relabelled::source(&[Some(2), Some(1), Some(0), Some(1)], &["007", "bee", "cat"]);
    let before = images(&val);
    assert_eq!(seen(&before).1, [2, 1, 0, 1]);
    let joined = before.joined_to(&train).unwrap();
    assert_eq!(seen(&joined).1, [3, 2, 0, 2]);
    assert_eq!((joined.classes(), joined.present().len()), (train.classes(), 3));
    // one class alone is enough to be classified
    let one = images(&Relabelled::source(&[Some(0)], &["bee"])).joined_to(&train).unwrap();
    assert_eq!(seen(&one).1, [2]);

    let labels: Vec<Option<u32>> = (0..6).map(Some).collect();
    let others = images(&Relabelled::source(&labels, &["ape", "dog", "eel", "fox", "gnu", "8"]));
    let error = others.joined_to(&train).err().unwrap().to_string();
    for text in [
        "5 of its 6 classes are not among the 4 of relabelled",
        "`dog`, `eel`, `fox`, ...;",
        "`7`, `ape`, `bee`, ...",
    ] {
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn images_without_a_label_are_trained_on_and_not_evaluated() {
    let labels: Vec<Option<u32>> = (0..90).map(|i| (i % 3 != 0).then_some(i % 3 / 2)).collect();
    let source = Relabelled::source(&labels, &["a", "b"]);
    let images = LabelledImages::new(&source, 0, &EvaluationView::rgb(32)).unwrap();
    assert_eq!((images.len(), images.unlabelled()), (60, 30));
    let (indices, classes) = seen(&images);
    assert!(indices.iter().zip(&classes).all(|(i, class)| labels[*i] == Some(*class)));
    let few = LabelledImages::new(&source, 7, &EvaluationView::rgb(32)).unwrap();
    assert!(few.len() == 7 && seen(&few).0.iter().all(|i| labels[*i].is_some()));

    let (train, held_out) = split(source.clone(), HeldOut::default());
    let held_out = held_out.unwrap();
    assert_eq!((train.len(), held_out.len()), (84, 6), "a tenth of those with a label");
    assert!((0..6).all(|i| held_out.label(i).is_some()));
    assert_eq!((0..84).filter(|i| train.label(*i).is_none()).count(), 30);
    // one with a label stays, to be learnt from
    let labels = [None, Some(0), None, Some(1), None];
    let (train, held_out) =
        split(Relabelled::source(&labels, &["a", "b"]), HeldOut { fraction: 0.9, at_most: 10 });
    assert_eq!((train.len(), held_out.unwrap().len()), (4, 1));
    // of one class there is nothing to find
    assert!(split(Relabelled::source(&[Some(0); 50], &["a"]), HeldOut::default()).1.is_none());
    let none = LabelledImages::new(&Relabelled::source(&[None; 3], &[]), 0, &EvaluationView::rgb(32));
    assert!(none.err().unwrap().to_string().contains("no labels"));
}

#[test]
fn networks_together_score_as_each_alone() {
    let mut config = Config::recipe("demo").unwrap();
    config.resolve(1).unwrap();
    let source = open("shapes:300", &Reading::default()).unwrap();
    let val = source.own_held_out().unwrap();
    let train: Arc<dyn Source> = Arc::new(Broken(source));
    let view = EvaluationView::rgb(config.crops.global_crops_size);
    let (train, val) =
        (LabelledImages::new(&train, 150, &view).unwrap(), LabelledImages::new(&val, 120, &view).unwrap());
    for device in devices() {
        let model = PoaModel::new(&config, &device, 5).unwrap();
        let networks = ["smallest", "middle", "intact"].map(|name| model.grid.named(name).unwrap());
        let run = |memory: usize| {
            let options = KnnOptions { ks: vec![1, 10], memory, ..KnnOptions::default() };
            let mut told = Vec::new();
            let mut progress = |_: &str, done: usize, total: usize| told.push((done, total));
            let encoder = model.teacher_encoder();
            let (images, alone) = ((&train, &val), Collective::alone());
            let scores = knn_accuracies(encoder, &networks, images, &options, &alone, &mut progress).unwrap();
            (scores, told[told.len() - 1])
        };
        let readable = train.len() - train.bad_samples().len();
        let (together, told) = run(KnnOptions::default().memory);
        assert_eq!(told.1, 150 + 120);
        assert!(told.0 < told.1 && (readable == 150 || told.0 == 120 + readable));
        let (alone, told) = run(0);
        assert_eq!(told.1, 3 * (150 + 120));
        assert_eq!(together, alone, "on {}", device.kind());
        assert!(together.iter().all(|ks| ks.len() == 2 && ks.iter().all(|a| (0.0..=1.0).contains(a))));
    }
}

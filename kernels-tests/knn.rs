//! Weighted k-NN against the official evaluation (`fixtures/knn`) and against a plain loop.

use std::path::Path;

use poa_gpu::eval::knn::knn_top1;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures/knn");

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
    let top1 = expected["top1"].as_object().unwrap();
    assert!(!top1.is_empty());
    let ks: Vec<usize> = top1.keys().map(|k| k.parse().unwrap()).collect();
    let temperature = expected["temperature"].as_f64().unwrap() as f32;
    let dim = train.len() / train_labels.len();
    let got = knn_top1(&train, &train_labels, &val, &val_labels, dim, &ks, temperature);
    for ((k, got), want) in ks.iter().zip(got).zip(top1.values()) {
        // Recorded as a float32 share: equal in the number of right answers.
        assert_eq!(got as f32, want.as_f64().unwrap() as f32, "k = {k}");
    }
}

/// Several blocks of training rows, equal rows, and a k beyond the training set, against sorting all similarities.
#[test]
fn equals_a_plain_loop() {
    let (n, m, dim, classes) = (9001, 131, 7, 5);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut rows = |n: usize| -> Vec<f32> { (0..n * dim).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (mut train, val) = (rows(n), rows(m));
    train.copy_within(0..100 * dim, 8000 * dim);
    let train_labels: Vec<u32> = (0..n as u32).map(|i| (i * 7919) % classes).collect();
    let val_labels: Vec<u32> = (0..m as u32).map(|i| i % classes).collect();
    let ks = [1, 10, 250, 100_000];
    let got = knn_top1(&train, &train_labels, &val, &val_labels, dim, &ks, 0.07);

    let unit = |row: &[f32]| -> Vec<f64> {
        let length = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        row.iter().map(|&v| f64::from(v) / length).collect()
    };
    let train: Vec<Vec<f64>> = train.chunks(dim).map(unit).collect();
    for (&k, got) in ks.iter().zip(got) {
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
        assert_eq!(got, right.count() as f64 / m as f64, "k = {k}");
    }
}

#[test]
fn empty_sets_have_no_score() {
    assert!(knn_top1(&[], &[], &[1.0], &[0], 1, &[10], 0.07)[0].is_nan());
    assert!(knn_top1(&[1.0], &[0], &[], &[], 1, &[10], 0.07)[0].is_nan());
}

#[test]
fn features_that_are_not_numbers_win_nothing() {
    let train = [1.0, 0.0, f32::NAN, 0.0, 0.0, 1.0];
    assert_eq!(knn_top1(&train, &[0, 1, 1], &[1.0, 0.1], &[0], 2, &[1], 0.07), [1.0]);
}

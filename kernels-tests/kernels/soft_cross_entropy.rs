//! Cross-entropy against mixed and smoothed classes: losses and gradients of every row against f64 and PyTorch.

use poa_gpu::ops::label_cross_entropy::label_cross_entropy;
use poa_gpu::ops::soft_cross_entropy::{MixedLabels, soft_cross_entropy};
use poa_gpu::tensor::{Device, Tensor};
use serde_json::Value;

use crate::cross_entropy::log_softmax;
use crate::support::{Placing, devices, place, random};

/// Labels `u32 [n]` that begin in the middle of their memory.
fn placed(device: &Device, labels: &[u32]) -> Tensor {
    let mut all = vec![u32::MAX; 3];
    all.extend(labels);
    Tensor::from_slice(device, &[all.len()], &all).unwrap().slice(0, 3..all.len()).unwrap()
}

/// The target of a row of `cols` logits, laid out.
fn target(cols: usize, [a, b]: [u32; 2], lambda: f64, smoothing: f64) -> Vec<f64> {
    let smooth = |label: u32, c: usize| {
        smoothing / cols as f64 + if c == label as usize { 1.0 - smoothing } else { 0.0 }
    };
    (0..cols).map(|c| lambda * smooth(a, c) + (1.0 - lambda) * smooth(b, c)).collect()
}

#[test]
fn rows_of_any_length() {
    for (rows, cols, size, lambda, smoothing) in [
        (1, 1, 1.0, 0.3f32, 0.1f32),
        (6, 10, 1.0, 0.7, 0.1),
        (26, 257, 4.0, 0.0, 0.1),
        (9, 1000, 30.0, 0.25, 0.0),
        (5, 1001, 3.0, 1.0, 1.0),
        (4, 21_841, 5.0, 0.6, 0.1),
    ] {
        let values: Vec<f32> = random(cols as u64, rows * cols).iter().map(|v| v * size).collect();
        let a: Vec<u32> = (0..rows).map(|i| (i * 7919 % cols) as u32).collect();
        let b: Vec<u32> = a.iter().rev().copied().collect();
        let scale = 0.125;
        for device in devices() {
            for placing in [Placing::Dense, Placing::Strided] {
                let logits = place(&device, &[rows, cols], &values, placing).unwrap();
                let labels = [placed(&device, &a), placed(&device, &b)];
                let labels = MixedLabels { a: &labels[0], b: &labels[1], lambda, smoothing };
                let losses = soft_cross_entropy(&logits, &labels, scale).unwrap();
                assert!(losses.fences_intact().unwrap(), "losses were written beside");
                let (losses, gradient) = (losses.to_vec::<f32>().unwrap(), logits.to_vec::<f32>().unwrap());
                for (r, row) in values.chunks(cols).enumerate() {
                    let what = format!("{rows}x{cols} {placing:?} on {}, row {r}", device.kind());
                    let row: Vec<f64> = row.iter().map(|v| *v as f64).collect();
                    let log = log_softmax(&row, 1.0);
                    let goal = target(cols, [a[r], b[r]], lambda.into(), smoothing.into());
                    let want: f64 = -log.iter().zip(&goal).map(|(l, g)| l * g).sum::<f64>();
                    let error = (losses[r] as f64 - want).abs();
                    assert!(error <= 1e-6 * want.max(1.0), "{what}: {} and {want}", losses[r]);
                    for (c, (l, g)) in log.iter().zip(&goal).enumerate() {
                        let want = scale as f64 * (l.exp() - g);
                        let got = gradient[r * cols + c] as f64;
                        let bound = 1e-7 * (1.0 + size as f64);
                        assert!((got - want).abs() <= bound, "{what}: {got} {want}");
                    }
                }
            }
        }
    }
}

/// PyTorch's losses to 1e-6 and gradients to 1e-5, of their size.
#[test]
fn as_pytorch() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures/soft_cross_entropy/cases.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 3);
    let numbers = |case: &Value, key: &str| -> Vec<f64> {
        case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    };
    for case in &cases {
        let (classes, losses) = (case["classes"].as_u64().unwrap() as usize, numbers(case, "losses"));
        let (rows, gradient) = (losses.len(), numbers(case, "gradient"));
        let logits: Vec<f32> = numbers(case, "logits").iter().map(|v| *v as f32).collect();
        let labels: Vec<u32> = numbers(case, "labels").iter().map(|v| *v as u32).collect();
        let [lambda, smoothing] = ["lambda", "smoothing"].map(|key| case[key].as_f64().unwrap() as f32);
        let most = gradient.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        for device in devices() {
            let logits = Tensor::from_slice(&device, &[rows, classes], &logits).unwrap();
            let reversed: Vec<u32> = labels.iter().rev().copied().collect();
            let labels = [&labels, &reversed].map(|l| Tensor::from_slice(&device, &[rows], l).unwrap());
            let labels = MixedLabels { a: &labels[0], b: &labels[1], lambda, smoothing };
            let got = soft_cross_entropy(&logits, &labels, 1.0 / rows as f32).unwrap();
            for (got, want) in got.to_vec::<f32>().unwrap().iter().zip(&losses) {
                assert!((*got as f64 - want).abs() <= 1e-6 * want.max(1.0), "{got} {want}");
            }
            for (got, want) in logits.to_vec::<f32>().unwrap().iter().zip(&gradient) {
                assert!((*got as f64 - want).abs() <= 1e-5 * most, "{got} {want}");
            }
        }
    }
}

/// Plain classes are the case of one share and no smoothing.
#[test]
fn hard_labels_are_a_special_case() {
    let (values, labels) = (random(1, 5 * 300), [3u32, 299, 0, 7, 7]);
    for device in devices() {
        let [hard, soft] = [0, 1].map(|_| Tensor::from_slice(&device, &[5, 300], &values).unwrap());
        let labels = Tensor::from_slice(&device, &[5], &labels).unwrap();
        let a = label_cross_entropy(&hard, &labels, 0.2).unwrap().to_vec::<f32>().unwrap();
        let mixed = MixedLabels { a: &labels, b: &labels, lambda: 1.0, smoothing: 0.0 };
        let b = soft_cross_entropy(&soft, &mixed, 0.2).unwrap().to_vec::<f32>().unwrap();
        let (hard, soft) = (hard.to_vec::<f32>().unwrap(), soft.to_vec::<f32>().unwrap());
        for (a, b) in a.iter().chain(&hard).zip(b.iter().chain(&soft)) {
            assert!((a - b).abs() <= 1e-6 * (1.0 + a.abs()), "{a} {b} on {}", device.kind());
        }
    }
}

#[test]
fn labels_and_shares_must_fit() {
    for device in devices() {
        let logits = Tensor::from_slice(&device, &[4, 2], &[0.0f32; 8]).unwrap();
        let [three, four] = [3, 4].map(|n| Tensor::from_slice(&device, &[n], &vec![0u32; n]).unwrap());
        for (a, b, lambda, smoothing) in [
            (&three, &four, 0.5, 0.0),
            (&four, &three, 0.5, 0.0),
            (&four, &four, 1.5, 0.0),
            (&four, &four, 0.5, -0.1),
            (&four, &four, f32::NAN, 0.1),
        ] {
            let labels = MixedLabels { a, b, lambda, smoothing };
            assert!(soft_cross_entropy(&logits, &labels, 1.0).is_err(), "{lambda} {smoothing}");
        }
    }
}

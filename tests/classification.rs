//! Accuracies and confusions of classifiers on both devices, against plain loops, and their picture.

use std::fs;
use std::path::Path;

use poa_gpu::eval::Classification;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::tensor::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn devices() -> [Device; 2] {
    [Device::cpu(), ops::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs a software adapter")]
}

/// Random logits `[n, classes]` in which the right class tends to be large, and labels.
fn random(n: usize, classes: usize) -> (Vec<f32>, Vec<u32>) {
    let mut rng = ChaCha8Rng::seed_from_u64(classes as u64);
    let labels: Vec<u32> = (0..n).map(|_| rng.random_range(0..classes as u32)).collect();
    let mut logits: Vec<f32> = (0..n * classes).map(|_| rng.random::<f32>()).collect();
    for (row, label) in logits.chunks_mut(classes).zip(&labels) {
        row[*label as usize] += 0.5 * rng.random::<f32>();
    }
    (logits, labels)
}

#[test]
fn accuracies_are_those_of_a_plain_loop() {
    for (n, classes) in [(500, 10), (300, 1000), (40, 3), (7, 1)] {
        let (logits, labels) = random(n, classes);
        let (mut first, mut five) = (0, 0);
        let (mut right, mut all) = (vec![0.0; classes], vec![0.0; classes]);
        let mut counts = vec![0; classes * classes];
        for (row, label) in logits.chunks(classes).zip(&labels) {
            let label = *label as usize;
            let mut order: Vec<usize> = (0..classes).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            first += usize::from(order[0] == label);
            five += usize::from(order.iter().take(5).any(|guess| *guess == label));
            all[label] += 1.0;
            right[label] += f64::from(u8::from(order[0] == label));
            counts[label * classes + order[0]] += 1;
        }
        for device in devices() {
            let mut whole = Classification::new(classes);
            let mut parts = [Classification::new(classes), Classification::new(classes)];
            for (i, (logits, labels)) in logits.chunks(64 * classes).zip(labels.chunks(64)).enumerate() {
                let logits = Tensor::from_slice(&device, &[labels.len(), classes], logits).unwrap();
                whole.add_logits(&logits, labels).unwrap();
                parts[i % 2].add_logits(&logits, labels).unwrap();
            }
            let near =
                |got: Option<f64>, want: f64| assert!((got.unwrap() - want).abs() < 1e-6, "{got:?} {want}");
            near(whole.top1(), first as f64 / n as f64);
            near(whole.top5(), five as f64 / n as f64);
            assert_eq!(whole.images(), n as u64);
            let mut known = Vec::new();
            for (got, (right, all)) in whole.per_class().into_iter().zip(right.iter().zip(&all)) {
                assert_eq!(got.is_some(), *all > 0.0);
                if let Some(got) = got {
                    near(Some(got), right / all);
                    known.push(right / all);
                }
            }
            near(whole.mean_per_class(), known.iter().sum::<f64>() / known.len() as f64);
            for (at, count) in counts.iter().enumerate() {
                let pair = ((at / classes) as u32, (at % classes) as u32);
                assert_eq!(whole.confusion().get(&pair).copied().unwrap_or(0), *count, "{pair:?}");
            }
            let most = whole.most_confused(1);
            let wrong = (0..counts.len()).filter(|at| at / classes != at % classes).map(|at| counts[at]);
            assert_eq!(most.first().map_or(0, |(.., count)| *count), wrong.max().unwrap_or(0));
            let [mut one, other] = parts;
            one.merge(&other).unwrap();
            assert_eq!(one, whole);
            let told = serde_json::to_string(&whole).unwrap();
            assert_eq!(serde_json::from_str::<Classification>(&told).unwrap(), whole);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let mut scores = Classification::new(3);
    assert_eq!((scores.top1(), scores.top5(), scores.mean_per_class()), (None, None, None));
    assert!(scores.add(&[vec![0], vec![1]], &[0]).is_err());
    assert!(scores.add(&[vec![0], vec![3]], &[0, 1]).is_err());
    assert!(scores.add(&[vec![0], vec![1]], &[0, 7]).is_err());
    assert!(scores.add(&[vec![]], &[0]).is_err());
    let logits = Tensor::from_slice(&Device::cpu(), &[1, 4], &[0.0f32; 4]).unwrap();
    assert!(scores.add_logits(&logits, &[0]).is_err());
    assert!(scores.merge(&Classification::new(4)).is_err());
    assert_eq!(scores, Classification::new(3));
    let names = ["a", "b", "c"].map(String::from);
    let stem = folder("nothing").join("confusion");
    assert!(scores.draw(&names, "", &stem).unwrap_err().to_string().contains("no chart can be drawn"));
    assert!(scores.draw(&names[..2], "", &stem).is_err());
}

/// An empty folder of a test's own.
fn folder(name: &str) -> std::path::PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("classification").join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Few classes have numbers, many share cells; the diagonal is light where a classifier is right.
#[test]
fn confusions_are_drawn_for_few_and_for_many_classes() {
    for (classes, n) in [(2, 30), (10, 400), (60, 900), (1000, 4000)] {
        let mut scores = Classification::new(classes);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for i in 0..n {
            let label = (i % classes) as u32;
            let guess = if rng.random::<f64>() < 0.8 { label } else { rng.random_range(0..classes as u32) };
            scores.add(&[vec![guess]], &[label]).unwrap();
        }
        let names: Vec<String> = (0..classes).map(|i| format!("class & number {i}")).collect();
        let stem = folder(&classes.to_string()).join("confusion");
        scores.draw(&names, "confusions", &stem).unwrap();
        let image = image::open(stem.with_extension("png")).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), (1200, 900));
        let svg = fs::read_to_string(stem.with_extension("svg")).unwrap();
        assert!(svg.contains("class &amp;") && svg.ends_with("</svg>\n") && !svg.contains("NaN"));
        assert_eq!(svg.contains("(5 a cell)"), classes == 1000);
        let light = |x: u32, y: u32| image.get_pixel(x, y).0.iter().map(|v| u32::from(*v)).sum::<u32>();
        // at the middle of the upper left cells' edges, away from numbers
        let (along, across): (u32, u32) = (0..20).fold((0, 0), |(a, b), i| {
            (a + light(263 + 34 * i, 83 + 34 * i), b + light(263 + 34 * i, 757 - 34 * i))
        });
        assert!(4 * along > 5 * across, "{classes}: {along} {across}");
    }
    // a class without images has an empty row
    let mut scores = Classification::new(2);
    scores.add(&[vec![1], vec![1], vec![0]], &[0, 0, 0]).unwrap();
    let stem = folder("empty-row").join("confusion");
    scores.draw(&["a", "b"].map(String::from), "", &stem).unwrap();
    let svg = fs::read_to_string(stem.with_extension("svg")).unwrap();
    assert!(svg.contains(">33</text>") && svg.contains(">67</text>"));
}

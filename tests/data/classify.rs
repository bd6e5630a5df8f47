//! What a classifier is trained on: batches of one augmented crop an image, with its label.

use std::collections::BTreeMap;
use std::sync::Arc;

use poa_gpu::checks::Problems;
use poa_gpu::data::augment::Area;
use poa_gpu::data::batch::{Pixels, WHOLE};
use poa_gpu::data::classify::{Choices, ClassifyAugment, ClassifyCrops, Cut, apply_into, draw};
use poa_gpu::data::order::Order;
use poa_gpu::data::scratch::Scratch;
use poa_gpu::data::*;
use poa_gpu::rng::{Purpose, stream};
use poa_gpu::share::{Place, Share};

use crate::loader::batches;
use crate::{folder, open, picture, save, spec};

/// A crop of which nothing but the cut and the flip is random.
fn plain(cut: Cut, flip: bool) -> Choices {
    Choices { cut, flip, operations: Vec::new(), erased: None }
}

fn made(image: &Image, choices: &Choices, size: usize) -> Vec<u8> {
    let mut out = vec![0; image.channels() * size * size];
    let fill = Normalization::imagenet(image.channels()).mean_bytes();
    apply_into(image, choices, size, &fill, &mut Scratch::default(), &mut out);
    out
}

fn config(size: usize, batch: usize, threads: usize, augment: ClassifyAugment) -> LoaderConfig {
    let recipe = Arc::new(ClassifyCrops { size, augment, normalization: Normalization::imagenet(3) });
    let share = Share::ALL;
    LoaderConfig { batch, seed: 5, threads, prefetch: 2, recipe, start_step: 0, start: None, share }
}

#[test]
fn batches_are_the_same_for_any_number_of_threads_and_after_a_resume() {
    let source = open("shapes:50").unwrap();
    let of = |threads, start_step, count| {
        let config = LoaderConfig { start_step, ..config(24, 12, threads, ClassifyAugment::default()) };
        batches(&source, config, count)
    };
    let all = of(0, 0, 9);
    for (step, batch) in all.iter().enumerate() {
        let group = batch.group(WHOLE).unwrap();
        assert_eq!((batch.step(), batch.groups().len()), (step as u64, 1));
        assert_eq!((group.views, group.shape(), &group.masks), (1, [12, 3, 24, 24], &None));
        let order = Order::new(50, 12, 5);
        for (slot, index) in batch.indices().unwrap().iter().enumerate() {
            assert_eq!(*index, order.pick(step as u64, slot).index);
            assert_eq!(source.label(*index), Some(batch.labels().unwrap()[slot]));
        }
        assert!(group.normalised().chunks(group.crop_len()).all(|crop| crop.iter().any(|v| *v != crop[0])));
    }
    for threads in [1, 3] {
        assert!(of(threads, 0, 9) == all, "{threads} threads");
    }
    assert!(of(2, 6, 3) == all[6..]);
}

#[test]
fn ranks_share_the_batches_of_one() {
    let source = open("shapes:40").unwrap();
    let augment = ClassifyAugment::default();
    let whole = batches(&source, config(16, 6, 2, augment.clone()), 8);
    let parts = [0, 1].map(|rank| {
        let share = Share { rank, ranks: 2 };
        batches(&source, LoaderConfig { share, ..config(16, 3, 1, augment.clone()) }, 8)
    });
    for (step, whole) in whole.iter().enumerate() {
        for (rank, part) in parts.iter().enumerate() {
            let expected = whole.part(rank * 3..rank * 3 + 3).unwrap();
            assert!(part[step] == expected, "step {step}, rank {rank}");
        }
    }
}

/// Three crops of each image in a row, which differ; an epoch has as many samples as images, down to 256.
#[test]
fn images_may_be_repeated() {
    let source = open("shapes:20").unwrap();
    let augment = ClassifyAugment { repeats: 3, ..ClassifyAugment::default() };
    let mut loader = Loader::new(source.clone(), config(16, 6, 2, augment.clone())).unwrap();
    assert_eq!(loader.steps_per_epoch(), 3);
    let first = loader.next().unwrap();
    let indices = first.indices().unwrap().to_vec();
    let permutation: Vec<usize> = (0..20).map(|i| Order::new(20, 1, 5).pick(i, 0).index).collect();
    assert_eq!(indices, [0, 0, 0, 1, 1, 1].map(|i| permutation[i]));
    let values = first.group(WHOLE).unwrap().normalised();
    let crops: Vec<&[f32]> = values.chunks(3 * 16 * 16).collect();
    assert!(crops[0] != crops[1] && crops[1] != crops[2] && crops[0] != crops[2]);
    // of two ranks, each has every other crop
    for rank in [0, 1] {
        let share = Share { rank, ranks: 2 };
        let own = batches(&source, LoaderConfig { share, ..config(16, 3, 0, augment.clone()) }, 1).remove(0);
        let own = own.group(WHOLE).unwrap().normalised();
        for (slot, crop) in own.chunks(3 * 16 * 16).enumerate() {
            assert!(crop == crops[2 * slot + rank], "rank {rank}");
        }
    }

    let order = Order::new(1000, 32, 5).repeating(3);
    assert_eq!(order.steps_per_epoch(), 24);
    let mut seen = BTreeMap::new();
    let picks = (0..24).flat_map(|step| (0..32).map(move |slot| (step, slot)));
    for (step, slot) in picks {
        let pick = order.pick(step, slot);
        assert_eq!((pick.epoch, pick.repeat), (0, (32 * step as usize + slot) % 3));
        *seen.entry(pick.index).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 256);
    assert!(seen.values().all(|times| *times == 3));
    assert_eq!(order.place(24), Place { epoch: 1, position: 0 });
    // from the middle of an image's crops on
    let rest = Order::new(1000, 16, 5).repeating(3).starting(9, Place { epoch: 0, position: 352 });
    for step in 9..70 {
        for slot in 0..16 {
            let position = 352 + 16 * (step - 9) as usize + slot;
            let pick = order.pick((position / 32) as u64, position % 32);
            assert_eq!(rest.pick(step, slot), pick, "step {step}, {slot}");
        }
    }
}

#[test]
fn images_without_a_label_are_left_out_and_bad_ones_passed_over() {
    let dir = folder("classify-labels");
    for i in 0..9 {
        save(&dir, &format!("class-{}/{i}.png", i % 3), picture(20, 20, i * 20));
    }
    save(&dir, "none.png", picture(20, 20, 200));
    std::fs::write(dir.join("class-1/broken.png"), b"nothing").unwrap();
    let source = open(&spec(&dir)).unwrap();
    let (labelled, without) = labelled(source.clone()).unwrap();
    assert_eq!((source.len(), labelled.len(), without), (11, 10, 1));
    let mut loader = Loader::new(labelled, config(16, 5, 2, ClassifyAugment::default())).unwrap();
    let mut bad = Vec::new();
    for _ in 0..4 {
        let batch = loader.next().unwrap();
        assert_eq!((batch.images(), batch.labels().unwrap().len()), (5, 5));
        bad.extend(loader.take_bad_samples().into_iter().map(|bad| bad.name));
    }
    assert_eq!(bad, ["class-1/broken.png"]);

    let plain = folder("classify-plain");
    save(&plain, "0.png", picture(20, 20, 0));
    let error = poa_gpu::data::labelled(open(&spec(&plain)).unwrap()).err().unwrap().to_string();
    assert!(error.contains("no labels to train a classifier with"), "{error}");
}

/// The share of the area and the aspect ratio of crops of a large image: uniform, log-uniform.
#[test]
fn crops_follow_their_distribution() {
    let augment = ClassifyAugment::default();
    const DRAWS: u64 = 4000;
    let (mut area, mut aspect, mut flips) = ([0.0; 2], 0.0, 0);
    for i in 0..DRAWS {
        let drawn = draw(&mut stream(1, Purpose::ClassifyCrops, 0, i), &augment, 224, (2000, 2000));
        let Cut::Resized(Area { top, left, height, width }) = drawn.cut else { panic!("{drawn:?}") };
        assert!(width >= 1 && height >= 1 && left + width <= 2000 && top + height <= 2000);
        let share = f64::from(width) * f64::from(height) / 4e6;
        let ratio = f64::from(width) / f64::from(height);
        assert!((0.079..=1.0).contains(&share) && (0.745..1.345).contains(&ratio), "{share} {ratio}");
        area[0] += share / DRAWS as f64;
        area[1] += share * share / DRAWS as f64;
        aspect += ratio.ln() / DRAWS as f64;
        flips += usize::from(drawn.flip);
    }
    // Crops of a share s above 3/4 fit with the probability −ln s / ln 4/3 and are drawn anew else, so the mean is
    // 0.478, not 0.54, and the deviation 0.233; four standard errors are 0.015.
    let deviation = (area[1] - area[0] * area[0]).sqrt();
    assert!((area[0] - 0.478).abs() < 0.015 && (deviation - 0.233).abs() < 0.015, "{area:?}");
    assert!(aspect.abs() < 0.01, "{aspect}");
    assert!((flips as f64 / DRAWS as f64 - 0.5).abs() < 0.03, "{flips}");
}

/// Small images of the crops' size are moved in a black frame.
#[test]
fn small_images_are_padded() {
    let augment = ClassifyAugment::default();
    let image: Image = picture(32, 32, 9).into();
    let mut moves = BTreeMap::new();
    for i in 0..2000 {
        let drawn = draw(&mut stream(1, Purpose::ClassifyCrops, 0, i), &augment, 32, (32, 32));
        let Cut::Shifted { down, right } = drawn.cut else { panic!("{drawn:?}") };
        assert!(down.abs() <= 4 && right.abs() <= 4);
        *moves.entry((down, right)).or_insert(0) += 1;
    }
    assert_eq!(moves.len(), 81);
    for (augment, size, width) in [
        (augment.clone(), 32, 40),
        (augment.clone(), 40, 40),
        (ClassifyAugment { crop_padding: 0, ..augment }, 32, 32),
    ] {
        let drawn = draw(&mut stream(1, Purpose::ClassifyCrops, 0, 1), &augment, size, (width, 32));
        assert!(matches!(drawn.cut, Cut::Resized(_)), "{size} {width}");
    }
    for (down, right) in [(0, 0), (4, -4), (-3, 1), (0, 4)] {
        for flip in [false, true] {
            let choices = plain(Cut::Shifted { down, right }, flip);
            let out = made(&image, &choices, 32);
            for (at, got) in out.iter().enumerate() {
                let (channel, y, x) = (at / 1024, at / 32 % 32, at % 32);
                let x = if flip { 31 - x } else { x };
                let (y, x) = (y as i32 + down, x as i32 + right);
                let inside = (0..32).contains(&y) && (0..32).contains(&x);
                let want = if inside { image.values()[(32 * y + x) as usize * 3 + channel] } else { 0 };
                assert_eq!(*got, want, "{choices:?} {channel} {y} {x}");
            }
        }
    }
    // a box of the image's size that is neither moved nor turned is the image
    let all = Cut::Resized(Area { top: 0, left: 0, height: 32, width: 32 });
    assert_eq!(made(&image, &plain(all, false), 32)[5], image.values()[15]);
}

#[test]
fn wrong_settings_are_named() {
    let wrong = ClassifyAugment {
        crop_scale: [0.5, 0.1],
        crop_ratio: [0.0, 1.0],
        crop_padding: 100,
        flip_probability: 1.5,
        repeats: 0,
        ..ClassifyAugment::default()
    };
    let mut problems = Problems::new();
    wrong.check(&mut problems);
    let keys: Vec<String> = problems.into_found().into_iter().map(|(key, _)| key).collect();
    let expected = ["crop_scale", "crop_ratio", "crop_padding", "flip_probability", "repeats"];
    assert_eq!(keys, expected.map(|key| format!("augment.{key}")));
    let mut right = Problems::new();
    ClassifyAugment::default().check(&mut right);
    assert!(right.is_empty());
    let error = Loader::new(open("shapes:20").unwrap(), config(16, 4, 0, wrong)).err().unwrap();
    assert!(error.to_string().contains("augment.crop_scale"), "{error}");
    assert!(Loader::new(open("shapes:20").unwrap(), config(0, 4, 0, ClassifyAugment::default())).is_err());
}

/// Where nothing becomes noise, the device normalises; else the workers do, which makes the same values.
#[test]
fn noise_comes_after_the_normalisation() {
    let source = open("shapes:40").unwrap();
    let of = |erasing_probability| {
        let augment = ClassifyAugment { erasing_probability, ..ClassifyAugment::default() };
        batches(&source, config(32, 40, 2, augment), 3)
    };
    let (clean, noisy) = (of(0.0), of(1.0));
    let (mut noise, mut rectangles) = (Vec::new(), 0);
    for (clean, noisy) in clean.iter().zip(&noisy) {
        let (clean, noisy) = (clean.group(WHOLE).unwrap(), noisy.group(WHOLE).unwrap());
        assert!(matches!((&clean.pixels, &noisy.pixels), (Pixels::Bytes(..), Pixels::Floats(_))));
        let (clean, noisy) = (clean.normalised(), noisy.normalised());
        for (clean, noisy) in clean.chunks(3 * 1024).zip(noisy.chunks(3 * 1024)) {
            let changed: Vec<bool> = clean.iter().zip(noisy).map(|(a, b)| a != b).collect();
            let (rows, columns): (Vec<usize>, Vec<usize>) =
                (0..1024).filter(|i| changed[*i]).map(|i| (i / 32, i % 32)).unzip();
            let Some(top) = rows.iter().min() else { continue };
            let (bottom, left, right) =
                (rows.iter().max().unwrap(), columns.iter().min().unwrap(), columns.iter().max().unwrap());
            assert_eq!(rows.len(), (bottom - top + 1) * (right - left + 1), "a rectangle");
            assert!(changed[1024..2048] == changed[..1024] && changed[2048..] == changed[..1024]);
            noise.extend(
                noisy.iter().zip(&changed).filter(|(_, changed)| **changed).map(|(v, _)| f64::from(*v)),
            );
            rectangles += 1;
        }
    }
    assert!(rectangles >= 118, "{rectangles} of 120");
    let mean = noise.iter().sum::<f64>() / noise.len() as f64;
    let variance = noise.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / noise.len() as f64;
    assert!(noise.len() > 20_000, "{}", noise.len());
    assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    assert!(noise.iter().any(|v| v.abs() > 3.0), "noise is not cut to what 8-bit values hold");
}

/// The share of the area: uniform of 0.02 to 1/3, of those that fit; a quarter of the images.
#[test]
fn rectangles_follow_their_distribution() {
    let augment = ClassifyAugment::default();
    const DRAWS: u64 = 8000;
    let (mut count, mut area, mut aspect) = (0.0, 0.0, 0.0);
    for i in 0..DRAWS {
        let drawn = draw(&mut stream(2, Purpose::ClassifyCrops, 0, i), &augment, 224, (300, 300));
        let Some(erased) = drawn.erased else { continue };
        let Area { top, left, height, width } = erased.area;
        assert!(height > 0 && width > 0 && top + height <= 224 && left + width <= 224, "{erased:?}");
        let share = f64::from(height * width) / f64::from(224 * 224);
        assert!((0.019..0.336).contains(&share), "{share}");
        let ratio = f64::from(height) / f64::from(width);
        assert!((0.29..3.45).contains(&ratio), "{ratio}");
        (count, area, aspect) = (count + 1.0, area + share, aspect + ratio.ln());
    }
    assert!((count / DRAWS as f64 - 0.25).abs() < 0.02, "{count}");
    // all but the largest of the longest fit: a little below the mean of 0.1767
    assert!((0.165..0.179).contains(&(area / count)), "{}", area / count);
    assert!((aspect / count).abs() < 0.05, "{}", aspect / count);
}

//! What the loader promises.

use std::collections::BTreeMap;
use std::sync::Arc;

use poa_gpu::Error;
use poa_gpu::data::batch::{GLOBAL, LOCAL};
use poa_gpu::data::*;
use poa_gpu::share::Share;

use crate::{folder, open, picture, save, spec};

pub fn small(batch: usize, threads: usize) -> LoaderConfig {
    let crops = CropConfig {
        global: Crop { size: 32, scale: (0.32, 1.0) },
        local: Crop { size: 16, scale: (0.05, 0.32) },
        local_count: 3,
        ..CropConfig::default()
    };
    let masks = MaskConfig::new(4);
    let (recipe, share) = (Arc::new(MultiCrop { crops, masks }), Share::ALL);
    LoaderConfig { batch, seed: 5, threads, prefetch: 2, recipe, start_step: 0, start: None, share }
}

pub fn batches(source: &Arc<dyn Source>, config: LoaderConfig, count: usize) -> Vec<Batch> {
    let mut loader = Loader::new(source.clone(), config).unwrap();
    (0..count).map(|_| loader.next().unwrap()).collect()
}

#[test]
fn batches_are_the_same_for_any_number_of_threads() {
    let source = open("shapes:50").unwrap();
    let inline = batches(&source, small(12, 0), 9);
    for (step, batch) in inline.iter().enumerate() {
        assert_eq!((batch.step(), batch.images(), batch.channels()), (step as u64, 12, 3));
        let [global, local] = batch.groups() else { panic!("{} groups", batch.groups().len()) };
        assert_eq!((global.name, global.shape()), (GLOBAL, [2 * 12, 3, 32, 32]));
        assert_eq!((local.name, local.shape()), (LOCAL, [3 * 12, 3, 16, 16]));
        let masks = global.masks.as_ref().unwrap();
        assert_eq!((masks.side, masks.values.len(), &local.masks), (4, 2 * 12 * 16, &None));
        for group in batch.groups() {
            let values = group.normalised();
            assert!(values.iter().all(|v| v.is_finite() && v.abs() < 3.0));
            assert!(values.chunks(group.crop_len()).all(|crop| crop.iter().any(|&v| v != 0.0)));
        }
        let (labels, indices) = (batch.labels().unwrap(), batch.indices().unwrap());
        let order = order::Order::new(50, 12, 5);
        for (slot, (label, index)) in labels.iter().zip(indices).enumerate() {
            assert_eq!(*index, order.pick(step as u64, slot).index);
            assert_eq!(Some(*label), source.label(*index));
        }
    }
    for (threads, prefetch) in [(1, 1), (2, 3), (5, 2), (16, 1)] {
        let config = LoaderConfig { prefetch, ..small(12, threads) };
        assert!(batches(&source, config, 9) == inline, "{threads} threads");
    }
}

#[test]
fn a_resumed_loader_goes_on_where_it_was() {
    let source = open("shapes:50").unwrap();
    let all = batches(&source, small(12, 2), 9);
    let rest = batches(&source, LoaderConfig { start_step: 6, ..small(12, 2) }, 3);
    assert!(rest == all[6..]);
}

#[test]
fn an_epoch_shows_every_image_once() {
    let order = order::Order::new(50, 12, 3);
    assert_eq!(order.steps_per_epoch(), 4);
    let epoch = |e: u64| -> Vec<usize> {
        let steps = (4 * e)..(4 * e + 4);
        steps.flat_map(|s| (0..12).map(move |i| (s, i))).map(|(s, i)| order.pick(s, i).index).collect()
    };
    let (first, second) = (epoch(0), epoch(1));
    assert_ne!(first, second);
    assert_eq!(first, epoch(0));
    for mut seen in [first, second] {
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 48);
        assert!(seen[47] < 50);
    }
}

#[test]
fn a_batch_larger_than_the_data_repeats_images_with_other_crops() {
    let source = open("shapes:3").unwrap();
    let batch = &batches(&source, small(8, 2), 2)[1];
    let values = batch.groups()[0].normalised();
    let crops: Vec<&[f32]> = values.chunks(3 * 32 * 32).take(8).collect();
    for i in 0..8 {
        assert!(!crops[..i].contains(&crops[i]), "crop {i} was there before");
    }
}

/// A folder with ten names, three of which are no usable image.
fn partly_bad(name: &str) -> Arc<dyn Source> {
    let dir = folder(name);
    for i in 0..10 {
        save(&dir, &format!("{i}.png"), picture(20, 20, i * 20));
    }
    std::fs::write(dir.join("3.png"), b"not an image").unwrap();
    std::fs::write(dir.join("4.jpg"), b"").unwrap();
    let whole = std::fs::read(dir.join("9.png")).unwrap();
    std::fs::write(dir.join("9.png"), &whole[..whole.len() / 2]).unwrap();
    open(&spec(&dir)).unwrap()
}

#[test]
fn unusable_images_are_replaced_and_named_once() {
    let source = partly_bad("bad");
    let mut inline = Loader::new(source.clone(), small(2, 0)).unwrap();
    let mut threaded = Loader::new(source, LoaderConfig { prefetch: 4, ..small(2, 3) }).unwrap();
    let (mut all, mut counts) = (Vec::new(), BTreeMap::new());
    assert!(threaded.take_bad_samples().is_empty());
    for step in 0..10 {
        assert!(inline.next().unwrap() == threaded.next().unwrap());
        // The same ones at the same step, although the threads are ahead.
        let fresh = threaded.take_bad_samples();
        assert_eq!(inline.take_bad_samples(), fresh, "step {step}");
        fresh.iter().for_each(|bad| *counts.entry(bad.kind.name()).or_insert(0) += 1);
        all.extend(fresh);
        assert_eq!(threaded.bad_count(), all.len());
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    let found: Vec<_> = all.iter().map(|bad| (bad.name.as_str(), bad.kind)).collect();
    let expected = [("3.png", BadKind::Unsupported), ("4.jpg", BadKind::Empty), ("9.png", BadKind::Damaged)];
    assert_eq!(found, expected, "{all:?}");
    assert_eq!(counts, BTreeMap::from([("unsupported", 1), ("empty", 1), ("damaged", 1)]));
    assert!(all.iter().all(|bad| !bad.reason.is_empty()));
    let mut names = BadKind::ALL.map(BadKind::name);
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
}

#[test]
fn a_folder_of_broken_images_is_an_error() {
    let dir = folder("all-bad");
    for i in 0..7 {
        std::fs::write(dir.join(format!("{i}.png")), b"nothing").unwrap();
    }
    for threads in [0, 3] {
        let mut loader = Loader::new(open(&spec(&dir)).unwrap(), small(4, threads)).unwrap();
        for _ in 0..2 {
            let error = loader.next().unwrap_err();
            assert!(matches!(error, Error::File { .. }), "{error}");
            assert!(error.to_string().contains("none of its 7 images"), "{error}");
        }
        assert_eq!((loader.take_bad_samples().len(), loader.bad_count()), (7, 7));
    }
}

#[test]
fn a_crash_in_a_thread_is_an_error_and_no_hang() {
    struct Broken(Arc<dyn Source>);
    impl Source for Broken {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn load(&self, i: usize) -> Result<Image, BadSample> {
            assert_ne!(i, 17, "a bug");
            self.0.load(i)
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
    let mut loader = Loader::new(Arc::new(Broken(open("shapes:40").unwrap())), small(10, 2)).unwrap();
    let failed = (0..4).find_map(|_| loader.next().err());
    assert!(failed.unwrap().to_string().contains("internal error"));
}

#[test]
fn a_loader_can_be_dropped_at_any_time() {
    let source = open("shapes:500").unwrap();
    for taken in 0..4 {
        let mut loader = Loader::new(source.clone(), LoaderConfig { prefetch: 8, ..small(64, 4) }).unwrap();
        (0..taken).for_each(|_| drop(loader.next().unwrap()));
        drop(loader);
    }
    assert!(Loader::new(source, small(0, 1)).is_err());
}

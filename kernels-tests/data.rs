//! Data: augmentation against torchvision (`fixtures/augment`), sources, masks, and the loader's promises.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{DynamicImage, ImageEncoder, RgbImage};
use poa_gpu::Error;
use poa_gpu::data::augment::{Area, MEAN, STD};
use poa_gpu::data::rng::{Purpose, stream};
use poa_gpu::data::*;
use safetensors::SafeTensors;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels-tests/fixtures/augment");

/// An empty folder for one test.
fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("data").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

fn spec(dir: &Path) -> String {
    format!("folder:{}", dir.display())
}

/// A picture that differs from others and from its own mirror images.
fn picture(width: u32, height: u32, seed: u8) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 7) as u8, (y * 5) as u8, seed]))
}

fn save(dir: &Path, name: &str, image: impl Into<DynamicImage>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.into().save(path).unwrap();
}

// ---- augmentation

fn recorded_choices(case: &serde_json::Value) -> Choices {
    let number = |key: &str| case[key].as_u64().unwrap() as u32;
    let stage = |name: &serde_json::Value| {
        let name = name.as_str().unwrap();
        let amount = case["jitter"][name].as_f64().unwrap() as f32;
        match name {
            "brightness" => Jitter::Brightness(amount),
            "contrast" => Jitter::Contrast(amount),
            "saturation" => Jitter::Saturation(amount),
            "hue" => Jitter::Hue(amount),
            other => panic!("unknown stage {other}"),
        }
    };
    let order = case.get("jitter_order").map(|o| o.as_array().unwrap());
    let sigma = case["blur_sigma"].as_f64().unwrap() as f32;
    Choices {
        area: Area {
            top: number("top"),
            left: number("left"),
            height: number("height"),
            width: number("width"),
        },
        size: number("size") as usize,
        flip: case["flip"].as_bool().unwrap(),
        jitter: order.map(|o| std::array::from_fn(|i| stage(&o[i]))),
        grayscale: case["grayscale"].as_bool().unwrap(),
        blur_sigma: (sigma > 0.0).then_some(sigma),
        solarize: case["solarize"].as_bool().unwrap(),
    }
}

#[test]
fn recorded_crops_come_out_as_torchvision_makes_them() {
    let cases = std::fs::read_to_string(Path::new(FIXTURES).join("cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&cases).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    let bytes = std::fs::read(Path::new(FIXTURES).join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(cases.len(), expected.len());
    for (i, case) in cases.iter().enumerate() {
        let path = Path::new(FIXTURES).join(case["image"].as_str().unwrap());
        let choices = recorded_choices(case);
        let got = apply(&image::open(path).unwrap().into_rgb8(), &choices);
        let want = expected.tensor(&format!("case{i}")).unwrap();
        assert_eq!(want.shape(), [3, choices.size, choices.size]);
        let want = want.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let plane = choices.size * choices.size;
        let differences: Vec<f32> = got
            .iter()
            .zip(want)
            .enumerate()
            .map(|(at, (a, b))| (a - b).abs() * STD[at / plane] * 255.0)
            .collect();
        assert_eq!(differences.len(), 3 * plane);
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        let max = differences.iter().copied().fold(0.0, f32::max);
        println!("case {i}: mean {mean:.3}, max {max:.1} of 255");
        assert!(mean <= 2.0 && max <= 12.0, "case {i}: mean {mean}, max {max} of 255");
    }
}

#[test]
fn drawn_crops_lie_within_the_image_and_the_recipe() {
    let config = CropConfig::default();
    for (width, height) in [(1, 1), (1, 50), (300, 2), (500, 375), (32, 32)] {
        for i in 0..300 {
            let mut rng = stream(3, Purpose::Crops, 0, i);
            for (view, crop) in
                [(View::GlobalA, config.global), (View::GlobalB, config.global), (View::Local, config.local)]
            {
                let drawn = draw(&mut rng, &config, view, width, height);
                let Area { top, left, height: h, width: w } = drawn.area;
                assert!(w >= 1 && h >= 1 && left + w <= width && top + h <= height, "{drawn:?}");
                assert_eq!(drawn.size, crop.size);
                if (width, height) == (500, 375) {
                    let share = f64::from(w * h) / f64::from(width * height);
                    assert!(share > crop.scale.0 - 0.01 && share < crop.scale.1 + 0.01, "{share}");
                    let aspect = f64::from(w) / f64::from(h);
                    assert!((0.73..1.36).contains(&aspect), "{aspect}");
                }
            }
        }
    }
}

#[test]
fn choices_follow_their_probabilities() {
    let share = |blur: BlurProbabilities, view: View, of: fn(&Choices) -> bool| {
        let config = CropConfig { blur, ..CropConfig::default() };
        let drawn = (0..4000).map(|i| draw(&mut stream(5, Purpose::Crops, 1, i), &config, view, 64, 48));
        drawn.filter(of).count() as f64 / 4000.0
    };
    let near = |got: f64, want: f64| assert!((got - want).abs() < 0.03, "{got} instead of {want}");
    let (paper, code) = (BlurProbabilities::PAPER, BlurProbabilities::CODE);
    for (blur, a, b) in [(paper, 1.0, 0.1), (code, 0.0, 0.9)] {
        near(share(blur, View::GlobalA, |c| c.blur_sigma.is_some()), a);
        near(share(blur, View::GlobalB, |c| c.blur_sigma.is_some()), b);
        near(share(blur, View::Local, |c| c.blur_sigma.is_some()), 0.5);
    }
    near(share(paper, View::Local, |c| c.flip), 0.5);
    near(share(paper, View::Local, |c| c.jitter.is_some()), 0.8);
    near(share(paper, View::Local, |c| c.grayscale), 0.2);
    near(share(paper, View::GlobalB, |c| c.solarize), 0.2);
    assert_eq!(share(paper, View::GlobalA, |c| c.solarize), 0.0);
    assert_eq!(share(paper, View::Local, |c| c.solarize), 0.0);
    near(share(paper, View::Local, |c| matches!(c.jitter, Some([Jitter::Hue(_), ..]))), 0.2);
}

#[test]
fn evaluation_views_are_centred_and_normalised() {
    let grey = RgbImage::from_pixel(50, 37, image::Rgb([100, 150, 200]));
    let view = evaluation_view(&grey, 16);
    assert_eq!(view.len(), 3 * 16 * 16);
    for (channel, value) in [100.0, 150.0, 200.0].into_iter().enumerate() {
        let want = (value / 255.0 - MEAN[channel]) / STD[channel];
        assert!(view[channel * 256..][..256].iter().all(|v| (v - want).abs() < 1e-5));
    }
    // A square image of the right size is taken as it is.
    let exact = picture(16, 16, 9);
    let view = evaluation_view(&exact, 16);
    assert!((view[3] - (21.0 / 255.0 - MEAN[0]) / STD[0]).abs() < 1e-5);
    // 32 · 256 / 224 = 36: the centre of a 36-pixel image, without resizing.
    let centre = evaluation_view(&picture(36, 36, 9), 32);
    assert!((centre[0] - (14.0 / 255.0 - MEAN[0]) / STD[0]).abs() < 1e-5);
    // Extreme shapes cost no more than their centre.
    for (width, height) in [(1, 60_000), (60_000, 1), (1, 1), (2, 3)] {
        assert_eq!(evaluation_view(&picture(width, height, 1), 224).len(), 3 * 224 * 224);
    }
}

// ---- sources

#[test]
fn a_spec_that_names_nothing_is_a_usage_error() {
    let bad =
        ["", "imagenet", "folder", "folder:", "shapes:0", "shapes:x", "shapes:10x4", "shapes:99999999999"];
    for spec in bad {
        let error = open(spec).err().unwrap_or_else(|| panic!("{spec} opened"));
        assert!(matches!(error, Error::Usage(_)), "{error}");
        assert!(error.to_string().contains("folder:DIR") && error.to_string().contains("shapes"), "{error}");
    }
    assert!(open(FIXTURES).err().unwrap().to_string().contains(&format!("`folder:{FIXTURES}`")));
}

#[test]
fn a_folder_without_images_says_so() {
    let dir = folder("empty");
    std::fs::write(dir.join("readme.txt"), "no image").unwrap();
    let missing = dir.join("nowhere");
    let file = dir.join("readme.txt");
    for (path, words) in [(&dir, "holds no images"), (&missing, "no such folder"), (&file, "not a folder")] {
        let error = open(&spec(path)).err().unwrap();
        assert!(matches!(error, Error::File { .. }) && error.to_string().contains(words), "{error}");
    }
}

#[test]
fn folders_are_read_in_order_with_the_parents_as_classes() {
    let dir = folder("classes");
    for (i, name) in
        ["a/deep/dog/2.PNG", "cat/1.png", "cat/sub/dog/0.bmp", "dog/x.jpeg", "dog/a.tiff"].iter().enumerate()
    {
        save(&dir, name, picture(8, 6, i as u8));
    }
    std::fs::write(dir.join("cat/notes.txt"), "skipped").unwrap();
    let source = open(&spec(&dir)).unwrap();
    let names: Vec<String> = (0..source.len()).map(|i| source.name(i)).collect();
    assert_eq!(names, ["a/deep/dog/2.PNG", "cat/1.png", "cat/sub/dog/0.bmp", "dog/a.tiff", "dog/x.jpeg"]);
    assert_eq!(source.classes(), ["cat", "dog"]);
    let labels: Vec<_> = (0..source.len()).map(|i| source.label(i).unwrap()).collect();
    assert_eq!(labels, [1, 0, 1, 1, 1]);
    // One parent only: no labels.
    let single = open(&spec(&dir.join("dog"))).unwrap();
    assert_eq!((single.len(), single.classes().len(), single.label(0)), (2, 0, None));
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles() {
    let (dir, other) = (folder("links"), folder("links-target"));
    save(&dir, "x/a.png", picture(4, 4, 0));
    save(&other, "b.png", picture(4, 4, 1));
    std::os::unix::fs::symlink(&other, dir.join("y")).unwrap();
    std::os::unix::fs::symlink(&dir, dir.join("x/again")).unwrap();
    std::os::unix::fs::symlink("nowhere.png", dir.join("x/gone.png")).unwrap();
    let source = open(&spec(&dir)).unwrap();
    let names: Vec<String> = (0..source.len()).map(|i| source.name(i)).collect();
    assert_eq!(names, ["x/a.png", "x/gone.png", "y/b.png"]);
    assert!(source.load(1).is_err());
    assert_eq!(source.load(2).unwrap(), picture(4, 4, 1));
}

#[test]
fn every_kind_of_image_becomes_rgb() {
    let dir = folder("kinds");
    let rgb = picture(9, 7, 200);
    save(&dir, "0-grey.png", DynamicImage::from(rgb.clone()).into_luma8());
    let mut alpha = DynamicImage::from(rgb.clone()).into_rgba8();
    alpha.pixels_mut().for_each(|p| p.0[3] = 10);
    save(&dir, "1-alpha.png", alpha);
    save(&dir, "2-sixteen.png", DynamicImage::from(rgb.clone()).into_rgb16());
    save(&dir, "3-plain.webp", rgb.clone());
    std::fs::copy(dir.join("3-plain.webp"), dir.join("4-wrong-ending.jpg")).unwrap();
    let source = open(&spec(&dir)).unwrap();
    assert_eq!(source.len(), 5);
    let grey = source.load(0).unwrap();
    assert!(grey.pixels().all(|p| p.0[0] == p.0[1] && p.0[1] == p.0[2]));
    for i in 1..5 {
        assert_eq!(source.load(i).unwrap(), rgb, "{}", source.name(i));
    }
}

/// The upright picture, red on the left and blue on the right, stored turned as each EXIF orientation says.
#[test]
fn the_orientation_of_the_camera_is_undone() {
    let dir = folder("exif");
    let (red, blue) = (image::Rgb([250, 10, 10]), image::Rgb([10, 10, 250]));
    let wide = |a, b| RgbImage::from_fn(64, 32, |x, _| if x < 32 { a } else { b });
    let tall = |a, b| RgbImage::from_fn(32, 64, |_, y| if y < 32 { a } else { b });
    let stored = [
        (1_u8, wide(red, blue)),
        (2, wide(blue, red)), // mirrored
        (3, wide(blue, red)), // upside down
        (6, tall(blue, red)), // to be turned clockwise: the lower half comes to the left
        (8, tall(red, blue)), // to be turned the other way
    ];
    fn encode(mut encoder: impl ImageEncoder, exif: &[u8], image: &RgbImage) {
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        encoder.write_image(image, image.width(), image.height(), image::ExtendedColorType::Rgb8).unwrap();
    }
    for (orientation, image) in stored {
        // TIFF header, one entry: tag 0x0112, type short, count 1, the value; no further directory.
        let head = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0";
        let exif = [&head[..], &[orientation, 0, 0, 0, 0, 0, 0, 0]].concat();
        let file = |ending: &str| std::fs::File::create(dir.join(format!("{orientation}.{ending}"))).unwrap();
        encode(image::codecs::png::PngEncoder::new(file("png")), &exif, &image);
        encode(image::codecs::jpeg::JpegEncoder::new(file("jpg")), &exif, &image);
    }
    let source = open(&spec(&dir)).unwrap();
    assert_eq!(source.len(), 10);
    for i in 0..source.len() {
        let (image, name) = (source.load(i).unwrap(), source.name(i));
        assert_eq!(image.dimensions(), (64, 32), "{name}");
        let near = |at: &image::Rgb<u8>, want: image::Rgb<u8>| {
            at.0.iter().zip(want.0).all(|(a, b)| a.abs_diff(b) < 30)
        };
        assert!(near(image.get_pixel(10, 16), red) && near(image.get_pixel(53, 16), blue), "{name}");
    }
}

#[test]
fn shapes_have_two_parts_and_always_the_same_pictures() {
    let source = open("shapes:300").unwrap();
    assert_eq!((source.len(), source.classes().len()), (300, 10));
    assert_eq!(source.load(7).unwrap(), open("shapes").unwrap().load(7).unwrap());
    assert_eq!(open("shapes:5x64").unwrap().load(0).unwrap().dimensions(), (64, 64));
    let (train, val) = split(source, HeldOut::default());
    let val = val.unwrap();
    assert_eq!((train.len(), val.len()), (300, 200));
    assert_ne!(train.load(0).unwrap(), val.load(0).unwrap());
    assert_eq!(train.classes(), val.classes());
    let mut counts = [0; 10];
    (0..300).for_each(|i| counts[train.label(i).unwrap() as usize] += 1);
    assert_eq!(counts, [30; 10]);
}

#[test]
fn a_labelled_folder_is_split_by_name() {
    let dir = folder("split");
    for i in 0..60 {
        save(&dir, &format!("{}/{i}.png", ["cat", "dog"][i % 2]), picture(3, 3, i as u8));
    }
    let open_split = |held_out| split(open(&spec(&dir)).unwrap(), held_out);
    let names = |source: &Arc<dyn Source>| (0..source.len()).map(|i| source.name(i)).collect::<Vec<_>>();
    let (train, val) = open_split(HeldOut::default());
    let val = val.unwrap();
    assert_eq!((train.len(), val.len()), (54, 6));
    let (train_names, val_names) = (names(&train), names(&val));
    assert!(val_names.iter().all(|n| !train_names.contains(n)));
    assert_eq!(val.classes()[val.label(0).unwrap() as usize], val_names[0].split('/').next().unwrap());
    assert_eq!(names(&open_split(HeldOut::default()).1.unwrap()), val_names);
    assert_eq!(open_split(HeldOut { fraction: 0.5, at_most: 4 }).1.unwrap().len(), 4);
    assert!(open_split(HeldOut { fraction: 0.0, at_most: 4 }).1.is_none());
    let (all, none) = split(open(&spec(&dir.join("cat"))).unwrap(), HeldOut::default());
    assert_eq!((all.len(), none.is_none()), (30, true));
}

// ---- masks

#[test]
fn masks_hide_what_was_asked_for() {
    for (side, ratio) in [(14, (0.1, 0.5)), (7, (0.1, 0.3)), (16, (0.1, 0.5)), (37, (0.1, 0.5))] {
        let config = MaskConfig { ratio, ..MaskConfig::new(side) };
        let cells = side * side;
        let mut reached = 0.0;
        for step in 0..40 {
            let crops = 2 * (1 + step as usize % 9);
            let masks = config.masks(11, step, crops);
            assert_eq!(masks.len(), crops * cells);
            assert!(masks.iter().all(|&m| m <= 1));
            let mut counts: Vec<usize> =
                masks.chunks(cells).map(|m| m.iter().map(|&v| v as usize).sum()).collect();
            counts.sort_unstable();
            let (empty, masked) = counts.split_at(crops - crops / 2);
            assert!(empty.iter().all(|&c| c == 0), "{counts:?}");
            // Each in its own part of the ratio range; a mask may fall short, never exceed.
            let point = |i: usize| ratio.0 + (ratio.1 - ratio.0) * i as f64 / masked.len() as f64;
            for (i, &count) in masked.iter().enumerate() {
                assert!(count as f64 <= cells as f64 * point(i + 1), "{count} of {cells} for number {i}");
                reached +=
                    count as f64 / (cells as f64 * (point(i) + point(i + 1)) / 2.0) / masked.len() as f64;
            }
        }
        assert!(reached / 40.0 > 0.85, "side {side}: {reached}");
    }
}

#[test]
fn masks_follow_from_seed_and_step() {
    let config = MaskConfig::new(14);
    assert_eq!(config.masks(1, 2, 16), config.masks(1, 2, 16));
    assert_ne!(config.masks(1, 2, 16), config.masks(1, 3, 16));
    assert_ne!(config.masks(1, 2, 16), config.masks(2, 2, 16));
    // Masked crops are not always the same ones.
    let first = |step| config.masks(1, step, 8)[..196].contains(&1);
    assert!((0..20).any(first) && !(0..20).all(first));
}

// ---- the loader

fn small(batch: usize, threads: usize) -> LoaderConfig {
    let crops = CropConfig {
        global: Crop { size: 32, scale: (0.32, 1.0) },
        local: Crop { size: 16, scale: (0.05, 0.32) },
        local_count: 3,
        ..CropConfig::default()
    };
    LoaderConfig { batch, seed: 5, threads, prefetch: 2, crops, masks: MaskConfig::new(4), start_step: 0 }
}

fn batches(source: &Arc<dyn Source>, config: LoaderConfig, count: usize) -> Vec<Batch> {
    let mut loader = Loader::new(source.clone(), config).unwrap();
    (0..count).map(|_| loader.next().unwrap()).collect()
}

#[test]
fn batches_are_the_same_for_any_number_of_threads() {
    let source = open("shapes:50").unwrap();
    let inline = batches(&source, small(12, 0), 9);
    for (step, batch) in inline.iter().enumerate() {
        assert_eq!((batch.step, batch.images), (step as u64, 12));
        assert_eq!(batch.global.len(), 2 * 12 * 3 * 32 * 32);
        assert_eq!(batch.local.len(), 3 * 12 * 3 * 16 * 16);
        assert_eq!(batch.masks.len(), 2 * 12 * 16);
        assert!(batch.global.iter().chain(&batch.local).all(|v| v.is_finite() && v.abs() < 3.0));
        assert!(batch.global.chunks(3 * 32 * 32).all(|crop| crop.iter().any(|&v| v != 0.0)));
        assert!(batch.local.chunks(3 * 16 * 16).all(|crop| crop.iter().any(|&v| v != 0.0)));
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
    let crops: Vec<&[f32]> = batch.global[..8 * 3 * 32 * 32].chunks(3 * 32 * 32).collect();
    for i in 0..8 {
        assert!(!crops[..i].contains(&crops[i]), "crop {i} was there before");
    }
}

#[test]
fn unreadable_images_are_replaced_and_named_once() {
    let dir = folder("bad");
    for i in 0..10 {
        save(&dir, &format!("{i}.png"), picture(20, 20, i * 20));
    }
    std::fs::write(dir.join("3.png"), b"not an image").unwrap();
    std::fs::write(dir.join("4.jpg"), b"").unwrap();
    let whole = std::fs::read(dir.join("9.png")).unwrap();
    std::fs::write(dir.join("9.png"), &whole[..whole.len() / 2]).unwrap();
    let source = open(&spec(&dir)).unwrap();
    let inline = batches(&source, small(5, 0), 8);
    let mut loader = Loader::new(source, small(5, 3)).unwrap();
    for batch in inline {
        assert!(loader.next().unwrap() == batch);
    }
    let bad = loader.bad_samples();
    let names: Vec<&str> = bad.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["3.png", "4.jpg", "9.png"], "{bad:?}");
    assert!(bad.iter().all(|b| !b.reason.is_empty()));
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
    }
}

#[test]
fn a_crash_in_a_thread_is_an_error_and_no_hang() {
    struct Broken(Arc<dyn Source>);
    impl Source for Broken {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn load(&self, i: usize) -> Result<RgbImage, BadSample> {
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

//! Pictures and files of heads: matches of patches by hand and of views, prototypes with their images, heads that are kept by
//! an extraction and give the same logits, and assignments in a file of features.

#[path = "support/program.rs"]
mod support;

use std::path::Path;

use image::{Rgb, RgbImage};
use poa_gpu::data::augment::{Choices, apply, draw};
use poa_gpu::data::{Crop, CropConfig, Image, Normalization, Reading, View, open};
use poa_gpu::eval::correspondence::{joined, largest, matches, same_places};
use poa_gpu::eval::prototype_pictures::{Choice, most_chosen, tiled, window};
use poa_gpu::eval::prototypes::{Prototypes, head_of, heads_in};
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::recipes::teacher::Teacher;
use poa_gpu::tensor::{Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use support::{Folder, SMALL, printed, program, refused, text};

fn devices() -> [Device; 2] {
    [Device::cpu(), ops::open(&DeviceChoice::Gpu).expect("kernels-tests/run installs a software adapter")]
}

/// A checkpoint of a family after two steps of pre-training; with heads of patches of their own where `separate`.
fn pretrained(folder: &Folder, recipe: &str, separate: bool) -> String {
    let out = folder.path(&format!("{recipe}-{separate}"));
    let mut args = vec!["-q", "train", "--config", recipe, "--device=cpu", "--steps=2", "--out", &out];
    args.extend(["train.batch_size_per_gpu=4", "data.spec=shapes:40", "evaluation.train_images=20"]);
    args.extend(["evaluation.val_images=10", "dino.head_n_prototypes=[16, 24]", "dino.head_hidden_dim=32"]);
    if recipe == "demo" {
        args.extend(SMALL);
    }
    if separate {
        args.extend(["ibot.separate_head=true", "ibot.head_n_prototypes=[12]", "ibot.head_hidden_dim=16"]);
    }
    let done = program(&args);
    assert!(done.status.success(), "{recipe}: {}", text(&done.stderr));
    out
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn matches_are_the_largest_products() {
    let (first, second) = ([1.0, 0.0, 0.0, 2.0, -1.0, 0.0], [3.0, 0.0, 0.0, 1.0, 3.0, 0.0]);
    assert_eq!(matches(&first, &second, 2), [(0, 3.0), (1, 2.0), (1, 0.0)]);
    assert_eq!(largest(&[0.1, 0.5, 0.2, 0.5], 3), [1, 3, 2]);
    let (a, b) = (RgbImage::new(8, 8), RgbImage::from_pixel(8, 8, Rgb([9; 3])));
    let picture = joined([&a, &b], 2, &[(1, 2)]).unwrap();
    assert_eq!(picture.dimensions(), (16, 8));
    // from the middle of the upper right cell to that of the lower left one of the second image
    assert_eq!([picture.get_pixel(6, 2).0, picture.get_pixel(10, 6).0], [[255, 0, 0]; 2]);
    assert_eq!(picture.pixels().filter(|p| p.0 == [255, 0, 0]).count(), 5);
    assert!(joined([&a, &RgbImage::new(4, 4)], 2, &[]).is_err());
}

/// An image whose red and green say where a pixel is, and the same of random views of it: the patch of the second view whose
/// colour is nearest to one's of the first is the same place.
#[test]
fn the_same_place_of_two_views_is_where_colours_say() {
    let (grid, size) = (8, 64);
    let of = |x: u32, y: u32| Rgb([(x * 255 / 199) as u8, (y * 255 / 159) as u8, 0]);
    let image = Image::from(RgbImage::from_fn(200, 160, of));
    let config = CropConfig {
        global: Crop { size, scale: (0.4, 1.0) },
        jitter: 0.0,
        grayscale: 0.0,
        ..CropConfig::default()
    };
    let normalization = Normalization::imagenet(3);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut view = || -> (Choices, Vec<[f64; 2]>) {
        let choices = Choices {
            blur_sigma: None,
            solarize: false,
            ..draw(&mut rng, &config, View::GlobalA, image.width(), image.height())
        };
        let pixels = apply(&image, &choices, &normalization);
        let plane = |c: usize, x: usize, y: usize| {
            f64::from(normalization.value(c, pixels[c * size * size + y * size + x]))
        };
        let cell = size / grid;
        let mean = |patch: usize| {
            let (left, top) = (patch % grid * cell, patch / grid * cell);
            [(0, 200.0), (1, 160.0)].map(|(c, pixels)| {
                let all = (0..cell * cell).map(|i| plane(c, left + i % cell, top + i / cell));
                all.sum::<f64>() / (cell * cell) as f64 * pixels / 255.0
            })
        };
        (choices, (0..grid * grid).map(mean).collect())
    };
    let (mut known, mut flips) = (0, 0);
    for _ in 0..20 {
        let [(first, a), (second, b)] = [view(), view()];
        flips += usize::from(first.flip != second.flip);
        for (patch, place) in same_places(&first, &second, grid).into_iter().enumerate() {
            let Some(place) = place else { continue };
            known += 1;
            let apart = |other: &[f64; 2]| (0..2).map(|i| (other[i] - a[patch][i]).powi(2)).sum::<f64>();
            let nearest = b.iter().map(apart).fold(f64::INFINITY, f64::min);
            // pixels are whole and values rounded: what is nearest may be as near as the next one
            assert!(apart(&b[place]).sqrt() <= nearest.sqrt() + 2.0, "{first:?} {second:?} {patch} {place}");
        }
        assert!(same_places(&first, &first, grid).iter().enumerate().all(|(i, place)| *place == Some(i)));
    }
    assert!(known > 300 && flips > 3, "{known} places, {flips} mirrored");
}

#[test]
fn prototypes_that_most_images_choose_come_first() {
    let choice = |logit, prototype| Some(Choice { logit, prototype, cell: 0 });
    let choices = [choice(-3.0, 2), choice(0.5, 1), None, choice(-1.0, 2), choice(-2.0, 2), choice(0.7, 1)];
    let found = most_chosen(&choices, 4, 9);
    let plain: Vec<(u32, Vec<usize>)> = found.into_iter().map(|c| (c.prototype, c.images)).collect();
    // negative logits count too, and no place is filled with images that chose another
    assert_eq!(plain, [(2, vec![3, 4, 0]), (1, vec![5, 1])]);
    assert_eq!(most_chosen(&choices, 4, 1).len(), 1);
    let picture = RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8 * 3, y as u8 * 3, 100]));
    let part = window(&picture, 8, 9).unwrap();
    assert_eq!(part.dimensions(), (40, 40));
    assert_eq!(part.get_pixel(0, 0).0, [0, 0, 100], "moved to lie within the picture");
    assert_eq!(
        part.get_pixel(8, 8).0,
        [(24 * 128 + 200 * 127) / 255, (24 * 128 + 100 * 127) / 255, (100 * 128 / 255) as u32]
            .map(|v| v as u8)
    );
    assert!(window(&RgbImage::from_pixel(64, 64, Rgb([40; 3])), 8, 9).is_none());
    let tiles = vec![RgbImage::from_pixel(4, 4, Rgb([7; 3])); 5];
    let grid = tiled(&tiles, 9).unwrap();
    assert_eq!((grid.dimensions(), grid.get_pixel(11, 7).0), ((12, 8), [255; 3]));
    assert!(tiled(&[], 9).is_none());
}

/// What plain code makes of features with the heads of an extraction, in double precision.
fn plain_logits(heads: &TensorFile, name: &str, features: &[f32], width: usize) -> Vec<f64> {
    let read = |part: &str| -> Vec<f64> {
        heads.read_f32(&format!("{name}.{part}")).unwrap().into_iter().map(f64::from).collect()
    };
    let layer = |x: &[f64], number: usize| -> Vec<f64> {
        let (weight, bias) = (read(&format!("mlp.{number}.weight")), read(&format!("mlp.{number}.bias")));
        let row = |(row, b): (&[f64], &f64)| b + row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        weight.chunks(x.len()).zip(&bias).map(row).collect()
    };
    let gelu =
        |x: Vec<f64>| -> Vec<f64> { x.into_iter().map(|v| 0.5 * v * (1.0 + erf(v / 2f64.sqrt()))).collect() };
    let prototypes = read("prototypes.weight");
    let mut all = Vec::new();
    for row in features.chunks(width) {
        let x: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
        let x = layer(&gelu(layer(&gelu(layer(&x, 0)), 2)), 4);
        let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
        all.extend(
            prototypes.chunks(x.len()).map(|p| p.iter().zip(&x).map(|(p, x)| p * x / length).sum::<f64>()),
        );
    }
    all
}

/// By its Taylor series; arguments here are small.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn kept_heads_have_the_checkpoints_logits() {
    let folder = Folder::new("kept-heads");
    let runs = [("demo", true), ("demo_swin", false), ("demo_resnet", false)];
    for (recipe, separate) in runs {
        let run = pretrained(&folder, recipe, separate);
        let nets = folder.path(&format!("{recipe}-nets"));
        printed(&[
            "extract",
            "--checkpoint",
            &run,
            "--network=smallest,intact",
            "--format=poa",
            "--heads",
            "--out",
            &nets,
        ]);
        for device in devices() {
            let teacher = Teacher::open(run.as_ref(), &device).unwrap();
            let encoder = teacher.encoder();
            let side = teacher.config.crops.global_crops_size;
            let values: Vec<f32> =
                (0..3 * 3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 500.0 - 1.0).collect();
            let images = Tensor::from_slice(&device, &[3, 3, side, side], &values).unwrap();
            for network in [teacher.grid.smallest(), teacher.grid.intact()] {
                let on = format!("{recipe} {network} on {}", device.kind());
                let (cls, _) = encoder.features(network, &images, false).unwrap();
                let width = encoder.backbone.feature_width(network);
                let kept =
                    TensorFile::open(Path::new(&nets).join(network.to_string()).join("heads.safetensors"))
                        .unwrap();
                let own = teacher.heads().unwrap();
                let modules: &[&str] = if separate { &["dino_head", "ibot_head"] } else { &["dino_head"] };
                for module in modules {
                    let heads = heads_in(&own, module).unwrap();
                    assert_eq!(heads.len(), if *module == "dino_head" { 2 } else { 1 });
                    for (number, sizes) in heads.iter().map(|head| &head.sizes).enumerate() {
                        let logits = |file: &TensorFile| -> Vec<f32> {
                            let head = head_of(file, module, Some(number)).unwrap();
                            Prototypes::open(file, head, &device)
                                .unwrap()
                                .logits(&cls)
                                .unwrap()
                                .to_vec()
                                .unwrap()
                        };
                        let (elastic, extracted) = (logits(&own), logits(&kept));
                        let plain = plain_logits(
                            &kept,
                            &format!("{module}.{number}"),
                            &cls.to_vec::<f32>().unwrap(),
                            width,
                        );
                        let apart = |other: &mut dyn Iterator<Item = f64>| {
                            elastic
                                .iter()
                                .zip(other)
                                .map(|(a, b)| (f64::from(*a) - b).abs())
                                .fold(0.0, f64::max)
                        };
                        assert_eq!(elastic.len(), 3 * sizes.prototypes);
                        assert!(elastic.iter().any(|v| v.abs() > 0.05), "{on}: {elastic:?}");
                        let most = apart(&mut extracted.iter().map(|v| f64::from(*v)))
                            .max(apart(&mut plain.iter().copied()));
                        assert!(most < 1e-5, "{on}, head {number}: {most:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn assignments_are_in_the_file_of_features_and_an_extraction_gives_them_too() {
    let folder = Folder::new("assignments");
    let run = pretrained(&folder, "demo", false);
    let net = folder.path("net");
    printed(&["extract", "--checkpoint", &run, "--network=smallest", "--heads", "--out", &net]);
    let photos = folder.path("photos");
    std::fs::create_dir_all(&photos).unwrap();
    for i in 0..5u8 {
        let of = |x: u32, y: u32| Rgb([(x * 9) as u8 ^ (i * 31), (y * 7) as u8, 50 * i]);
        RgbImage::from_fn(40, 40, of).save(Path::new(&photos).join(format!("{i}.png"))).unwrap();
    }
    std::fs::write(Path::new(&photos).join("3.png"), b"no image").unwrap();
    let data = format!("folder:{photos}");
    let written = |checkpoint: &str, more: &[&str]| {
        let out = folder.path("f.safetensors");
        let all = [
            "features",
            "--checkpoint",
            checkpoint,
            "--network=smallest",
            "--device=cpu",
            "--data",
            &data,
            "--out",
            &out,
        ];
        printed(&[&all, more].concat());
        TensorFile::open(&out).unwrap()
    };
    let all = written(&run, &["--all-logits"]);
    assert_eq!(all.shape("prototype_logits").unwrap(), [5, 24], "of the larger head");
    let logits = all.read_f32("prototype_logits").unwrap();
    let few = written(&run, &["--logits=3"]);
    let (numbers, largest) = (few.read_i64("prototypes").unwrap(), few.read_f32("prototype_logits").unwrap());
    for (image, row) in logits.chunks(24).enumerate() {
        let got = &numbers[image * 3..][..3];
        if image == 3 {
            assert_eq!((got, &largest[9..12]), (&[-1; 3][..], &[0.0; 3][..]), "cannot be read");
            continue;
        }
        let mut order: Vec<usize> = (0..24).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        assert_eq!(got.iter().map(|n| *n as usize).collect::<Vec<_>>(), order[..3]);
        assert_eq!(largest[image * 3..][..3], [row[order[0]], row[order[1]], row[order[2]]]);
    }
    assert_eq!(written(&run, &["--all-logits", "--head=0"]).shape("prototype_logits").unwrap(), [5, 16]);
    let extracted = written(&net, &["--all-logits"]).read_f32("prototype_logits").unwrap();
    let apart = extracted.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-5, "{apart}");
    let out = folder.path("g.safetensors");
    let features = ["features", "--device=cpu", "--data", &data, "--out", &out, "--checkpoint"];
    refused(&[&features[..], &[&run, "--logits=25"]].concat(), 2, &["--logits 25", "1 to 24"]);
    refused(&[&features[..], &[&run, "--all-logits", "--head=2"]].concat(), 2, &["--head 2", "16, 24"]);
    let bare = folder.path("bare");
    printed(&["extract", "--checkpoint", &run, "--network=smallest", "--out", &bare]);
    refused(&[&features[..], &[&bare, "--all-logits"]].concat(), 1, &["--heads"]);
}

#[test]
fn matches_and_prototypes_are_drawn_for_all_families() {
    let folder = Folder::new("pictures");
    let photos: Vec<String> = (0..4).map(|i| folder.path(&format!("{i}.png"))).collect();
    let source = open("shapes:20x64", &Reading::default()).unwrap();
    for (i, path) in photos.iter().enumerate() {
        let image = source.load(i * 4).unwrap();
        RgbImage::from_raw(image.width(), image.height(), image.values().to_vec())
            .unwrap()
            .save(path)
            .unwrap();
    }
    let photos: Vec<&str> = photos.iter().map(String::as_str).collect();
    for recipe in ["demo", "demo_swin", "demo_resnet"] {
        let run = pretrained(&folder, recipe, false);
        let out = folder.path(&format!("{recipe}-pictures"));
        let draw = |more: &[&str]| {
            printed(&[&["visualize", "--checkpoint", &run, "--device=cpu", "--out", &out][..], more].concat())
        };
        let told = draw(&[&["--kind=correspondence"], &photos[..]].concat());
        assert_eq!(told.lines().filter(|line| line.ends_with(".correspondence.png")).count(), 2, "{told}");
        let told = draw(&[&["--kind", "correspondence", "--views", "--lines=5"], &photos[..3]].concat());
        let views = json(&format!("{out}/views.json"));
        assert!(told.contains("matched rightly") && views["shared"].as_u64().unwrap() > 0, "{told}");
        assert_eq!(views["images"].as_array().unwrap().len(), 3);
        for more in [&[][..], &["--patch-tokens"]] {
            let asked = ["--kind=prototypes", "--data=shapes:60", "--prototypes=3", "--tiles=9"];
            let told = draw(&[&asked[..], more].concat());
            let found = json(&format!("{out}/prototypes.json"));
            let drawn = found["prototypes"].as_array().unwrap();
            assert!(told.contains("chosen by") && !drawn.is_empty() && drawn.len() <= 3, "{told}");
            let counts: Vec<u64> = drawn.iter().map(|p| p["chosen_by"].as_u64().unwrap()).collect();
            assert!(counts.is_sorted_by(|a, b| a >= b) && counts.iter().sum::<u64>() <= 60, "{counts:?}");
            for p in drawn {
                let logits: Vec<f64> =
                    p["tiles"].as_array().unwrap().iter().map(|t| t["logit"].as_f64().unwrap()).collect();
                assert!(!logits.is_empty() && logits.len() <= 9 && logits.is_sorted_by(|a, b| a >= b), "{p}");
                assert!(Path::new(&out).join(p["picture"].as_str().unwrap()).is_file());
            }
        }
    }
    let run = folder.path("demo-false");
    let wrong = |more: &[&str], texts: &[&str]| {
        refused(&[&["visualize", "--checkpoint", &run, "--device=cpu"], more].concat(), 2, texts);
    };
    wrong(&["--kind=correspondance", photos[0]], &["`correspondance`", "correspondence"]);
    wrong(&["--kind=correspondence", photos[0]], &["even number", "--views"]);
    wrong(&["--kind=prototypes", photos[0]], &["--data"]);
    wrong(&["--kind=prototypes", "--data=shapes:20", "--tiles=0"], &["--tiles"]);
    wrong(&["--data=shapes:20"], &["need images"]);
}

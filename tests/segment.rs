//! Segmentation: heads and metrics beside recorded numbers of PyTorch and torchmetrics (`benches/peers/pytorch/segmentation.py`),
//! and the command as a user starts it, from files to a number.

#[path = "support/program.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use image::{GrayImage, Luma, Rgb, RgbImage};
use poa_gpu::autograd::{Tape, Var};
use poa_gpu::eval::segmentation::Confusion;
use poa_gpu::files::checkpoint::{checkpoints_in, find};
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::models::maps::{FeatureMap, MapPlace};
use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use poa_gpu::ops;
use poa_gpu::ops::conv::MapShape;
use poa_gpu::ops::label_cross_entropy::IGNORED;
use poa_gpu::tasks::segment::heads::{HeadKind, HeadSizes, Mode, Running, open};
use poa_gpu::tasks::segment::pixel_loss;
use poa_gpu::tensor::{Device, Tensor};
use support::{Folder, SMALL, program, refused, text};

const SIDE: usize = 24;
const SIZES: HeadSizes = HeadSizes { classes: 5, channels: 6, auxiliary_channels: 7, norm: true };

fn devices() -> [Device; 2] {
    [Device::cpu(), ops::open(&DeviceChoice::Gpu).unwrap()]
}

/// Largest difference by the largest of the wanted values, or by one.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let most = b.iter().fold(1.0f64, |most, v| most.max(f64::from(v.abs())));
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max) / most
}

/// `[n, channels, height, width]` as rows of pixels.
fn as_rows(values: &[f32], shape: &[usize]) -> Vec<f32> {
    let [n, channels, height, width] = shape.try_into().unwrap();
    let place = |i: usize, p: usize, c: usize| (i * channels + c) * height * width + p;
    (0..n)
        .flat_map(|i| (0..height * width).flat_map(move |p| (0..channels).map(move |c| place(i, p, c))))
        .map(|at| values[at])
        .collect()
}

/// A recorded parameter as the head has it: transposed convolutions are `[in, out, 2, 2]` there and `[4, out, in]` here.
fn as_own(name: &str, values: Vec<f32>, shape: &[usize]) -> Vec<f32> {
    match shape {
        [input, out, 2, 2] if name.starts_with("neck.") => {
            let place = |tap: usize, o: usize, i: usize| (i * out + o) * 4 + tap;
            let all = (0..4)
                .flat_map(|tap| (0..*out).flat_map(move |o| (0..*input).map(move |i| place(tap, o, i))));
            all.map(|at| values[at]).collect()
        }
        _ => values,
    }
}

#[test]
fn heads_have_the_numbers_of_pytorch() {
    for (record, kind, strides) in [
        ("upernet_flat", HeadKind::Upernet, [16; 4]),
        ("upernet_pyramid", HeadKind::Upernet, [4, 8, 16, 32]),
        ("linear_flat", HeadKind::Linear, [16; 4]),
        ("linear_pyramid", HeadKind::Linear, [4, 8, 16, 32]),
    ] {
        let file =
            TensorFile::open(format!("kernels-tests/fixtures/segmentation/{record}.safetensors")).unwrap();
        let read = |name: &str| file.read_f32(name).unwrap();
        for device in devices() {
            let what = format!("{record} on {}", device.kind());
            let tape = Tape::new();
            let (mut maps, mut places) = (Vec::new(), Vec::new());
            for (i, stride) in strides.into_iter().enumerate() {
                let name = format!("map.{i}");
                let shape = file.shape(&name).unwrap().to_vec();
                let rows = as_rows(&read(&name), &shape);
                let rows = Tensor::from_slice(&device, &[rows.len() / shape[1], shape[1]], &rows).unwrap();
                let at = MapShape { images: shape[0], height: shape[2], width: shape[3] };
                maps.push(FeatureMap { rows: tape.leaf(rows), shape: at });
                places.push(MapPlace { width: shape[1], stride });
            }
            let head = open(kind, SIZES, &places).unwrap();
            let layout = FlatLayout::new(&head.specs(), usize::MAX).unwrap();
            let values = FlatBuffers::zeros(&layout, &device).unwrap();
            for spec in head.specs() {
                let name = format!("parameter.{}", spec.name);
                values
                    .write(&spec.name, &as_own(&spec.name, read(&name), file.shape(&name).unwrap()))
                    .unwrap();
            }
            let parameters = Parameters::trained(values).unwrap();
            let running = Running::new(&device, &head.norms()).unwrap();
            let logits = head.forward(&tape, &parameters, &running, &maps, &Mode::Training(&[])).unwrap();
            let (main, shape) = &logits.main;
            let own = main.value().to_vec::<f32>().unwrap();
            let wanted = as_rows(&read("main"), file.shape("main").unwrap());
            assert!(distance(&own, &wanted) < 1e-5, "{what}: logits {}", distance(&own, &wanted));
            let labels: Vec<u32> =
                read("labels").iter().map(|v| if *v == 255.0 { IGNORED } else { *v as u32 }).collect();
            let labels = Tensor::from_slice(&device, &[labels.len()], &labels).unwrap();
            let (loss, gradient) = pixel_loss(main.value(), *shape, &labels, SIDE, 1.0).unwrap();
            let mut total = loss.item().unwrap();
            assert!(distance(&[total], &read("loss_head")) < 1e-5, "{what}: {total}");
            let mut seeds: Vec<(&Var, Tensor)> = vec![(main, gradient)];
            assert_eq!(logits.auxiliary.is_some(), kind == HeadKind::Upernet);
            if let Some((auxiliary, shape)) = &logits.auxiliary {
                let (more, gradient) = pixel_loss(auxiliary.value(), *shape, &labels, SIDE, 0.4).unwrap();
                total += 0.4 * more.item().unwrap();
                seeds.push((auxiliary, gradient));
            }
            assert!(distance(&[total], &read("loss")) < 1e-5, "{what}: {total}");
            let gradients = tape.backward(seeds).unwrap();
            for (i, map) in maps.iter().enumerate() {
                let name = format!("map_gradient.{i}");
                let wanted = as_rows(&read(&name), file.shape(&name).unwrap());
                let own = gradients.get(&map.rows).unwrap().to_vec::<f32>().unwrap();
                assert!(distance(&own, &wanted) < 1e-5, "{what}: map {i}, {}", distance(&own, &wanted));
            }
            for spec in head.specs() {
                let name = format!("gradient.{}", spec.name);
                let wanted = as_own(&spec.name, read(&name), file.shape(&name).unwrap());
                let own = parameters.gradients().unwrap().read(&spec.name).unwrap();
                assert!(distance(&own, &wanted) < 1e-5, "{what}: {name}, {}", distance(&own, &wanted));
            }
            for (name, statistics) in running.all() {
                let own = statistics.to_vec::<f32>().unwrap();
                for (column, part) in ["running_mean", "running_var"].into_iter().enumerate() {
                    let own: Vec<f32> = own.iter().skip(column).step_by(2).copied().collect();
                    let wanted = read(&format!("running.{name}.{part}"));
                    assert!(distance(&own, &wanted) < 1e-5, "{what}: {name}.{part}");
                }
            }
            let plain: Vec<FeatureMap> = maps
                .iter()
                .map(|map| FeatureMap { rows: Var::constant(map.rows.value().clone()), shape: map.shape })
                .collect();
            let judged =
                head.forward(&Tape::no_grad(), &parameters, &running, &plain, &Mode::Judging).unwrap();
            let own = judged.main.0.value().to_vec::<f32>().unwrap();
            let wanted = as_rows(&read("judged"), file.shape("judged").unwrap());
            assert!(distance(&own, &wanted) < 1e-5, "{what}: judged {}", distance(&own, &wanted));
        }
    }
}

/// By torchmetrics 1.x on the same labels; a class that is nowhere has no number here and is 0 there.
#[test]
fn metrics_are_those_of_torchmetrics() {
    const IOU: [f64; 7] = [
        0.328_048_765_659_332_3,
        0.327_250_599_861_145,
        0.317_955_106_496_810_9,
        0.330_498_188_734_054_57,
        0.240_030_676_126_480_1,
        0.0,
        0.331_257_790_327_072_14,
    ];
    const ACCURACY: [f64; 7] = [
        0.507_547_140_121_46,
        0.491_773_307_323_455_8,
        0.482_954_531_908_035_3,
        0.498_168_498_277_664_2,
        0.575_367_629_528_045_7,
        0.0,
        0.489_871_084_690_094,
    ];
    let truth: Vec<u8> =
        (0..4096u64).map(|i| if i % 13 == 0 { 255 } else { ((i * 7919) % 1013 % 7) as u8 }).collect();
    let predicted: Vec<u32> = (0..4096u64)
        .map(|i| {
            let right = (i * 7919) % 1013 % 7;
            let said = if (i * 104_729) % 977 < 400 { right } else { (i * 31) % 509 % 7 };
            if said == 5 { 4 } else { said as u32 }
        })
        .collect();
    let mut found = Confusion::new(8);
    found.count(&truth[..1000], &predicted[..1000]);
    let mut rest = Confusion::new(8);
    rest.count(&truth[1000..], &predicted[1000..]);
    found.add(rest.counts());
    for (own, wanted) in [(found.iou(), IOU), (found.accuracy(), ACCURACY)] {
        assert_eq!(own[7], None, "a class that is nowhere");
        for (own, wanted) in own.iter().zip(wanted) {
            assert!((own.unwrap() - wanted).abs() < 1e-6, "{own:?} {wanted}");
        }
    }
    let mean = |values: [f64; 7]| values.iter().sum::<f64>() / 7.0;
    assert!((found.mean_iou().unwrap() - mean(IOU)).abs() < 1e-6);
    assert!((found.mean_accuracy().unwrap() - mean(ACCURACY)).abs() < 1e-6);
    assert!((found.pixel_accuracy().unwrap() - 0.434_920_634_920_634_9).abs() < 1e-12);
}

/// A checkpoint of a family after two steps of pre-training.
fn pretrained(folder: &Folder, recipe: &str) -> String {
    let out = folder.path(recipe);
    let mut args = vec!["-q", "train", "--config", recipe, "--device=cpu", "--steps=2", "--out", &out];
    args.extend(["train.batch_size_per_gpu=4", "data.spec=shapes:40", "evaluation.train_images=20"]);
    args.extend(["evaluation.val_images=10", "dino.head_n_prototypes=[16, 24]", "dino.head_hidden_dim=32"]);
    if recipe == "demo" {
        args.extend(SMALL);
    }
    let done = program(&args);
    assert!(done.status.success(), "{recipe}: {}", text(&done.stderr));
    out
}

/// Photographs of 40×36 pixels whose left part is water and whose right part is a field, between them a border that is not looked
/// at; as folders of images and masks.
fn photos(folder: &Folder, name: &str, count: u32) -> [String; 2] {
    let [images, masks] = ["images", "masks"].map(|part| folder.path(&format!("{name}/{part}")));
    for dir in [&images, &masks] {
        std::fs::create_dir_all(Path::new(dir).join("a")).unwrap();
    }
    for i in 0..count {
        let shore = 10 + i * 7 % 20;
        let class = |x: u32| if x == shore { 255 } else { u8::from(x > shore) };
        let colour = |x: u32, y: u32| {
            let noise = ((x * 31 + y * 17 + i * 7) % 23) as u8;
            if x <= shore { Rgb([20 + noise, 60, 200]) } else { Rgb([60, 180 - noise, 30]) }
        };
        RgbImage::from_fn(40, 36, colour).save(Path::new(&images).join(format!("a/{i:02}.png"))).unwrap();
        GrayImage::from_fn(40, 36, |x, _| Luma([class(x)]))
            .save(Path::new(&masks).join(format!("a/{i:02}.png")))
            .unwrap();
    }
    [images, masks]
}

/// The demo's preset for images of 36 pixels.
const SHORT: [&str; 6] = [
    "train.batch_size_per_gpu=4",
    "train.log_every=1",
    "segment.lr=0.02",
    "segment.crop_size=32",
    "segment.stride=32",
    "segment.short_side=36",
];

fn segment(init: &str, out: &str, more: &[&str]) -> String {
    let done = program(&[&["segment", "--init", init, "--out", out][..], &SHORT, more].concat());
    assert!(done.status.success(), "{more:?}: {}", text(&done.stderr));
    text(&done.stdout) + &text(&done.stderr)
}

/// The lines of a run's metrics without what depends on the clock, and the tensors of its newest checkpoint.
fn result(out: &str) -> (Vec<serde_json::Value>, Vec<Vec<u8>>) {
    let metrics = std::fs::read_to_string(Path::new(out).join("metrics.jsonl")).unwrap();
    let lines = metrics.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("time");
        line
    });
    let checkpoint = find(out.as_ref()).unwrap();
    let files = ["student.safetensors", "optimizer.safetensors"];
    (lines.collect(), files.map(|f| std::fs::read(checkpoint.dir().join(f)).unwrap()).to_vec())
}

fn losses(out: &str) -> Vec<f64> {
    result(out).0.iter().filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn from_files_to_a_number_and_a_model() {
    let folder = Folder::new("segment-files");
    let init = pretrained(&folder, "demo");
    let ([images, masks], [val, val_masks]) = (photos(&folder, "train", 12), photos(&folder, "val", 4));
    std::fs::write(Path::new(&images).join("a/no-mask.png"), b"").unwrap();
    let classes = folder.path("classes.txt");
    std::fs::write(&classes, "# what there is\nwater\nfield\n").unwrap();
    let out = folder.path("run");
    let [train, val] = [format!("pairs:{images}::{masks}"), format!("pairs:{val}::{val_masks}")];
    let of_classes = format!("data.classes={classes}");
    let more =
        ["--train", &train, "--val", &val, &of_classes, "--network=smallest", "--device=cpu", "--steps=60"];
    let told = segment(&init, &out, &more);
    assert!(told.contains("1 images of") && told.contains("have no mask"), "{told}");
    let last = result(&out).0.iter().rev().find_map(|line| line["eval.miou"].as_f64()).unwrap();
    assert!(last > 0.7, "water and field after 60 steps: {last}");
    let table = std::fs::read_to_string(Path::new(&out).join("classes.csv")).unwrap();
    assert!(table.starts_with("class,pixels,iou,accuracy\n\"water\","), "{table}");
    // 4 images of 36 lines, of which a column is not looked at
    let pixels: u32 =
        table.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().parse::<u32>().unwrap()).sum();
    assert_eq!(pixels, 4 * 36 * 39, "{table}");
    let picture = image::open(Path::new(&out).join("predictions/0000.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (3 * 40 + 4, 36));
    let best = Path::new(&out).join("best");
    let tensors = TensorFile::open(best.join("model.safetensors")).unwrap();
    assert_eq!(tensors.shape("blocks.0.attn.qkv.weight").unwrap(), [48, 16]);
    let head = TensorFile::open(best.join("head.safetensors")).unwrap();
    assert_eq!(head.shape("decode_head.conv_seg.weight").unwrap(), [2, 16, 1, 1]);
    assert_eq!(head.shape("decode_head.norms.0.running_var").unwrap(), [16]);
    // what others say of its folder
    let net = folder.path("net");
    refused(&["extract", "--checkpoint", &out, "--out", &net], 1, &["poa-gpu segment", "best/"]);
    refused(&["finetune", "--out", &out, "--resume"], 1, &["not of a run of `poa-gpu finetune`"]);
}

#[test]
fn masks_may_be_pictures_and_palettes() {
    let folder = Folder::new("segment-palette");
    let init = pretrained(&folder, "demo");
    let [images, masks] = photos(&folder, "train", 8);
    let pictures = folder.path("pictures");
    std::fs::create_dir_all(Path::new(&pictures).join("a")).unwrap();
    for i in 0..8 {
        let name = format!("a/{i:02}.png");
        let mask = image::open(Path::new(&masks).join(&name)).unwrap().into_luma8();
        let colour = |x: u32, y: u32| match mask.get_pixel(x, y).0[0] {
            0 => Rgb([0, 0, 128]),
            1 => Rgb([0, 128, 0]),
            _ => Rgb([255, 255, 255]),
        };
        RgbImage::from_fn(40, 36, colour).save(Path::new(&pictures).join(&name)).unwrap();
    }
    let classes = folder.path("classes.txt");
    std::fs::write(&classes, "#000080 water\n0 128 0 field\n").unwrap();
    let of_pictures = format!("pairs:{images}::{pictures}");
    let of_indices = format!("pairs:{images}::{masks}");
    let (named, numbered) = (format!("data.classes={classes}"), "data.classes=2");
    let common = ["--device=cpu", "--steps=3", "data.held_out=0.25"];
    let [a, b] = ["a", "b"].map(|name| folder.path(name));
    segment(&init, &a, &[&common[..], &["--train", &of_pictures, &named]].concat());
    segment(&init, &b, &[&common[..], &["--train", &of_indices, numbered]].concat());
    assert_eq!(losses(&a), losses(&b), "the same classes");
    assert_eq!(losses(&a).len(), 3);
    // what does not go together
    let out = folder.path("out");
    let given = |more: &[&str], status: i32, texts: &[&str]| {
        refused(
            &[&["segment", "--init", &init, "--out", &out, "--device=cpu", "data.held_out=0.25"][..], more]
                .concat(),
            status,
            texts,
        );
        assert!(!Path::new(&out).exists(), "{more:?} leaves no folder");
    };
    given(&["--train", &of_pictures, numbered], 1, &["colours", "data.classes"]);
    given(&["--train", &of_indices, &named], 1, &["indices", "data.classes"]);
    given(&["--train", &of_indices], 2, &["data.classes", "number of classes"]);
    given(&["--train", &of_indices, "data.classes=1"], 1, &["one class"]);
    given(&["--train", &of_indices, "data.classes=3", "data.from_one=true"], 1, &["one class alone"]);
    std::fs::write(&classes, "#000080 water\nfield\n").unwrap();
    given(&["--train", &of_pictures, &named], 1, &["line 2", "no colour"]);
    std::fs::write(&classes, "#000080 water\n0 129 0 field\n").unwrap();
    given(&["--train", &of_pictures, &named], 1, &["0 128 0", "no class"]);
}

#[test]
fn masks_that_do_not_fit_are_told_before_the_work() {
    let folder = Folder::new("segment-refused");
    let init = pretrained(&folder, "demo");
    let [images, masks] = photos(&folder, "train", 8);
    let spec = format!("pairs:{images}::{masks}");
    let out = folder.path("out");
    let given = |more: &[&str], status: i32, texts: &[&str]| {
        let common = ["--device=cpu", "data.classes=2", "data.held_out=0.25"];
        let all = [&["segment", "--init", &init, "--out", &out][..], &common, more].concat();
        refused(&all, status, texts);
        assert!(!Path::new(&out).exists(), "{more:?} leaves no folder");
    };
    given(&["--train", &spec, "data.ignore_index=254"], 1, &["index 255", "2 classes"]);
    given(&["--train", "pairs:nowhere::masks"], 1, &["nowhere", "no such folder"]);
    given(&["--train", &format!("pairs:{images}")], 2, &["pairs:IMAGES::MASKS"]);
    given(&["--train", &format!("ade20k:{images}"), "data.classes="], 1, &["no such folder"]);
    given(&["--train", "adk20k:x"], 2, &["ade20k"]);
    given(&["--train", &spec, "segment.crop_size=30"], 2, &["segment.crop_size", "32"]);
    given(&["--train", &spec, "segment.places=[1, 0]"], 2, &["segment.places"]);
    given(&["--train", &spec, "segment.places=[0]", "segment.head=upernet"], 2, &["segment.places", "four"]);
    given(&["--train", &spec, "--network=17x3"], 2, &["17x3"]);
    given(&["--train", &spec, "--config=lineer"], 2, &["lineer", "linear"]);
    let mask = Path::new(&masks).join("a/03.png");
    GrayImage::new(41, 36).save(&mask).unwrap();
    given(&["--train", &spec, "data.max_bad_fraction=0.1"], 1, &["a/03.png", "41x36", "40x36"]);
    std::fs::rename(&mask, mask.with_extension("jpg")).unwrap();
    RgbImage::new(40, 36).save(mask.with_extension("jpg")).unwrap();
    given(&["--train", &spec], 1, &["a/03", "JPEG", "PNG"]);
    // one among many is left out, and told
    let told = segment(
        &init,
        &out,
        &[
            "--train",
            &spec,
            "data.classes=2",
            "data.held_out=0.25",
            "data.max_bad_fraction=0.5",
            "--steps=8",
            "--device=cpu",
        ],
    );
    assert!(
        told.contains("unusable images left out") || told.contains("to be judged by cannot be used"),
        "{told}"
    );
    std::fs::remove_dir_all(&out).unwrap();
    let empty = folder.path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    given(&["--train", &format!("pairs:{images}::{empty}")], 1, &["empty", "no masks"]);
}

#[test]
fn every_family_learns_on_both_devices_alike() {
    let folder = Folder::new("segment-families");
    for recipe in ["demo", "demo_swin", "demo_resnet"] {
        let init = pretrained(&folder, recipe);
        for (kind, more) in [
            ("linear", vec!["segment.freeze=true"]),
            ("upernet", vec!["segment.head=upernet", "segment.freeze=false", "segment.dropout=0.1"]),
        ] {
            let small = ["segment.channels=8", "segment.auxiliary_channels=8", "segment.crop_size=64"];
            let [on_cpu, on_gpu] = ["cpu", "llvmpipe"].map(|device| {
                let out = folder.path(&format!("{recipe}-{kind}-{device}"));
                // UPerNet takes four maps
                let network = if recipe == "demo" { "segment.places=[]" } else { "--network=smallest" };
                let all = [
                    network,
                    "--device",
                    device,
                    "--steps=2",
                    "data.spec=shapes:16x64",
                    "segment.short_side=64",
                ];
                let long = ["segment.long_side=128", "segment.stride=64"];
                let places = match (recipe, kind) {
                    ("demo", "upernet") => return None,
                    _ => [&all[..], &long, &small, &more].concat(),
                };
                segment(&init, &out, &places);
                assert!(Path::new(&out).join("best/model.safetensors").is_file(), "{recipe}");
                assert!(Path::new(&out).join("best/head.safetensors").is_file(), "{recipe}");
                Some(losses(&out))
            });
            let (Some(on_cpu), Some(on_gpu)) = (on_cpu, on_gpu) else { continue };
            assert_eq!(on_cpu.len(), 2, "{recipe}");
            for (a, b) in on_cpu.iter().zip(&on_gpu) {
                assert!((a - b).abs() < 5e-4 * a.abs(), "{recipe} {kind}: {on_cpu:?} and {on_gpu:?}");
            }
        }
    }
}

/// UPerNet on four blocks of a ViT, which learns with it, and windows that overlap.
#[test]
fn a_vit_of_four_blocks_is_tuned_under_upernet() {
    let folder = Folder::new("segment-vit");
    let common = [
        "--random",
        "student.patch_size=4",
        "student.min_embed_dim=16",
        "student.max_embed_dim=16",
        "student.head_dim=8",
        "student.min_depth=4",
        "student.max_depth=4",
        "segment.image_size=32",
        "segment.head=upernet",
        "segment.channels=8",
        "segment.auxiliary_channels=8",
        "segment.freeze=false",
        "segment.drop_path=0.2",
        "segment.dropout=0.1",
        "segment.crop_size=32",
        "segment.stride=20",
        "data.spec=shapes:16x48",
        "segment.short_side=48",
        "train.batch_size_per_gpu=4",
        "train.log_every=1",
        "--steps=4",
    ];
    let [cpu, gpu] = ["cpu", "llvmpipe"].map(|device| {
        let out = folder.path(device);
        let done = program(&[&["segment", "--out", &out, "--device", device][..], &common].concat());
        assert!(done.status.success(), "{}", text(&done.stderr));
        let first = |name: &str| result(&out).0.iter().find_map(|line| line[name].as_f64()).unwrap();
        (losses(&out), first("eval.miou"))
    });
    for (a, b) in cpu.0.iter().zip(&gpu.0) {
        assert!((a - b).abs() < 2e-3 * a.abs(), "{cpu:?} and {gpu:?}");
    }
    assert!((cpu.1 - gpu.1).abs() < 5e-3, "{cpu:?} and {gpu:?}");
}

#[test]
fn a_run_that_was_killed_has_the_bits_of_one_that_was_not() {
    let folder = Folder::new("segment-resume");
    let init = pretrained(&folder, "demo");
    let more = [
        "--device=cpu",
        "data.spec=shapes:16",
        "--steps=12",
        "segment.freeze=false",
        "segment.dropout=0.2",
        "segment.drop_path=0.2",
        "train.keep_checkpoints=0",
    ];
    let [whole, cut] = ["whole", "cut"].map(|name| folder.path(name));
    segment(&init, &whole, &more);
    segment(&init, &cut, &more);
    assert_eq!(result(&whole), result(&cut), "repeated");
    let steps = checkpoints_in(Path::new(&cut).join("checkpoints")).unwrap();
    assert!(steps.len() >= 3, "{steps:?}");
    for (_, dir) in &steps[1..] {
        std::fs::remove_dir_all(dir).unwrap();
    }
    let done = program(&["segment", "--out", &cut, "--resume", "--device=cpu"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("resumed after"), "{}", text(&done.stderr));
    assert_eq!(result(&whole), result(&cut), "resumed");
}

/// SIGKILL, and not an end in order.
#[test]
#[cfg(unix)]
fn a_kill_loses_no_more_than_what_came_after_the_last_checkpoint() {
    let folder = Folder::new("segment-kill");
    let init = pretrained(&folder, "demo");
    let out = folder.path("killed");
    let more = ["--device=cpu", "data.spec=shapes:16", "--steps=4000"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_poa-gpu"))
        .args([&["-q", "segment", "--init", &init, "--out", &out][..], &SHORT, &more].concat())
        .spawn()
        .unwrap();
    let begun = std::time::Instant::now();
    let saved = || checkpoints_in(Path::new(&out).join("checkpoints")).map_or(0, |all| all.len());
    while saved() == 0 && begun.elapsed().as_secs() < 60 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(saved() > 0, "no checkpoint within a minute");
    let done = program(&["segment", "--out", &out, "--resume", "--device=cpu", "--steps=4010"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("resumed after"), "{}", text(&done.stderr));
}

#[test]
fn ranks_learn_together_and_repeat() {
    let folder = Folder::new("segment-ranks");
    let init = pretrained(&folder, "demo");
    let more = ["--devices=cpu:2", "data.spec=shapes:16", "--steps=6"];
    let [a, b] = ["a", "b"].map(|name| folder.path(name));
    segment(&init, &a, &more);
    segment(&init, &b, &more);
    assert_eq!(result(&a), result(&b));
    assert!(Path::new(&a).join("best/head.safetensors").is_file());
}

#[test]
fn a_frozen_network_keeps_its_bits() {
    let folder = Folder::new("segment-freeze");
    let init = pretrained(&folder, "demo");
    let tensors = |steps: &str| {
        let out = folder.path(steps);
        segment(&init, &out, &["--device=cpu", "data.spec=shapes:16", "segment.weight_decay=1", steps]);
        TensorFile::open(find(out.as_ref()).unwrap().dir().join("student.safetensors")).unwrap()
    };
    let (early, late) = (tensors("--steps=2"), tensors("--steps=5"));
    for name in early.names() {
        let same = early.read_f32(name).unwrap() == late.read_f32(name).unwrap();
        assert_eq!(same, name.starts_with("backbone."), "{name}");
    }
}

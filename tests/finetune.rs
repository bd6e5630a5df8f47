//! Fine-tuning as a user starts it: from files to a network for timm, whatever the family and the device; it resumes to the
//! bit, goes over ranks, and says what is wrong before the long work starts.

#[path = "support/program.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use image::{Rgb, RgbImage};
use poa_gpu::files::checkpoint::{checkpoints_in, find};
use poa_gpu::files::tensor_file::TensorFile;
use poa_gpu::models::encoder::Encoder;
use poa_gpu::models::plain::Format;
use poa_gpu::nn::parameters::{FlatBuffers, FlatLayout, Parameters};
use poa_gpu::recipes::teacher::Teacher;
use poa_gpu::tensor::{Device, Tensor};
use poa_gpu::weights::extract::Extraction;
use poa_gpu::weights::import::Import;
use support::{Folder, SMALL, program, refused, result, text};

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

/// Two classes that colours tell apart, in folders; one image of the second part is no image.
fn photos(folder: &Folder) -> [String; 2] {
    let [train, val] = ["train", "val"].map(|name| folder.path(name));
    for (part, count) in [(&train, 12), (&val, 6)] {
        for (class, colour) in [("cold", [20, 60, 220]), ("warm", [230, 90, 20])] {
            let dir = Path::new(part).join(class);
            std::fs::create_dir_all(&dir).unwrap();
            for i in 0..count {
                let shade = |v: u8| v.saturating_add((i * 7) as u8);
                let of = |x: u32, y: u32| {
                    let [r, g, b] = colour.map(shade);
                    Rgb([r, g.wrapping_add((x * 3) as u8 % 16), b.wrapping_add((y * 5) as u8 % 16)])
                };
                RgbImage::from_fn(40, 36, of).save(dir.join(format!("{i}.png"))).unwrap();
            }
        }
    }
    [train, val]
}

const SHORT: [&str; 6] = [
    "train.batch_size_per_gpu=8",
    "train.log_every=1",
    "finetune.lr=0.02",
    "finetune.layer_decay=0.9",
    "finetune.drop_path=0.1",
    "augment.mixup_alpha=0.8",
];

fn tune(init: &str, out: &str, more: &[&str]) -> String {
    let done = program(&[&["finetune", "--init", init, "--out", out][..], &SHORT, more].concat());
    assert!(done.status.success(), "{more:?}: {}", text(&done.stderr));
    text(&done.stdout) + &text(&done.stderr)
}

fn losses(out: &str) -> Vec<f64> {
    result(out).0.iter().filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn from_files_to_a_network_for_timm() {
    let folder = Folder::new("finetune-files");
    let (init, [train, val]) = (pretrained(&folder, "demo"), photos(&folder));
    let broken = Path::new(&train).join("warm/broken.png");
    std::fs::write(&broken, b"no image").unwrap();
    let out = folder.path("tuned");
    let [train, val] = [train, val].map(|dir| format!("folder:{dir}"));
    let more = ["--train", &train, "--val", &val, "--network=smallest", "--device=cpu", "--steps=60"];
    let told = tune(&init, &out, &more);
    assert!(told.contains("25 images of 2 classes") && told.contains("unusable images"), "{told}");
    assert!(told.contains("starts from network 16x1"), "{told}");
    let (metrics, _) = result(&out);
    let last = metrics.iter().rev().find_map(|line| line["eval.top1"].as_f64()).unwrap();
    assert!(last >= 0.95, "colours are told apart after 60 steps: {last}");
    let table = std::fs::read_to_string(Path::new(&out).join("classes.csv")).unwrap();
    assert!(table.starts_with("class,images,accuracy\n\"cold\",6,"), "{table}");
    for picture in ["confusion.png", "confusion.svg"] {
        assert!(Path::new(&out).join(picture).is_file(), "{picture}");
    }
    let best = Path::new(&out).join("best");
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(best.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["num_classes"], 2);
    assert_eq!(config["label_names"], serde_json::json!(["cold", "warm"]));
    let tensors = TensorFile::open(best.join("model.safetensors")).unwrap();
    assert_eq!(tensors.shape("head.weight").unwrap(), [2, 16]);
    assert_eq!(tensors.shape("head.bias").unwrap(), [2]);
    assert_eq!(tensors.shape("blocks.0.attn.qkv.weight").unwrap(), [48, 16]);
}

/// What is fine-tuned is the sub-network that was pre-trained: α folded, blocks numbered anew.
#[test]
fn the_network_by_itself_has_the_features_of_the_elastic_one() {
    let folder = Folder::new("finetune-features");
    let device = Device::cpu();
    for recipe in ["demo", "demo_swin", "demo_resnet"] {
        let init = pretrained(&folder, recipe);
        let teacher = Teacher::open(init.as_ref(), &device).unwrap();
        let encoder = teacher.encoder();
        let side = teacher.config.crops.global_crops_size;
        let values: Vec<f32> =
            (0..2 * 3 * side * side).map(|i| ((i * 7919) % 1013) as f32 / 500.0 - 1.0).collect();
        let images = Tensor::from_slice(&device, &[2, 3, side, side], &values).unwrap();
        for network in [teacher.grid.smallest(), teacher.grid.at(1), teacher.grid.intact()] {
            let elastic = encoder.features(network, &images, false).unwrap().0.to_vec::<f32>().unwrap();
            let backbone = encoder.backbone.alone(network).unwrap();
            assert_eq!(backbone.grid().intact(), network);
            let layout = FlatLayout::new(&backbone.specs(), usize::MAX).unwrap();
            let values = FlatBuffers::zeros(&layout, &device).unwrap();
            let file = TensorFile::open(teacher.dir.join("teacher.safetensors")).unwrap();
            let extraction = Extraction::new(&file, encoder.backbone, network, Format::Poa).unwrap();
            let plain = folder.path("plain");
            extraction.write(plain.as_ref()).unwrap();
            let import = Import::open(&plain, &*backbone, &backbone.specs()).unwrap();
            import.fill(|name, of| values.write(name, of)).unwrap();
            let parameters = Parameters::frozen(values);
            let alone = Encoder { device: &device, backbone: &*backbone, parameters: &parameters };
            let own = alone.features(network, &images, false).unwrap().0.to_vec::<f32>().unwrap();
            let worst = own.iter().zip(&elastic).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(own.len() == elastic.len() && worst < 2e-5, "{recipe} {network}: {worst}");
        }
    }
}

#[test]
fn every_family_learns_on_both_devices_alike() {
    let folder = Folder::new("finetune-families");
    for recipe in ["demo", "demo_swin", "demo_resnet"] {
        let init = pretrained(&folder, recipe);
        let [on_cpu, on_gpu] = ["cpu", "llvmpipe"].map(|device| {
            let out = folder.path(&format!("{recipe}-{device}"));
            let more = ["--network=smallest", "--device", device, "--steps=3", "data.spec=shapes:40"];
            tune(&init, &out, &more);
            // in POA's format where timm has no such network
            assert!(Path::new(&out).join("best/model.safetensors").is_file(), "{recipe}");
            losses(&out)
        });
        assert_eq!(on_cpu.len(), 3, "{recipe}");
        for (a, b) in on_cpu.iter().zip(&on_gpu) {
            assert!((a - b).abs() < 2e-4 * a.abs(), "{recipe}: {on_cpu:?} and {on_gpu:?}");
        }
    }
}

#[test]
fn a_run_that_was_killed_has_the_bits_of_one_that_was_not() {
    let folder = Folder::new("finetune-resume");
    let init = pretrained(&folder, "demo");
    let more = ["--device=cpu", "data.spec=shapes:40", "finetune.epochs=3", "train.keep_checkpoints=0"];
    let [whole, cut] = ["whole", "cut"].map(|name| folder.path(name));
    tune(&init, &whole, &more);
    tune(&init, &cut, &more);
    assert_eq!(result(&whole), result(&cut), "repeated");
    let steps = checkpoints_in(Path::new(&cut).join("checkpoints")).unwrap();
    assert!(steps.len() >= 3, "{steps:?}");
    for (_, dir) in &steps[1..] {
        std::fs::remove_dir_all(dir).unwrap();
    }
    let done = program(&["finetune", "--out", &cut, "--resume", "--device=cpu"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("resumed after"), "{}", text(&done.stderr));
    assert_eq!(result(&whole), result(&cut), "resumed");
}

/// SIGKILL, and not an end in order.
#[test]
#[cfg(unix)]
fn a_kill_loses_no_more_than_what_came_after_the_last_checkpoint() {
    let folder = Folder::new("finetune-kill");
    let init = pretrained(&folder, "demo");
    let out = folder.path("killed");
    let more = ["--device=cpu", "data.spec=shapes:40", "finetune.epochs=200"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_poa-gpu"))
        .args([&["-q", "finetune", "--init", &init, "--out", &out][..], &SHORT, &more].concat())
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
    let done = program(&["finetune", "--out", &out, "--resume", "--device=cpu", "--steps=1000"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("resumed after"), "{}", text(&done.stderr));
}

#[test]
fn ranks_fine_tune_together_and_repeat() {
    let folder = Folder::new("finetune-ranks");
    let init = pretrained(&folder, "demo");
    let more = ["--devices=cpu:2", "data.spec=shapes:40", "--steps=6"];
    let [a, b] = ["a", "b"].map(|name| folder.path(name));
    tune(&init, &a, &more);
    tune(&init, &b, &more);
    assert_eq!(result(&a), result(&b));
    assert!(Path::new(&a).join("best/model.safetensors").is_file());
}

#[test]
fn a_share_of_every_class_or_a_list_is_learnt_from() {
    let folder = Folder::new("finetune-part");
    let (init, [train, val]) = (pretrained(&folder, "demo"), photos(&folder));
    let [train, val] = [train, val].map(|dir| format!("folder:{dir}"));
    let common = ["--train", &train, "--val", &val, "--device=cpu", "--steps=2"];
    let part = tune(&init, &folder.path("share"), &[&common[..], &["data.fraction=0.25"]].concat());
    assert!(part.contains("6 images of 2 classes"), "three of twelve, of each class: {part}");
    let list = folder.path("list.txt");
    std::fs::write(&list, "# two of each\ncold/3.png\ncold/5.png\nwarm/3.png\nwarm/11.png\n").unwrap();
    let subset = format!("data.subset={list}");
    let listed = tune(&init, &folder.path("listed"), &[&common[..], &[&subset]].concat());
    assert!(listed.contains("4 images of 2 classes"), "{listed}");
    std::fs::write(&list, "cold/3.png\ncold/300.png\n").unwrap();
    let out = folder.path("missing");
    let args = [&["finetune", "--init", &init, "--out", &out][..], &common, &[&subset]].concat();
    refused(&args, 1, &["list.txt", "cold/300.png"]);
    assert!(!Path::new(&out).exists(), "nothing is left of a run that did not begin");
}

#[test]
fn a_run_without_a_checkpoint_starts_again_from_what_it_started_from() {
    let folder = Folder::new("finetune-again");
    let init = pretrained(&folder, "demo");
    let more = ["--device=cpu", "data.spec=shapes:40", "finetune.epochs=2"];
    let [whole, lost] = ["whole", "lost"].map(|name| folder.path(name));
    tune(&init, &whole, &more);
    tune(&init, &lost, &more);
    std::fs::remove_dir_all(Path::new(&lost).join("checkpoints")).unwrap();
    let again = ["finetune", "--out", &lost, "--resume", "--device=cpu"];
    let done = program(&again);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("starts from network 32x3"), "{}", text(&done.stderr));
    assert_eq!(result(&whole).1, result(&lost).1);
    // and never from random weights in their place
    std::fs::remove_dir_all(Path::new(&lost).join("checkpoints")).unwrap();
    std::fs::rename(&init, folder.path("elsewhere")).unwrap();
    refused(&again, 1, &["demo", "no such file"]);
}

#[test]
fn a_worse_network_never_takes_the_place_of_the_best() {
    let folder = Folder::new("finetune-best");
    let (init, [train, val]) = (pretrained(&folder, "demo"), photos(&folder));
    let [of_train, of_val] = [&train, &val].map(|dir| format!("folder:{dir}"));
    let out = folder.path("tuned");
    tune(&init, &out, &["--train", &of_train, "--val", &of_val, "--device=cpu", "--steps=30"]);
    let best = || std::fs::read(Path::new(&out).join("best/model.safetensors")).unwrap();
    let before = best();
    let worse = ["finetune", "--out", &out, "--resume", "--device=cpu", "--steps=40", "finetune.lr=30"];
    let done = program(&worse);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(best() == before, "30 times the rate made it better: {}", text(&done.stderr));
    // other classes of the same number are no classes of this run
    for part in [&train, &val] {
        std::fs::rename(Path::new(part).join("cold"), Path::new(part).join("zero")).unwrap();
    }
    refused(&["finetune", "--out", &out, "--resume", "--device=cpu", "--steps=50"], 1, &["`cold`", "`warm`"]);
    // what others say of its folder
    let net = folder.path("net");
    refused(&["extract", "--checkpoint", &out, "--out", &net], 1, &["poa-gpu finetune", "best/"]);
    refused(&["finetune", "--out", &init, "--resume"], 1, &["not of a run of `poa-gpu finetune`"]);
}

#[test]
fn images_to_be_judged_by_that_cannot_be_used_are_told() {
    let folder = Folder::new("finetune-unusable");
    let (init, [train, val]) = (pretrained(&folder, "demo"), photos(&folder));
    let [of_train, of_val] = [&train, &val].map(|dir| format!("folder:{dir}"));
    let common = ["--train", &of_train, "--val", &of_val, "--device=cpu", "--steps=2"];
    std::fs::write(Path::new(&val).join("warm/0.png"), b"no image").unwrap();
    let told = tune(&init, &folder.path("one"), &common);
    assert!(told.contains("1 of 12 images to be judged by cannot be used"), "{told}");
    assert!(told.contains("of 11 images"), "{told}");
    std::fs::write(Path::new(&val).join("warm/1.png"), b"no image").unwrap();
    let out = folder.path("two");
    let args = [&["finetune", "--init", &init, "--out", &out][..], &common].concat();
    refused(&args, 2, &["data.max_bad_fraction", "2 of 12 images to be judged by"]);
}

#[test]
fn a_frozen_network_keeps_its_bits() {
    let folder = Folder::new("finetune-freeze");
    for recipe in ["demo", "demo_swin"] {
        let init = pretrained(&folder, recipe);
        let tensors = |steps: &str| {
            let out = folder.path(&format!("{recipe}{steps}"));
            let more = [
                "--device=cpu",
                "data.spec=shapes:40",
                "finetune.freeze=true",
                "finetune.weight_decay=1",
                steps,
            ];
            tune(&init, &out, &more);
            TensorFile::open(find(out.as_ref()).unwrap().dir().join("student.safetensors")).unwrap()
        };
        let (early, late) = (tensors("--steps=2"), tensors("--steps=5"));
        for name in early.names() {
            let same = early.read_f32(name).unwrap() == late.read_f32(name).unwrap();
            assert_eq!(same, name.starts_with("backbone."), "{recipe}: {name}");
        }
    }
}

/// An extracted ViT says its sizes itself, and is the network of the checkpoint.
#[test]
fn an_extracted_network_is_fine_tuned_like_that_of_its_checkpoint() {
    let folder = Folder::new("finetune-extracted");
    let init = pretrained(&folder, "demo");
    let more = ["--device=cpu", "data.spec=shapes:40", "--steps=3"];
    let of_run = folder.path("of-run");
    tune(&init, &of_run, &[&more[..], &["--network=smallest"]].concat());
    for format in ["timm", "dinov2", "poa"] {
        let net = folder.path(format);
        let done = program(&[
            "extract",
            "--checkpoint",
            &init,
            "--network=smallest",
            "--format",
            format,
            "--out",
            &net,
        ]);
        assert!(done.status.success(), "{}", text(&done.stderr));
        let out = folder.path(&format!("of-{format}"));
        tune(&net, &out, &more);
        assert_eq!(losses(&of_run), losses(&out), "{format}");
    }
}

#[test]
fn what_cannot_be_is_said_before_the_work() {
    let folder = Folder::new("finetune-refused");
    let (init, [train, val]) = (pretrained(&folder, "demo"), photos(&folder));
    let [of_train, of_val] = [&train, &val].map(|dir| format!("folder:{dir}"));
    let out = folder.path("out");
    let given = |more: &[&str], status: i32, texts: &[&str]| {
        refused(&[&["finetune", "--out", &out, "--device=cpu"][..], more].concat(), status, texts);
        assert!(!Path::new(&out).exists(), "{more:?} leaves no folder");
    };
    let common = ["--init", init.as_str(), "--train", of_train.as_str(), "--val", of_val.as_str()];
    given(&["--init", "nowhere", "--train", &of_train], 1, &["nowhere", "no such file"]);
    given(&[&common[..], &["--network=17x3"]].concat(), 2, &["17x3"]);
    given(
        &[&common[..], &["--network=all"]].concat(),
        2,
        &["finetune.network", "one is fine-tuned at a time"],
    );
    given(&[&common[..], &["--config=imagenett"]].concat(), 2, &["imagenett", "imagenet"]);
    given(&[&common[..], &["finetune.lrr=1"]].concat(), 2, &["finetune.lrr", "finetune.lr"]);
    given(&[&common[..], &["finetune.epochs=0"]].concat(), 2, &["finetune.epochs"]);
    given(&[&common[..], &["finetune.image_size=30"]].concat(), 2, &["finetune.image_size", "32"]);
    let list = folder.path("names.txt");
    std::fs::write(&list, "\u{feff}cold/3.png\n# both classes have one\n5.png\n").unwrap();
    given(&[&common[..], &[&format!("data.subset={list}")]].concat(), 1, &["line 3", "5.png", "2 images"]);
    // a class that is nowhere to be learnt from
    std::fs::rename(Path::new(&val).join("warm"), Path::new(&val).join("hot")).unwrap();
    given(&common, 1, &["hot"]);
    std::fs::rename(Path::new(&val).join("hot"), Path::new(&val).join("warm")).unwrap();
    // one class alone
    std::fs::remove_dir_all(Path::new(&train).join("warm")).unwrap();
    std::fs::remove_dir_all(Path::new(&val).join("warm")).unwrap();
    given(&common, 1, &["one class"]);
    // weights of another network
    let weights =
        Path::new(&init).join("checkpoints/step-00000002/teacher.safetensors").display().to_string();
    given(&["--init", &weights, "--train=shapes:40"], 1, &["teacher.safetensors", "student"]);
}

//! The program as a user meets it: what it prints, what it leaves, and how it refuses bad input.

#[path = "support/program.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use support::{Folder, printed, program, refused, text};

const QUICK: [&str; 6] = [
    "--device=cpu",
    "--steps=3",
    "train.batch_size_per_gpu=4",
    "evaluation.train_images=60",
    "evaluation.val_images=30",
    "train.log_every=1",
];

#[test]
fn a_short_run_leaves_a_whole_folder() {
    let folder = Folder::new("run");
    let out_dir = folder.path("run");
    let out = program(&[&["train", "--out", &out_dir], &QUICK[..]].concat());
    let printed = text(&out.stdout);
    assert!(out.status.success(), "{}", text(&out.stderr));
    for t in ["before", "after", "48x2", "peak device memory", "checkpoint"] {
        assert!(printed.contains(t), "`{t}` is not in: {printed}");
    }
    let run = Path::new(&out_dir);
    assert!(std::fs::read_to_string(run.join("config.toml")).unwrap().contains("batch_size_per_gpu = 4"));
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let steps = metrics.lines().filter(|l| l.contains("\"loss\"")).count();
    assert_eq!(steps, 3, "{metrics}");
    assert!(std::fs::read_to_string(run.join("train.log")).unwrap().contains("step 3/3"));
    for file in
        ["student.safetensors", "teacher.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
    {
        assert!(run.join("checkpoints/step-00000003").join(file).is_file(), "{file}");
    }
    // the folder holds a run now
    refused(&[&["train", "--out", &out_dir], &QUICK[..]].concat(), 1, &[&out_dir, "another"]);
    assert_eq!(
        std::fs::read_to_string(run.join("metrics.jsonl")).unwrap(),
        metrics,
        "nothing is overwritten"
    );
}

#[test]
fn photographs_of_all_formats_with_broken_files_among_them() {
    let folder = Folder::new("photos");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures/augment");
    let (china, flower) =
        (image::open(fixtures.join("china.png")).unwrap(), image::open(fixtures.join("flower.png")).unwrap());
    for (class, photo) in [("temples", &china), ("plants/flowers", &flower)] {
        let dir = folder.0.join("images").join(class);
        std::fs::create_dir_all(&dir).unwrap();
        for (i, format) in ["png", "jpg", "bmp", "tiff", "webp"].iter().cycle().take(40).enumerate() {
            let cut = photo.crop_imm(
                i as u32,
                i as u32 / 2,
                photo.width() - 40,
                photo.height() - 20 - i as u32 / 4,
            );
            let image = if i % 7 == 3 { cut.grayscale().to_rgb8().into() } else { cut.to_rgb8().into() };
            let image: image::DynamicImage = image;
            image.save(dir.join(format!("{i}.{format}"))).unwrap();
        }
        std::fs::write(dir.join("broken.png"), b"this is no image").unwrap();
        std::fs::write(dir.join("notes.txt"), b"nor is this").unwrap();
    }
    let images = folder.path("images");
    let (data, out_dir) = (format!("folder:{images}"), folder.path("run"));
    let out = program(
        &[&["train", "--data", &data, "--out", &out_dir, "--steps=30"], &QUICK[..1], &QUICK[2..]].concat(),
    );
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("before"), "two classes are labels: {}", text(&out.stdout));
    let bad = std::fs::read_to_string(Path::new(&out_dir).join("bad_samples.txt")).unwrap();
    assert_eq!(bad.lines().count(), 2, "{bad}");
    assert!(bad.lines().all(|l| l.starts_with("unsupported\t") && l.contains("broken.png")), "{bad}");
    let log = std::fs::read_to_string(Path::new(&out_dir).join("train.log")).unwrap();
    assert!(log.contains("2 unsupported") && !log.contains("notes.txt"), "{log}");

    // fewer are allowed
    let strict = folder.path("strict-run");
    let args = ["train", "--data", &data, "--out", &strict, "data.max_bad_fraction=0.01", "--steps=30"];
    refused(&[&args, &QUICK[..1], &QUICK[2..]].concat(), 2, &["data.max_bad_fraction", "bad_samples.txt"]);

    // nothing but broken files
    let broken = folder.0.join("broken");
    std::fs::create_dir_all(&broken).unwrap();
    for i in 0..4 {
        std::fs::write(broken.join(format!("{i}.jpg")), b"no image").unwrap();
    }
    let data = format!("folder:{}", broken.display());
    let run = folder.path("broken-run");
    refused(&[&["train", "--data", &data, "--out", &run], &QUICK[..]].concat(), 1, &["broken"]);
}

#[test]
fn bad_input_is_refused_in_one_line() {
    let folder = Folder::new("bad");
    let empty = folder.path("empty");
    std::fs::create_dir_all(&empty).unwrap();
    let run = folder.path("run");
    let train = |more: &[&'static str], status: i32, texts: &[&str]| {
        let args: Vec<&str> = [&["train", "--device", "cpu", "--out", &run], more].concat();
        refused(&args, status, texts);
        assert!(!Path::new(&run).join("checkpoints").exists(), "{more:?} left a run behind");
    };
    train(&["optim.epoch=3"], 2, &["optim.epoch", "optim.epochs"]);
    train(&["studnet.patch_size=8"], 2, &["studnet", "student"]);
    train(&["student.head_dim=20"], 2, &["student.head_dim", "20"]);
    train(&["crops.global_crops_size=33"], 2, &["crops.global_crops_size", "patch"]);
    train(&["train.batch_size_per_gpu=1"], 2, &["train.batch_size_per_gpu", "koleo"]);
    train(&["student.patch_size=\"eight\""], 2, &["student.patch_size"]);
    train(&["teacher.momentum_teacher=1.5"], 2, &["teacher.momentum_teacher"]);
    train(&["--config", "no-such.toml"], 1, &["no-such.toml"]);
    train(&["--data", "folder:/no/such/folder"], 1, &["/no/such/folder"]);
    train(&["--data", "tape:0"], 2, &["tape:0", "folder:"]);
    train(&["--data", ""], 2, &["data.spec"]);
    let data = format!("folder:{empty}");
    refused(&["train", "--device", "cpu", "--out", &run, "--data", &data], 1, &[&empty]);
    refused(&["train", "--device", "99", "--out", &run], 1, &["99", "devices"]);
    refused(&["verify", "--device", "no such adapter"], 1, &["no such adapter"]);
    refused(&["verify", &empty], 1, &["fixture.json"]);
}

#[test]
fn braces_that_a_shell_has_taken_apart_are_told() {
    let quotes = "'webdataset:DIR/{000..146}.tar'";
    let (a, b) = ("webdataset:s/0.tar", "webdataset:s/1.tar");
    let [data_a, data_b] = [a, b].map(|spec| format!("--data={spec}"));
    for args in [
        &["train", "--data", a, b][..],
        &["train", &data_a, &data_b],
        &["features", "--checkpoint=run", "--out=f", "--data", a, b],
    ] {
        let out = program(args);
        let said = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(said.contains(quotes), "{args:?}: {said}");
    }
    // and no way to write a negative number is told where there can be none
    let said = text(&program(&["train", "--steps", "-1"]).stderr);
    assert!(said.contains("invalid value '-1' for '--steps <N>'") && !said.contains("-- -1"), "{said}");
}

#[test]
fn what_does_not_fit_a_run_that_goes_on_is_told() {
    let folder = Folder::new("go-on");
    let run = folder.path("run");
    let own = ["train", "--resume", "--out", &run];
    printed(&[&own, &QUICK[..]].concat());
    let [device, ..] = QUICK;
    // sizes of another network
    let args = [&own[..], &[device, "student.max_depth=4", "train.log_every=2"]].concat();
    refused(&args, 1, &["student.max_depth = 4 (was 3)", "leave it out"]);
    // weights to start from
    let out = program(&[&own[..], &[device, "--init", &run, "--steps=4"]].concat());
    let said = text(&out.stderr);
    assert!(out.status.success() && said.contains("is passed over"), "{said}");
    // images that lie elsewhere by now
    let args = [&own[..], &[device, "--data=folder:no/such"]].concat();
    let here = std::env::current_dir().unwrap().display().to_string();
    refused(&args, 1, &["data.spec is `folder:no/such`", "relative to the current folder", &here]);
    // the learning rate that was given is the one to lower
    let halt = folder.path("halt");
    let diverging =
        ["optim.lr=0.001", "dino.student_temp=1e-38", "optim.warmup_epochs=0", "train.halt_after_skips=3"];
    let args = [&["train", "--out", &halt, "--steps=40", device], &QUICK[2..], &diverging].concat();
    refused(&args, 1, &["steps in a row", "with a lower optim.lr,"]);
}

/// Heads of patch tokens that nobody made as small as the others are named.
#[test]
fn separate_heads_of_other_sizes_are_named() {
    let folder = Folder::new("heads");
    let own = ["ibot.separate_head=true", "ibot.head_hidden_dim=16", "ibot.head_n_prototypes=[16]"];
    let run = folder.path("run");
    let args = ["train", "--out", &run, "--steps=1"];
    let out = program(&[&args, &QUICK[..1], &QUICK[2..], &own].concat());
    let said = text(&out.stderr);
    assert!(out.status.success(), "{said}");
    for words in ["ibot.head_n_prototypes = [16]", "dino.head_n_prototypes = [", "ibot.head_hidden_dim = 16"]
    {
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn damaged_records_are_refused() {
    let folder = Folder::new("records");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures/vit");
    let names = [
        "fixture.json",
        "student.safetensors",
        "teacher.safetensors",
        "batch.safetensors",
        "expected.safetensors",
    ];
    let record = |name: &str| {
        let dir = folder.0.join(name);
        std::fs::create_dir_all(&dir).unwrap();
        for n in names {
            std::fs::copy(source.join(n), dir.join(n)).unwrap();
        }
        dir
    };
    let cut = record("cut");
    let bytes = std::fs::read(cut.join("student.safetensors")).unwrap();
    std::fs::write(cut.join("student.safetensors"), &bytes[..bytes.len() - 100]).unwrap();
    refused(&["verify", "--device", "cpu", &cut.display().to_string()], 1, &["student.safetensors"]);

    let foreign = record("foreign");
    std::fs::write(foreign.join("fixture.json"), "{\"arch\": \"mlp\"}").unwrap();
    refused(&["verify", "--device", "cpu", &foreign.display().to_string()], 1, &["fixture.json", "mlp"]);

    // other numbers than recorded: the replay runs, and fails
    let wrong = record("wrong");
    let json = std::fs::read_to_string(wrong.join("fixture.json")).unwrap();
    std::fs::write(wrong.join("fixture.json"), json.replace("\"lambda_ie\": 0.8", "\"lambda_ie\": 0.7"))
        .unwrap();
    let out = program(&["verify", "--device", "cpu", &wrong.display().to_string()]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).contains("FAIL"), "{}", text(&out.stdout));
}

/// A few steps are recorded on both devices: their phases, operations and gradients, on a GPU its kernels
/// with times; and the table tells them with rates.
#[test]
fn a_profile_says_where_the_time_goes() {
    let folder = Folder::new("profile");
    for device in ["cpu", "gpu"] {
        let (trace, run) = (folder.path(&format!("{device}.json")), folder.path(device));
        let device_arg = format!("--device={device}");
        let own = ["train", "--out", &run, "--profile", &trace, &device_arg];
        let out = program(&[&own, &QUICK[1..]].concat());
        let shown = text(&out.stderr);
        assert!(out.status.success(), "{shown}");
        let table: Vec<&str> = shown.lines().filter(|l| l.contains('%') && !l.contains("k-NN")).collect();
        let product = table.iter().find(|l| l.starts_with("matmul")).unwrap_or_else(|| panic!("{shown}"));
        let share = product.split_whitespace().last().unwrap().trim_end_matches('%');
        assert!(share.parse::<f64>().unwrap() > 0.0, "{product}");
        let json = std::fs::read_to_string(&trace).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let of = |category: &str| events.iter().filter(|e| e["cat"] == category).collect::<Vec<_>>();
        // three steps: two to warm up, one recorded
        let steps: Vec<_> = of("phase").into_iter().filter(|e| e["name"] == "step").collect();
        assert_eq!(steps.len(), 1);
        for name in ["teacher", "student", "head", "backward"] {
            assert!(of("phase").iter().any(|e| e["name"] == name), "{name}");
        }
        assert!(of("gradient").len() > 50 && of("operation").len() > 50);
        let kernels = of("kernel");
        assert_eq!(kernels.is_empty(), device == "cpu");
        let end =
            steps.iter().map(|e| e["ts"].as_f64().unwrap() + e["dur"].as_f64().unwrap()).fold(0.0, f64::max);
        for kernel in &kernels {
            let (start, took) = (kernel["ts"].as_f64().unwrap(), kernel["dur"].as_f64().unwrap());
            // the adapter may work a little longer than the host records
            assert!(start >= 0.0 && took >= 0.0 && start + took < 3.0 * end, "{kernel}");
        }
        assert!(kernels.is_empty() || kernels.iter().any(|k| k["dur"].as_f64() > Some(0.0)));
    }
    let nowhere = folder.path("none/trace.json");
    let run = folder.path("run");
    refused(&["train", "--out", &run, "--profile", &nowhere], 1, &["none/trace.json", "--profile"]);
    assert!(!Path::new(&run).exists(), "refused before anything is made");
}

#[test]
fn a_device_is_timed() {
    let shown = printed(&["bench", "--device=cpu", "sinkhorn"]);
    let line =
        shown.lines().find(|l| l.starts_with("sinkhorn/100x8192/cpu")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains(" ms") && line.contains("GB/s"), "{line}");
    assert!(shown.contains("ceilings:"), "{shown}");
    refused(&["bench", "--device=cpu", "sinkhole"], 2, &["sinkhole", "there are matmul, attention,"]);
    assert!(program(&["bench", "--device=cpu", "sinkhole"]).stdout.starts_with(b"device:"));
    refused(&["bench", "collective", "--devices=cpu"], 2, &["one rank exchanges nothing", "cpu:2"]);
    refused(&["bench", "step", "--devices=cpu:2"], 2, &["bench collective"]);
    refused(&["bench", "collective", "--devices=cpu:2", "--config=none"], 2, &["none"]);
    let mut wrong = Command::new(env!("CARGO_BIN_EXE_poa-gpu"));
    let out = wrong.args(["bench", "--device=cpu"]).env("POA_GPU_TILES", "fast").output().unwrap();
    assert_eq!(text(&out.stderr), "poa-gpu: POA_GPU_TILES=fast: `timed` or `rule` expected\n");
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn verify_passes_without_arguments() {
    for device in ["cpu", "gpu"] {
        let out = program(&["verify", "--device", device]);
        assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
        assert_eq!(text(&out.stdout).matches("  pass").count(), 9);
    }
}

#[test]
fn devices_are_listed_with_their_variants() {
    let out = program(&["devices"]);
    let printed = text(&out.stdout);
    assert!(out.status.success());
    for t in ["0: ", "driver", "largest tensor", "matmul", "attention", "cpu: "] {
        assert!(printed.contains(t), "`{t}` is not in: {printed}");
    }
}

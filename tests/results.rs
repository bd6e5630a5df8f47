//! From a run to networks in use, on the command line: evaluation, extraction, features, pictures, initial
//! weights.

#[path = "support/program.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use poa_gpu::files::tensor_file::TensorFile;
use support::{printed, program, refused, text};

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("poa-results-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

const SHORT: [&str; 7] = [
    "--device=cpu",
    "--steps=4",
    "train.batch_size_per_gpu=4",
    "evaluation.train_images=60",
    "evaluation.val_images=30",
    "train.log_every=1",
    "data.spec=shapes:600",
];

/// A short run that all tests share.
fn run() -> &'static str {
    static RUN: OnceLock<String> = OnceLock::new();
    RUN.get_or_init(|| {
        let dir = scratch("run").display().to_string();
        printed(&[&["train", "--out", &dir], &SHORT[..]].concat());
        dir
    })
}

#[test]
fn the_grid_is_listed_with_what_each_network_costs() {
    let listed = printed(&["extract", "--checkpoint", run(), "--list"]);
    assert_eq!(listed.lines().count(), 1 + 8, "{listed}");
    // 48 x 2 on 4 x 4 patches of 8: counted by hand
    let linear = |width: usize| (3 * width + width + 4 * width + 4 * width) * width + 9 * width;
    let per_block = linear(48) + 4 * 48 + 2 * 48;
    let all = 2 * per_block + 2 * 48 + 48 + 17 * 48 + 48 * 193;
    let line = listed.lines().find(|l| l.starts_with("48x2")).unwrap();
    assert!(line.split_whitespace().any(|word| word == all.to_string()), "{all} is not in: {line}");
}

#[test]
fn networks_are_extracted_in_every_format() {
    let dir = scratch("extract");
    for format in ["timm", "dinov2", "poa"] {
        let out = dir.join(format).display().to_string();
        printed(&["extract", "--checkpoint", run(), "--network", "64x2", "--format", format, "--out", &out]);
        let file = TensorFile::open(dir.join(format).join("model.safetensors")).unwrap();
        assert_eq!(file.shape("blocks.1.attn.qkv.weight").unwrap(), [192, 64]);
        let config = std::fs::read_to_string(dir.join(format).join("config.json")).unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(&config).is_ok(), "{config}");
    }
    let all = dir.join("all").display().to_string();
    printed(&["extract", "--checkpoint", run(), "--network", "all", "--out", &all]);
    assert_eq!(std::fs::read_dir(&all).unwrap().count(), 8);
    refused(&["extract", "--checkpoint", run(), "--network", "64x4", "--out", &all], 2, &["64x4", "64x3"]);
    refused(&["extract", "--checkpoint", run(), "--network", "small", "--out", &all], 2, &["384x12"]);
    refused(&["extract", "--checkpoint", run(), "--out", run()], 1, &["run's folder"]);
    refused(&["extract", "--checkpoint", "/no/such", "--out", &all], 1, &["/no/such"]);
    refused(&["extract", "--checkpoint", &all, "--out", &all], 1, &["checkpoint"]);
    let out = program(&["extract", "--checkpoint", run(), "--out", &all, "--format", "tflite"]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("dinov2"), "{}", text(&out.stderr));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_grid_is_evaluated_with_tables_and_plots() {
    let dir = scratch("eval");
    let out = dir.display().to_string();
    let common = ["--checkpoint", run(), "--train", "shapes:120", "--device=cpu", "--quiet", "--out", &out];
    let knn = printed(&[&["eval", "knn", "--network", "all", "--k", "5,10"], &common[..]].concat());
    assert!(knn.contains("96x3") && knn.contains("k=10"), "{knn}");
    let table = std::fs::read_to_string(dir.join("knn.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 8, "{table}");
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("knn.json")).unwrap()).unwrap();
    let networks = json["networks"].as_array().unwrap();
    assert_eq!(networks.len(), 8);
    for (line, network) in table.lines().skip(1).zip(networks) {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields[0], network["network"]);
        let top1 = network["top1"]["10"].as_f64().unwrap();
        assert_eq!(fields[6].parse::<f64>().unwrap(), top1);
        assert!((0.0..=1.0).contains(&top1));
    }
    let linear =
        ["eval", "linear", "--network", "smallest,96x2", "--epochs=1", "--epoch-iterations=3", "--batch=16"];
    let linear = printed(&[&linear, &common[..]].concat());
    assert!(linear.contains("best classifier") && linear.contains("learning rate"), "{linear}");
    // 13 learning rates, the last block or both, with and without mean patch
    let table = std::fs::read_to_string(dir.join("linear.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 2 * 13 * 4, "{table}");
    for name in ["knn-5", "knn-10", "linear"] {
        for chart in ["surface", "parameters"] {
            let png = image::open(dir.join(format!("{name}-{chart}.png"))).unwrap();
            assert_eq!((png.width(), png.height()), (1200, 900));
            assert!(
                std::fs::read_to_string(dir.join(format!("{name}-{chart}.svg"))).unwrap().contains("</svg>")
            );
        }
    }
    let common = &common[..5];
    refused(&[&["eval", "knn", "--k", "0"], common].concat(), 2, &["--k 0"]);
    refused(&[&["eval", "knn", "--temperature", "0"], common].concat(), 2, &["--temperature"]);
    refused(&[&["eval", "linear", "--epochs", "0"], common].concat(), 2, &["--epochs"]);
    refused(&[&["eval", "knn", "--size", "30"], common].concat(), 2, &["--size 30", "32"]);
    refused(&[&["eval", "knn", "--val", "tape:1"], common].concat(), 2, &["tape:1"]);
    std::fs::remove_dir_all(dir).unwrap();
}

/// The extracted network as the start of a run computes what the sub-network it was cut from does.
#[test]
fn features_of_an_extracted_network_are_those_of_the_sub_network() {
    let dir = scratch("features");
    std::fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let features = |checkpoint: &str, network: &str, out: &str| {
        printed(&[
            "features",
            "--checkpoint",
            checkpoint,
            "--network",
            network,
            "--data",
            "shapes:40",
            "--out",
            out,
            "--patches",
            "--images",
            "--most=12",
            "--device=cpu",
            "--quiet",
        ]);
        TensorFile::open(out).unwrap()
    };
    let cut = features(run(), "64x2", &path("cut.safetensors"));
    assert_eq!(cut.shape("cls").unwrap(), [12, 64]);
    assert_eq!(cut.shape("patches").unwrap(), [12, 16, 64]);
    assert_eq!(cut.shape("images").unwrap(), [12, 3, 32, 32]);
    assert_eq!(cut.read_i64("labels").unwrap().len(), 12);
    assert_eq!(cut.read_u8("readable").unwrap(), [1; 12]);
    assert_eq!(String::from_utf8(cut.read_u8("names").unwrap()).unwrap().lines().count(), 12);
    let (mean, patches) = (cut.read_f32("mean").unwrap(), cut.read_f32("patches").unwrap());
    for (i, mean) in mean.iter().enumerate() {
        let (image, c) = (i / 64, i % 64);
        let sum: f32 = (0..16).map(|t| patches[(image * 16 + t) * 64 + c]).sum();
        assert!((mean - sum / 16.0).abs() < 1e-5);
    }

    let net = path("net");
    printed(&["extract", "--checkpoint", run(), "--network", "64x2", "--out", &net]);
    let plain = path("plain");
    let sizes = [
        "student.min_embed_dim=64",
        "student.max_embed_dim=64",
        "student.min_depth=2",
        "student.max_depth=2",
    ];
    let args = [
        &["train", "--init", &net, "--out", &plain, "--quiet", "optim.base_lr=0", "optim.min_lr=0"],
        &sizes[..],
        &SHORT[..],
    ];
    let out = program(&args.concat());
    assert!(out.status.success(), "{}", text(&out.stderr));
    // results and warnings alone
    let printed_too = text(&out.stdout);
    assert!(printed_too.contains("checkpoint:") && !printed_too.contains("device:"), "{printed_too}");
    assert!(!text(&out.stderr).contains("  loss"), "{}", text(&out.stderr));
    let log = std::fs::read_to_string(Path::new(&plain).join("train.log")).unwrap();
    assert!(log.contains("matched") && log.contains("missing"), "{log}");
    let whole = features(&plain, "intact", &path("whole.safetensors"));
    for name in ["cls", "patches"] {
        let (a, b) = (cut.read_f32(name).unwrap(), whole.read_f32(name).unwrap());
        let largest = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let worst = a.iter().zip(&b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(worst <= 1e-5 * largest, "{name}: {worst} of {largest}");
    }
    let several = ["features", "--checkpoint", run(), "--network", "all", "--data", "shapes", "--out", &net];
    refused(&several, 2, &["more than one"]);
    let nowhere =
        ["features", "--checkpoint", run(), "--data", "shapes:20", "--device=cpu", "--out", "/no/such/f"];
    refused(&nowhere, 1, &["/no/such/f"]);
    refused(
        &[&["train", "--init", "/no/such.safetensors", "--out", &path("x")], &SHORT[..]].concat(),
        1,
        &["/no/such"],
    );
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn pictures_show_attention_and_components() {
    let dir = scratch("pictures");
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures/augment/flower.png");
    let (out, photo) = (dir.display().to_string(), photo.display().to_string());
    // three images of one name
    let copies = ["a", "b"].map(|name| dir.join(name));
    for copy in &copies {
        std::fs::create_dir_all(copy).unwrap();
        std::fs::copy(&photo, copy.join("flower.png")).unwrap();
    }
    let copies = copies.map(|copy| copy.join("flower.png").display().to_string());
    let visualize = ["visualize", "--checkpoint", run(), "--size=64", "--device=cpu"];
    let images = [photo.as_str(), &copies[0], &copies[1], &copies[1]];
    let said = printed(&[&visualize[..], &["--out", &out], &images].concat());
    let pictures: Vec<&str> = said.lines().filter(|line| line.ends_with(".png")).collect();
    assert_eq!(pictures.len(), 6, "{said}");
    for picture in pictures {
        let shown = image::open(picture).unwrap();
        // the image, six heads and their mean, of 256 pixels each; the image and its components
        let (columns, rows) = if picture.ends_with("flower.png.attention.png") { (3, 3) } else { (2, 1) };
        assert!(
            shown.width() >= columns * 256 && shown.height() > rows * 256,
            "{picture}: {}",
            shown.width()
        );
    }
    // by default beside the run, never among the images
    let said = printed(&[&visualize[..], &[&copies[0]]].concat());
    let pictures = Path::new(run()).join("pictures");
    assert!(said.contains(pictures.to_str().unwrap()), "{said}");
    assert_eq!(std::fs::read_dir(&pictures).unwrap().count(), 2);
    assert_eq!(std::fs::read_dir(dir.join("a")).unwrap().count(), 1);
    std::fs::remove_dir_all(pictures).unwrap();
    refused(&["visualize", "--checkpoint", run(), "/no/such.png"], 1, &["/no/such.png"]);
    std::fs::remove_dir_all(dir).unwrap();
}

/// Names in a folder, sorted.
#[cfg(unix)]
fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
#[cfg(unix)]
fn results_are_whole_or_not_there() {
    let dir = scratch("whole");
    std::fs::create_dir_all(&dir).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let (net, features, dump) = (path("net"), path("f.safetensors"), path("d.safetensors"));
    let commands = [
        vec!["extract", "--checkpoint", run(), "--network", "smallest", "--out", &net],
        vec![
            "features",
            "--checkpoint",
            run(),
            "--data=shapes:50",
            "--images",
            "--device=cpu",
            "--out",
            &features,
        ],
        vec!["verify", "--device=cpu", "--dump", &dump],
    ];
    // files of more than some KiB cannot be written: an error as of a full disk, or a signal that kills at once
    let limited = |args: &[&str], ignore: &str| {
        let script = format!("{ignore} ulimit -f 16; exec \"$0\" \"$@\"");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_poa-gpu")]).args(args);
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir()).output().unwrap()
    };
    let content = |name: &str| std::fs::read(dir.join(name)).ok();
    let results = ["net/model.safetensors", "net/config.json", "f.safetensors", "d.safetensors"];
    for round in ["new", "again"] {
        let before = results.map(content);
        for args in &commands {
            let out = limited(args, "trap '' XFSZ;");
            let said = text(&out.stderr);
            assert!(
                out.status.code() == Some(1) && said.contains("cannot be written"),
                "{round} {args:?}: {said}"
            );
        }
        assert!(!names(&dir).iter().any(|name| name.ends_with(".partial")), "{:?}", names(&dir));
        for args in &commands {
            let out = limited(args, "");
            assert_eq!(out.status.code(), None, "{round} {args:?}: {}", text(&out.stderr));
        }
        assert!(results.map(content) == before, "{round}: nothing is lost, and nothing is half there");
        assert!(names(&dir).iter().any(|name| name.ends_with(".partial")), "what was begun can be seen");
        commands.iter().for_each(|args| drop(printed(args)));
        assert!(results.map(content).iter().all(Option::is_some));
        assert_eq!(names(&dir), ["d.safetensors", "f.safetensors", "net"], "{round}");
        assert_eq!(names(&dir.join("net")), ["README.md", "config.json", "model.safetensors"], "{round}");
    }
    // a folder keeps what else is in it
    std::fs::write(dir.join("net/README.md"), "mine").unwrap();
    printed(&commands[0]);
    assert_eq!(content("net/README.md").unwrap(), b"mine");
    std::os::unix::fs::symlink(dir.join("d.safetensors"), dir.join("link")).unwrap();
    // what no file can be is refused before the work
    for to in [path(""), path("net"), path("link"), path("none/d.safetensors"), "/dev/null".to_string()] {
        refused(&["verify", "--device=cpu", "--dump", &to], 1, &[to.trim_end_matches('/')]);
    }
    assert!(!Path::new("/dev/null").is_file());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn configurations_are_printed_and_checked() {
    let dir = scratch("config");
    std::fs::create_dir_all(&dir).unwrap();
    let default = printed(&["config", "--print-default"]);
    let file = dir.join("my.toml");
    std::fs::write(&file, &default).unwrap();
    let path = file.display().to_string();
    let checked = printed(&["config", "--check", &path, "optim.epochs=50"]);
    assert!(checked.contains("143") && checked.contains("40000 of 50 images"), "{checked}");
    // a batch of 74 GiB is no reason for an abort, be there so much memory or not
    for batch in ["2", "65536"] {
        let batch = format!("train.batch_size_per_gpu={batch}");
        let checked = printed(&["config", "--check", "vit_ee1200", "--device", "cpu", &batch]);
        assert!(checked.contains("  memory  "), "{checked}");
    }
    let whole = printed(&["config", "demo", "optim.epochs=7"]);
    assert!(whole.contains("epochs = 7") && whole.contains("[evaluation]"), "{whole}");
    // what is printed loads to the same
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(printed(&["config", &path]), whole);
    std::fs::write(&file, default.replace("patch_size = 16", "patch_size = 15")).unwrap();
    refused(&["config", "--check", &path], 2, &["crops.global_crops_size", "patch_size = 15"]);
    refused(&["config", "--check", "no-such"], 2, &["no-such", "demo"]);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn every_command_has_help_with_examples_and_shells_can_complete_it() {
    let commands: [&[&str]; 10] = [
        &["train"],
        &["extract"],
        &["eval", "knn"],
        &["eval", "linear"],
        &["features"],
        &["visualize"],
        &["config"],
        &["verify"],
        &["devices"],
        &["completions"],
    ];
    for command in commands {
        let help = printed(&[command, &["--help"]].concat());
        assert!(help.contains("Example") && help.contains("poa-gpu"), "{command:?}: {help}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("--checkpoint") || script.contains("checkpoint"), "{shell}");
    }
    let version = printed(&["--version"]);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

/// A learning rate that blows everything up: steps are skipped, and after so many the run ends with its last
/// good state.
#[test]
fn a_run_whose_numbers_are_not_finite_halts() {
    let dir = scratch("halt").display().to_string();
    let halting = [
        "dino.student_temp=1e-38",
        "optim.warmup_epochs=0",
        "optim.freeze_last_layer_epochs=0",
        "train.halt_after_skips=3",
    ];
    let args = [&["train", "--out", &dir, "--steps=40", "--device=cpu"], &SHORT[2..], &halting[..]].concat();
    let out = program(&args);
    let error = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{error}");
    assert!(error.contains("steps in a row") && error.contains("optim.base_lr"), "{error}");
    let metrics = std::fs::read_to_string(Path::new(&dir).join("metrics.jsonl")).unwrap();
    assert!(metrics.lines().filter(|l| l.contains("\"loss\"")).count() < 40);
    let saved = poa_gpu::files::checkpoint::find(Path::new(&dir)).unwrap();
    saved.verify().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

/// Settings may change when a run goes on, and the change is said.
#[test]
fn a_resumed_run_can_have_other_settings() {
    let dir = scratch("changed").display().to_string();
    printed(&[&["train", "--out", &dir, "--resume"], &SHORT[..]].concat());
    let more =
        printed(&["train", "--out", &dir, "--resume", "--device=cpu", "--steps=6", "train.log_every=2"]);
    assert!(more.contains("changed: train.total_steps = 6 (was 4)"), "{more}");
    assert!(more.contains("changed: train.log_every = 2 (was 1)"), "{more}");
    let log = std::fs::read_to_string(Path::new(&dir).join("train.log")).unwrap();
    assert!(log.contains("resumed after 4 of 6 steps") && log.contains("step 6/6"), "{log}");
    let config = std::fs::read_to_string(Path::new(&dir).join("config.toml")).unwrap();
    assert!(config.contains("total_steps = 6") && config.contains("batch_size_per_gpu = 4"));
    // the rate that was worked out of a setting follows it
    let slower = printed(&["train", "--out", &dir, "--resume", "--device=cpu", "optim.base_lr=0.001"]);
    assert!(
        slower.contains("changed: optim.base_lr = 0.001") && slower.contains("changed: optim.lr = "),
        "{slower}"
    );
    let out =
        program(&["train", "--out", &dir, "--resume", "--device=cpu", "--steps=7", "--data=shapes:700"]);
    assert!(out.status.success() && text(&out.stderr).contains("had 600"), "{}", text(&out.stderr));
    // another model cannot take the checkpoint
    let wider = ["train", "--out", &dir, "--resume", "--device=cpu", "student.max_embed_dim=128"];
    refused(&wider, 1, &["safetensors", "128"]);
    // and leaves the run as it was
    let again = printed(&["train", "--out", &dir, "--resume", "--device=cpu"]);
    assert!(again.contains("checkpoint") && !again.contains("changed:"), "{again}");
    std::fs::remove_dir_all(dir).unwrap();
}

/// TensorBoard's files exist for every part of a run, and the plot of the evaluations is drawn.
#[test]
fn a_run_leaves_events_and_a_plot() {
    let files: Vec<String> =
        std::fs::read_dir(run()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(files.iter().any(|f| f.starts_with("events.out.tfevents.")), "{files:?}");
    assert!(files.iter().any(|f| f == "knn.png") && files.iter().any(|f| f == "knn.svg"), "{files:?}");
    let metrics = std::fs::read_to_string(Path::new(run()).join("metrics.jsonl")).unwrap();
    let line = metrics.lines().find(|l| l.contains("\"loss\"")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    for key in
        ["target_entropy_0", "target_kl_1", "feature_std", "grad_norm.backbone", "images", "effective_epoch"]
    {
        assert!(line[key].is_number(), "{key} in {line}");
    }
    for key in ["waiting_share", "left", "images_per_second", "bad_samples"] {
        assert!(line["time"][key].is_number(), "time.{key} in {line}");
    }
}

/// Trained, resumed, evaluated, listed and extracted like a ViT.
#[test]
fn swins_and_resnets_go_the_same_way() {
    for (recipe, smallest, intact, tensor, shape) in [
        ("demo_swin", "24x2", "48x3", "layers.2.blocks.1.attn.qkv.weight", &[288, 96][..]),
        ("demo_resnet", "8x1-1-1-1", "16x1-2-2-1", "layer3.0.bn2.weight", &[32][..]),
    ] {
        let dir = scratch(recipe).display().to_string();
        let train = |steps: &'static str| {
            let args = ["train", "--config", recipe, "--out", &dir, "--resume", "--device=cpu", steps];
            let more =
                ["train.batch_size_per_gpu=4", "evaluation.train_images=40", "evaluation.val_images=20"];
            printed(&[&args[..], &more].concat())
        };
        let first = train("--steps=2");
        assert!(first.contains(smallest) && first.contains(intact), "{first}");
        assert!(train("--steps=3").contains("changed: train.total_steps = 3 (was 2)"));
        let knn = ["eval", "knn", "--checkpoint", &dir, "--train", "shapes:60", "--network", "all", "--k=5"];
        let knn = printed(&[&knn[..], &["--device=cpu", "--quiet"]].concat());
        assert!(knn.contains(smallest) && knn.contains(intact), "{knn}");
        assert!(printed(&["extract", "--checkpoint", &dir, "--list"]).contains(smallest));
        let out = format!("{dir}/net");
        let extract = |network: &'static str, format: &'static str| {
            ["extract", "--checkpoint", &dir, "--network", network, "--out", &out, "--format", format]
                .map(String::from)
        };
        printed(&extract("smallest", "poa").each_ref().map(String::as_str));
        let model = TensorFile::open(Path::new(&out).join("model.safetensors")).unwrap();
        assert_eq!(model.shape(tensor).unwrap(), shape);
        // neither demo's sizes are among those of timm
        for network in ["smallest", "intact"] {
            let refuse = extract(network, "timm");
            refused(&refuse.each_ref().map(String::as_str), 2, &["timm's", "take --format poa"]);
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}

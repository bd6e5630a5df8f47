//! Whole runs on several ranks, as a user starts them: they repeat and resume to the bit, go on on other numbers of
//! ranks, end in order, and say what is wrong. `tests/mpi.rs` has the exchanges of processes.

#[path = "support/program.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use poa_gpu::files::checkpoint::{checkpoints_in, find};
use support::{Folder, SMALL, refused, result, text};

/// A small run with all that differs between ranks: masks, drop path and sub-networks; centres too where asked for.
const SETTINGS: [&str; 12] = [
    "data.spec=shapes:100",
    "train.batch_size_per_gpu=3",
    "train.log_every=1",
    "optim.epochs=4",
    "optim.warmup_epochs=1",
    "optim.ibot_activate_epochs=1",
    "train.OFFICIAL_EPOCH_LENGTH=3",
    "train.saveckp_freq=1",
    "student.drop_path_rate=0.2",
    "evaluation.train_images=20",
    "evaluation.val_images=10",
    "train.rank_timeout=60",
];

fn command(out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poa-gpu"));
    command.args(["train", "--config=demo", "--out", out]).args(SETTINGS).args(SMALL).args(more);
    command.env("RAYON_NUM_THREADS", "2").stdout(Stdio::null()).stderr(Stdio::piped());
    support::heeding(&mut command);
    command
}

#[track_caller]
fn run(out: &str, more: &[&str]) -> String {
    let Output { status, stderr, .. } = command(out, more).output().unwrap();
    assert!(status.success(), "{more:?}: {}", text(&stderr));
    text(&stderr)
}

/// Keeps the checkpoints of the first so many steps, as if the run had been killed after them.
fn cut(out: &str, steps: usize) {
    for (step, dir) in checkpoints_in(Path::new(out).join("checkpoints")).unwrap() {
        if step > steps {
            std::fs::remove_dir_all(dir).unwrap();
        }
    }
}

#[test]
fn runs_repeat_and_resume_to_the_bit() {
    let folder = Folder::new("ranks-repeat");
    for centering in ["sinkhorn_knopp", "centering"] {
        let setting = format!("train.centering={centering}");
        let more = ["--devices=cpu:2", setting.as_str()];
        let [once, again] = ["once", "again"].map(|name| folder.path(&format!("{centering}-{name}")));
        run(&once, &more);
        run(&again, &more);
        assert_eq!(result(&once), result(&again), "{centering}: repeated");
        cut(&again, 6);
        let told = run(&again, &[&more[..], &["--resume"]].concat());
        assert!(told.contains("resumed after 6 of 12 steps"), "{told}");
        assert_eq!(result(&once), result(&again), "{centering}: resumed");
        let alone = folder.path(&format!("{centering}-alone"));
        run(&alone, &["--device=cpu", setting.as_str()]);
        assert_ne!(result(&once).1, result(&alone).1, "two ranks see other images than one");
    }
}

#[test]
fn three_ranks_share_a_sub_network_where_asked_to_and_learn_at_the_rate_of_all_images() {
    let folder = Folder::new("ranks-three");
    let out = folder.path("a");
    run(&out, &["--devices=cpu:3", "train.network_per_rank=false", "train.accumulation_steps=2"]);
    let (metrics, _) = result(&out);
    let last = metrics.iter().rev().find(|line| line.get("loss").is_some()).unwrap();
    assert_eq!(last["images"].as_u64(), Some(12 * 3 * 3 * 2), "images of all ranks and micro-batches");
    assert!(last["loss"].as_f64().unwrap().is_finite());
    let config = std::fs::read_to_string(Path::new(&out).join("config.toml")).unwrap();
    let lr: f64 = config.lines().find_map(|line| line.strip_prefix("lr = ")).unwrap().parse().unwrap();
    let base: f64 = config.lines().find_map(|line| line.strip_prefix("base_lr = ")).unwrap().parse().unwrap();
    let wanted = base * (18.0f64 / 1024.0).sqrt();
    assert!((lr - wanted).abs() < 1e-9, "{lr} for a batch of 18 where {wanted} follows");
}

#[test]
fn a_run_goes_on_on_fewer_ranks_and_on_one() {
    let folder = Folder::new("ranks-fewer");
    let out = folder.path("a");
    let keep = "train.keep_checkpoints=0";
    let told = run(&out, &["--devices=cpu:4", keep, "teacher.momentum_teacher=0.992"]);
    assert_eq!(
        told.matches("teacher.momentum_teacher is").count(),
        1,
        "alike on all ranks, told once: {told}"
    );
    for (steps, devices, ranks) in
        [(9, "--devices=cpu:2", 2), (6, "--device=cpu", 1), (3, "--devices=cpu:3", 3)]
    {
        cut(&out, steps);
        let told = run(&out, &[devices, "--resume", keep]);
        assert!(told.contains(&format!("goes on on {ranks} ranks and had 4")), "{told}");
        assert!(told.contains("no image is lost or doubled"), "{told}");
        let (metrics, _) = result(&out);
        let seen = metrics.iter().rev().find_map(|line| line["images"].as_u64()).unwrap();
        let before = (steps * 4 * 3) as u64;
        assert_eq!(seen, before + ((12 - steps) * ranks * 3) as u64, "images of four ranks, then of {ranks}");
        let all = checkpoints_in(Path::new(&out).join("checkpoints")).unwrap();
        assert!(all.iter().any(|(step, _)| *step == 12), "{all:?}");
    }
}

#[test]
fn an_optimiser_split_over_ranks_changes_no_byte() {
    let folder = Folder::new("ranks-shard");
    let (whole, split) = ("optim.shard=false", "optim.shard=true");
    for devices in ["--devices=cpu:2", "--devices=cpu:3"] {
        let [a, b] = ["whole", "split"].map(|name| folder.path(&format!("{}-{name}", &devices[14..])));
        let keep = "train.keep_checkpoints=0";
        run(&a, &[devices, keep, whole]);
        run(&b, &[devices, keep, split]);
        assert_eq!(result(&a), result(&b), "{devices}");
        // each goes on as the other
        for (out, setting) in [(&a, split), (&b, whole), (&b, split)] {
            let before = result(out);
            cut(out, 6);
            let told = run(out, &[devices, keep, setting, "--resume"]);
            assert!(told.contains("resumed after 6 of 12 steps"), "{told}");
            assert_eq!(before, result(out), "{devices}: resumed with {setting}");
        }
        if devices == "--devices=cpu:3" {
            // what two ranks make of the checkpoint of three does not depend on the split either
            cut(&a, 6);
            cut(&b, 6);
            run(&a, &["--devices=cpu:2", keep, whole, "--resume"]);
            run(&b, &["--devices=cpu:2", keep, split, "--resume"]);
            assert_eq!(result(&a), result(&b), "on fewer ranks");
            cut(&b, 9);
            run(&b, &["--device=cpu", keep, split, "--resume"]);
        }
    }
}

#[test]
fn an_optimiser_split_over_ranks_changes_no_byte_of_many_parameters() {
    let folder = Folder::new("ranks-shard-many");
    // an adapter without halves trains in single precision
    for (devices, precision) in [("cpu:3", "f32"), ("gpu:2", "f32"), ("gpu:2", "mixed")] {
        let [a, b] =
            ["whole", "split"].map(|name| folder.path(&format!("{}-{precision}-{name}", &devices[..3])));
        let (devices, precision) = (format!("--devices={devices}"), format!("train.precision={precision}"));
        for (out, setting) in [(&a, "optim.shard=false"), (&b, "optim.shard=true")] {
            let short = ["optim.epochs=2", "train.OFFICIAL_EPOCH_LENGTH=2", "train.batch_size_per_gpu=2"];
            // gradients travel in five buckets
            let heads = ["dino.head_bottleneck_dim=64", "dino.head_n_prototypes=[70000, 24]"];
            let more = [devices.as_str(), precision.as_str(), setting, "evaluation.train_images=0"];
            run(out, &[&short[..], &heads, &more].concat());
        }
        // a difference would be long
        let (whole, split) = (result(&a), result(&b));
        assert_eq!(whole.0, split.0, "{devices} {precision}");
        assert!(whole.1 == split.1, "{devices} {precision}: the tensors differ");
    }
}

#[test]
fn a_run_that_diverges_is_saved_by_all_ranks_that_have_a_part_of_it() {
    let folder = Folder::new("ranks-shard-diverged");
    let [a, b] = ["whole", "split"].map(|name| folder.path(name));
    for (out, setting) in [(&a, "optim.shard=false"), (&b, "optim.shard=true")] {
        let wild =
            ["optim.lr=100", "optim.weight_decay=100", "optim.weight_decay_end=100", "optim.clip_grad=0"];
        let more = ["--devices=cpu:2", setting, "train.halt_after_skips=2", "optim.epochs=20"];
        let ended = command(out, &[&wild[..], &more].concat()).output().unwrap();
        let told = text(&ended.stderr);
        assert!(
            !ended.status.success() && told.contains("steps in a row; the last good state is in"),
            "{told}"
        );
    }
    assert_eq!(result(&a), result(&b));
}

#[cfg(unix)]
#[test]
fn a_signal_ends_all_ranks_with_a_checkpoint() {
    let folder = Folder::new("ranks-signal");
    let out = folder.path("a");
    let long = ["--devices=cpu:3", "optim.epochs=4000"];
    let mut child = command(&out, &long).spawn().unwrap();
    let begun = Instant::now();
    let newest = || {
        checkpoints_in(Path::new(&out).join("checkpoints")).map_or(0, |all| all.last().map_or(0, |(s, _)| *s))
    };
    while newest() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: a signal to a process that was started here
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let done = child.wait_with_output().unwrap();
    let told = text(&done.stderr);
    assert_eq!(done.status.code(), Some(143), "{told}");
    let lines: Vec<_> = told.lines().filter(|l| l.starts_with("poa-gpu:")).collect();
    assert_eq!(lines, ["poa-gpu: terminated (SIGTERM)"], "{told}");
    let stopped = newest();
    assert!(stopped >= 3 && find(out.as_ref()).is_ok());
    run(&out, &["--devices=cpu:3", "--resume", "optim.epochs=4"]);
}

#[test]
fn what_cannot_be_is_told_in_one_line() {
    let folder = Folder::new("ranks-bad");
    let out = folder.path("a");
    let train = |more: &[&'static str]| -> Vec<String> {
        let base = ["train", "--config=demo", "--out", &out].map(String::from);
        base.into_iter().chain(more.iter().map(ToString::to_string)).collect()
    };
    let check = |more: &[&'static str], status: i32, texts: &[&str]| {
        let args = train(more);
        refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), status, texts);
        assert!(!Path::new(&out).join("config.toml").exists(), "{more:?} left a run");
    };
    check(&["--devices=cpu:2", "data.spec=folder:/nowhere"], 1, &["/nowhere"]);
    check(&["--devices=cpu,97"], 1, &["rank 1 (", "no adapter has index 97"]);
    check(&["--devices=cpu:2", "train.batch_size_per_gpu=0"], 2, &["train.batch_size_per_gpu"]);
    for (devices, texts) in
        [("--devices=0,0", "0:2"), ("--devices=", "all, or a list"), ("--devices=cpu:0", "1 to 1024")]
    {
        let args = train(&[]);
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.push(devices);
        let out = support::program(&args);
        let error = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{error}");
        assert!(error.contains(texts), "{devices}: {error}");
    }
}

#[test]
fn unusable_images_of_all_ranks_are_told_by_the_first() {
    let folder = Folder::new("ranks-images");
    let images = folder.0.join("images");
    std::fs::create_dir_all(&images).unwrap();
    for i in 0..40 {
        let path = images.join(format!("{i:02}.png"));
        match i % 10 {
            7 => std::fs::write(path, b"no image").unwrap(),
            _ => {
                image::RgbImage::from_pixel(40, 40, image::Rgb([i * 5, 80, 255 - i * 5])).save(path).unwrap()
            }
        }
    }
    let out = folder.path("a");
    let spec = format!("data.spec=folder:{}", images.display());
    let told = run(&out, &["--devices=cpu:2", &spec, "data.max_bad_fraction=0.2"]);
    assert!(told.contains("4 unusable images left out"), "{told}");
    let list = std::fs::read_to_string(Path::new(&out).join("bad_samples.txt")).unwrap();
    assert_eq!(list.lines().count(), 4, "{list}");
    let out = folder.path("b");
    let failed = command(&out, &["--devices=cpu:2", &spec, "data.max_bad_fraction=0.01"]).output().unwrap();
    let told = text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(2), "{told}");
    let lines: Vec<_> = told.lines().filter(|l| l.starts_with("poa-gpu:")).collect();
    assert!(lines.len() == 1 && lines[0].contains("data.max_bad_fraction"), "{told}");
}

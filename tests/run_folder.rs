//! What others do to a run's folder: remove or rename it, put links and strays into it, damage its files,
//! start a second process in it.
#![cfg(unix)]

#[path = "support/program.rs"]
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use poa_gpu::files::checkpoint::{checkpoints_in, find};
use support::{Folder, SMALL, text};

/// A small network on few images.
const SETTINGS: [&str; 16] = [
    "train",
    "--device=cpu",
    "data.spec=shapes:40",
    "train.batch_size_per_gpu=2",
    "crops.local_crops_number=1",
    "evaluation.train_images=4",
    "evaluation.val_images=2",
    "evaluation.k=[1]",
    "evaluation.networks=[\"smallest\"]",
    "train.num_workers=1",
    "train.log_every=1",
    "optim.warmup_epochs=0",
    "optim.freeze_last_layer_epochs=0",
    "train.OFFICIAL_EPOCH_LENGTH=2",
    "train.saveckp_freq=1",
    "--out",
];

fn command(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poa-gpu"));
    command.args(SETTINGS).arg(out).args(SMALL).args(more).env("RAYON_NUM_THREADS", "1");
    command
}

/// A run of so many epochs of two steps each.
#[track_caller]
fn finished(out: &Path, epochs: usize, more: &[&str]) -> String {
    let epochs = format!("optim.epochs={epochs}");
    let done = command(out, &[&[epochs.as_str(), "--resume"], more].concat()).output().unwrap();
    let said = text(&done.stderr);
    assert!(done.status.success(), "{said}");
    said
}

#[track_caller]
fn refused(out: &Output, texts: &[&str]) {
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("poa-gpu: ") && !said.contains("panicked"), "{said}");
    for t in texts {
        assert!(last.contains(t), "`{t}` is not in: {said}");
    }
}

/// A run that does not end within a test, with what it says in a file.
fn endless(out: &Path, said: &Path) -> Child {
    let mut command = command(out, &["optim.epochs=1000000", "train.saveckp_freq=1"]);
    command.stdout(Stdio::null()).stderr(fs::File::create(said).unwrap()).spawn().unwrap()
}

#[track_caller]
fn wait_for(what: &str, mut found: impl FnMut() -> bool) {
    let started = Instant::now();
    while !found() {
        assert!(started.elapsed() < Duration::from_secs(120), "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn newest(out: &Path) -> usize {
    checkpoints_in(out.join("checkpoints")).unwrap().last().map_or(0, |(step, _)| *step)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_that_is_removed_ends_the_run() {
    let folder = Folder::new("removed");
    let (out, said) = (folder.0.join("run"), folder.0.join("said"));
    let mut child = endless(&out, &said);
    wait_for("a checkpoint", || newest(&out) >= 2);
    // away in one go, then for good: it must not come back while it is being emptied
    fs::rename(&out, folder.0.join("doomed")).unwrap();
    while fs::remove_dir_all(folder.0.join("doomed")).is_err() {}
    let status = child.wait().unwrap();
    let said = fs::read_to_string(&said).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.contains("run: the run's folder was removed")
            || last.contains("doomed: the run's folder was removed"),
        "{said}"
    );
    assert!(!out.exists() && !said.contains("panicked"), "nothing is made anew: {said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_is_renamed_is_followed() {
    let folder = Folder::new("renamed");
    let (out, new, said) = (folder.0.join("run"), folder.0.join("new"), folder.0.join("said"));
    let mut child = endless(&out, &said);
    wait_for("a checkpoint", || newest(&out) >= 2);
    fs::rename(&out, &new).unwrap();
    // someone else's, under the old name
    fs::create_dir(&out).unwrap();
    let then = newest(&new);
    wait_for("later checkpoints", || newest(&new) > then + 4);
    // a log that is rotated away begins anew
    fs::rename(new.join("train.log"), new.join("train.log.1")).unwrap();
    wait_for("another log", || {
        fs::read_to_string(new.join("train.log")).is_ok_and(|log| log.contains("step "))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let said = fs::read_to_string(&said).unwrap();
    assert!(
        said.contains("was renamed while the run was on: it goes on in")
            && said.contains("train.log was removed"),
        "{said}"
    );
    assert!(names(&out).is_empty(), "{:?}", names(&out));
    finished(&new, 4, &[]);
}

#[test]
fn links_are_not_written_through() {
    let folder = Folder::new("links");
    let (out, target) = (folder.0.join("run"), folder.0.join("target"));
    finished(&out, 1, &[]);
    let whole = "somebody's file\n";
    for (name, refuses) in [
        ("metrics.jsonl", true),
        ("train.log", true),
        ("run.lock", true),
        ("bad_samples.txt", true),
        ("config.toml.partial", false),
        ("checkpoints/latest.partial", false),
        ("checkpoints/step-00000004.partial", false),
        ("checkpoints/step-00000004", false),
    ] {
        let path = out.join(name);
        let kept = fs::read(&path).ok();
        let _ = fs::remove_file(&path);
        fs::write(&target, whole).unwrap();
        symlink(&target, &path).unwrap();
        let done = command(&out, &["optim.epochs=2", "--resume"]).output().unwrap();
        match refuses {
            true => refused(&done, &[name, "is a link to", "not written through"]),
            false => assert!(done.status.success(), "{name}: {}", text(&done.stderr)),
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), whole, "{name}");
        if refuses {
            fs::remove_file(&path).unwrap();
            if let Some(bytes) = kept {
                fs::write(&path, bytes).unwrap();
            }
        } else {
            // as it was after the first epoch
            fs::remove_dir_all(out.join("checkpoints/step-00000004")).unwrap();
        }
    }
    // the settings are replaced, and it is said
    let config = fs::read_to_string(out.join("config.toml")).unwrap();
    fs::write(&target, &config).unwrap();
    fs::remove_file(out.join("config.toml")).unwrap();
    symlink(&target, out.join("config.toml")).unwrap();
    let said = finished(&out, 2, &[]);
    assert!(said.contains("config.toml is a link to") && said.contains("replaced by a file"), "{said}");
    assert_eq!(fs::read_to_string(&target).unwrap(), config);
    // a profile under a name that the user gave
    symlink(&target, folder.0.join("trace.json")).unwrap();
    let trace = folder.path("trace.json");
    refused(
        &command(&out, &["--resume", "--profile", &trace]).output().unwrap(),
        &["trace.json", "is a link to"],
    );
    assert_eq!(fs::read_to_string(&target).unwrap(), config);
    // `checkpoints` may be a link to a larger disk
    let big = folder.0.join("big");
    fs::create_dir(&big).unwrap();
    let other = folder.0.join("other");
    fs::create_dir(&other).unwrap();
    symlink(&big, other.join("checkpoints")).unwrap();
    finished(&other, 1, &[]);
    finished(&other, 2, &[]);
    assert_eq!(newest(&other), 4);
    assert!(big.join("step-00000004/manifest.json").is_file());
    // and that disk may not be there
    fs::rename(&big, folder.0.join("away")).unwrap();
    let done = command(&folder.0.join("third"), &["optim.epochs=1"]);
    fs::create_dir(folder.0.join("third")).unwrap();
    symlink(&big, folder.0.join("third/checkpoints")).unwrap();
    let mut done = done;
    refused(&done.output().unwrap(), &["third/checkpoints", "link to a folder that is not there"]);
}

#[test]
fn a_pipe_in_place_of_a_file_is_refused() {
    let folder = Folder::new("pipe");
    let out = folder.0.join("run");
    finished(&out, 1, &[]);
    fs::remove_file(out.join("train.log")).unwrap();
    if !Command::new("mkfifo").arg(out.join("train.log")).status().is_ok_and(|s| s.success()) {
        println!("no mkfifo here");
        return;
    }
    refused(
        &command(&out, &["optim.epochs=2", "--resume"]).output().unwrap(),
        &["train.log", "is a device or a pipe"],
    );
}

#[test]
fn strays_among_the_checkpoints_stop_nothing() {
    let folder = Folder::new("strays");
    let out = folder.0.join("run");
    let said = finished(&out, 1, &["train.keep_checkpoints=0"]);
    assert!(said.contains("every checkpoint is kept (train.keep_checkpoints=0)"), "{said}");
    let inside = out.join("checkpoints");
    let step = |n: usize| inside.join(format!("step-{n:08}"));
    fs::write(inside.join("step-00000004.partial"), "half").unwrap();
    fs::write(inside.join("step-00000006.old"), "old").unwrap();
    fs::write(step(4), "a file").unwrap();
    fs::write(inside.join("step-99999999999999999999999"), "beyond").unwrap();
    fs::create_dir(inside.join("step-7")).unwrap();
    fs::create_dir(step(6)).unwrap();
    fs::create_dir(inside.join("latest.partial")).unwrap();
    let said = finished(&out, 4, &["train.keep_checkpoints=0"]);
    for stray in [
        "step-00000004: has no manifest",
        "step-7: has not the name",
        "step-99999999999999999999999: has not",
        "latest.partial: is in the way",
    ] {
        assert!(said.contains(stray), "{stray} is not in: {said}");
    }
    let steps: Vec<usize> = checkpoints_in(&inside).unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [2, 4, 6, 8], "all are kept");
    let left = names(&inside);
    assert!(left.iter().any(|name| name == "step-00000004.damaged"), "someone's file is set aside: {left:?}");
    assert!(!left.iter().any(|name| name.ends_with("04.partial") || name.ends_with(".old")), "{left:?}");
    // `latest` is a folder
    fs::remove_dir(inside.join("latest.partial")).unwrap();
    let _ = fs::remove_file(inside.join("latest"));
    fs::create_dir_all(inside.join("latest/full")).unwrap();
    let said = finished(&out, 5, &["train.keep_checkpoints=2"]);
    assert!(said.contains("latest: cannot be pointed"), "{said}");
    let steps: Vec<usize> = checkpoints_in(&inside).unwrap().into_iter().map(|(step, _)| step).collect();
    assert_eq!(steps, [8, 10]);
    assert!(find(&out).unwrap().dir().ends_with("step-00000010"));
    // `checkpoints` is a file
    let other = folder.0.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("checkpoints"), "a file").unwrap();
    let done = command(&other, &["optim.epochs=1", "--resume"]).output().unwrap();
    refused(&done, &["other/checkpoints", "is a file", "move it away"]);
    assert_eq!(fs::read_to_string(other.join("checkpoints")).unwrap(), "a file");
}

#[test]
fn files_that_end_within_a_line_are_gone_on_with() {
    let folder = Folder::new("torn");
    let out = folder.0.join("run");
    finished(&out, 1, &[]);
    let append = |name: &str, bytes: &[u8]| {
        let path = out.join(name);
        let mut all = fs::read(&path).unwrap_or_default();
        all.extend(bytes);
        fs::write(path, all).unwrap();
    };
    append("train.log", b"2026-01-01 00:00:00Z  half a li");
    append("metrics.jsonl", b"{\"step\": 1, \"lo");
    append("bad_samples.txt", b"damaged\tone.jpg\tcut off\ndamaged\tcaf\xc3");
    finished(&out, 2, &[]);
    let log = fs::read_to_string(out.join("train.log")).unwrap();
    let cut = log.lines().position(|line| line.ends_with("half a li")).expect("the half line ends there");
    assert!(log.lines().nth(cut + 1).unwrap().starts_with("20"), "{log}");
    // the steps that are reported, each line of the file being whole
    let steps = || -> Vec<u64> {
        let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter(|line| line.get("time").is_some()).map(|line| line["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(steps(), [0, 1, 2, 3]);
    // shorter than the checkpoint says, within a line
    let path = out.join("metrics.jsonl");
    let all = fs::read_to_string(&path).unwrap();
    let end = all.find("\"step\":3,").unwrap();
    fs::write(&path, &all[..end]).unwrap();
    let said = finished(&out, 3, &[]);
    assert!(said.contains("metrics.jsonl is shorter than the checkpoint says"), "{said}");
    assert_eq!(steps(), [0, 1, 2, 4, 5]);
}

/// Lines that a crash cut off, in the file of unusable images itself.
#[test]
fn a_cut_character_in_the_list_of_unusable_images_is_passed_over() {
    use poa_gpu::data::bad_samples::{BadKind, BadSample};
    use poa_gpu::data::bad_samples_file::BadSamplesFile;
    let folder = Folder::new("badfile");
    let path = folder.0.join("bad_samples.txt");
    fs::write(&path, b"damaged\tone.jpg\tcut off\ndamaged\tcaf\xc3").unwrap();
    let mut file = BadSamplesFile::open(&path).unwrap();
    assert_eq!(file.len(), 1);
    let sample = |name: &str| BadSample { name: name.into(), kind: BadKind::Missing, reason: "gone".into() };
    assert!(file.add(&[sample("one.jpg"), sample("two.jpg")]).unwrap());
    assert!(!file.add(&[sample("two.jpg")]).unwrap());
    assert_eq!(BadSamplesFile::open(&path).unwrap().len(), 2);
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.ends_with(b"\ndamaged\tcaf\xc3\nmissing\ttwo.jpg\tgone\n"), "{bytes:?}");
}

#[test]
fn damaged_settings_are_taken_from_a_checkpoint() {
    let folder = Folder::new("settings");
    let out = folder.0.join("run");
    finished(&out, 1, &[]);
    let config = out.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    for (damage, what) in
        [(&b""[..], "is empty"), (&b"\0\0\0\0"[..], "is damaged"), (&b"a = \xff"[..], "is damaged")]
    {
        fs::write(&config, damage).unwrap();
        let said = finished(&out, 1, &[]);
        assert!(said.contains(what) && said.contains("the settings are taken from"), "{said}");
        assert_eq!(fs::read_to_string(&config).unwrap(), text);
    }
    fs::remove_file(&config).unwrap();
    let said = finished(&out, 1, &[]);
    assert!(
        said.contains("resumed after 2 of 2 steps") && said.contains("the settings are taken from"),
        "{said}"
    );
    // someone's mistake is shown, with where to find the settings
    fs::write(&config, text.replace("epochs = 1", "epochs = one")).unwrap();
    let done = command(&out, &["--resume"]).output().unwrap();
    let said = support::text(&done.stderr);
    assert!(!done.status.success(), "{said}");
    assert!(
        said.contains("config.toml")
            && said.contains("an intact copy is")
            && said.contains("step-00000002/config.toml"),
        "{said}"
    );
    // no copy anywhere
    fs::write(&config, "").unwrap();
    fs::remove_dir_all(out.join("checkpoints")).unwrap();
    let done = command(&out, &["optim.epochs=1", "--resume"]).output().unwrap();
    refused(&done, &["config.toml", "is empty, and no checkpoint has a copy"]);
}

#[test]
fn of_processes_that_start_at_once_one_runs() {
    let folder = Folder::new("race");
    let out = folder.0.join("run");
    for round in ["start", "resume"] {
        let all: Vec<Child> = (0..3)
            .map(|_| {
                let mut command = command(&out, &["optim.epochs=1000000", "--resume"]);
                command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let mut running: Vec<Child> = all;
        let mut refused = Vec::new();
        wait_for("two refusals", || {
            let (mut still, before) = (Vec::new(), std::mem::take(&mut running));
            for mut child in before {
                match child.try_wait().unwrap() {
                    None => still.push(child),
                    Some(_) => refused.push(child.wait_with_output().unwrap()),
                }
            }
            running = still;
            refused.len() >= 2
        });
        let holder = running.first().map(|child| child.id());
        let before = newest(&out);
        wait_for("a checkpoint of the one that runs", || newest(&out) > before);
        for mut child in running {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(refused.len(), 2, "{round}");
        for out in &refused {
            self::refused(out, &["another process is training in this folder"]);
        }
        // who comes later reads who it is
        let note = fs::read_to_string(out.join("run.lock")).unwrap();
        assert!(note.starts_with(&format!("process {} on ", holder.unwrap())), "{note}");
    }
    let mut child = endless_resume(&out);
    wait_for("the lock", || {
        fs::read_to_string(out.join("run.lock"))
            .is_ok_and(|note| note.starts_with(&format!("process {} ", child.id())))
    });
    refused(
        &command(&out, &["--resume"]).output().unwrap(),
        &[&format!("(process {} on ", child.id()), "since 20"],
    );
    child.kill().unwrap();
    child.wait().unwrap();
    // what a killed process has noted keeps nobody away, and a process that ends takes its note with it
    finished(&out, 1, &[]);
    assert_eq!(fs::read_to_string(out.join("run.lock")).unwrap(), "");
}

fn endless_resume(out: &Path) -> Child {
    let mut command = command(out, &["optim.epochs=1000000", "--resume"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Only a folder that is prepared for checkpoints, or a link to one, is no run.
#[test]
fn a_prepared_folder_for_checkpoints_is_no_run() {
    let folder = Folder::new("prepared");
    let disk = folder.0.join("disk");
    fs::create_dir_all(&disk).unwrap();
    for link in [false, true] {
        let out = folder.0.join(format!("run-{link}"));
        fs::create_dir_all(&out).unwrap();
        match link {
            true => symlink(&disk, out.join("checkpoints")).unwrap(),
            false => fs::create_dir(out.join("checkpoints")).unwrap(),
        }
        let done = command(&out, &["--steps=1"]).output().unwrap();
        assert!(done.status.success(), "{}", text(&done.stderr));
        assert_eq!(newest(&out), 1);
        refused(&command(&out, &["--steps=1"]).output().unwrap(), &["already holds a run"]);
    }
    assert!(disk.join("step-00000001/manifest.json").is_file());
}

/// Where no image can be used, the run's list says why, and what has ended before its first step is in nobody's way.
#[test]
fn a_run_without_usable_images_lists_them_and_can_be_started_again() {
    let folder = Folder::new("unusable");
    for labelled in [false, true] {
        let (images, out) =
            (folder.0.join(format!("images-{labelled}")), folder.0.join(format!("run-{labelled}")));
        let place = |i: usize| match labelled {
            true => images.join(["a", "b"][i % 2]),
            false => images.clone(),
        };
        for i in 0..6 {
            fs::create_dir_all(place(i)).unwrap();
            fs::write(place(i).join(format!("{i}.png")), if i < 4 { &b"no image"[..] } else { b"" }).unwrap();
        }
        let data = format!("--data=folder:{}", images.display());
        let start = || command(&out, &["--steps=1", &data, "data.held_out=0.34"]).output().unwrap();
        let list = || fs::read_to_string(out.join("bad_samples.txt")).unwrap_or_default();
        refused(&start(), &["empty", "unsupported", "bad_samples.txt names them"]);
        let bad = list();
        // with labels the evaluation ends it, which has seen those held out
        assert_eq!(bad.lines().count(), if labelled { 2 } else { 6 }, "{bad}");
        let image = image::RgbImage::from_pixel(40, 40, image::Rgb([200, 20, 90]));
        (0..6).for_each(|i| image.save(place(i).join(format!("{i}.png"))).unwrap());
        let done = start();
        assert!(done.status.success(), "{}", text(&done.stderr));
        assert!(list().is_empty(), "the list begins anew: {}", list());
    }
}

/// Images that evaluation cannot read are said.
#[test]
fn images_that_k_nn_leaves_out_are_said() {
    let folder = Folder::new("left-out");
    let image = image::RgbImage::from_pixel(40, 40, image::Rgb([20, 200, 90]));
    for i in 0..6 {
        let dir = folder.0.join("images").join(["a", "b"][i % 2]);
        fs::create_dir_all(&dir).unwrap();
        image.save(dir.join(format!("{i}.png"))).unwrap();
    }
    fs::write(folder.0.join("images/a/4.png"), b"no image").unwrap();
    let spec = format!("folder:{}/images", folder.0.display());
    let own = [
        format!("evaluation.train={spec}"),
        format!("evaluation.val={spec}"),
        "evaluation.val_images=0".into(),
    ];
    let more =
        [&own.each_ref().map(String::as_str)[..], &["--steps=1", "evaluation.train_images=0"]].concat();
    let done = command(&folder.0.join("run"), &more).output().unwrap();
    let said = text(&done.stderr);
    assert!(done.status.success(), "{said}");
    for set in ["train", "val"] {
        assert_eq!(said.matches(&format!("1 of evaluation.{set} cannot be used")).count(), 1, "{said}");
    }
}

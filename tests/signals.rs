//! Ctrl-C and its like: what is done is kept, the exit status tells of it, and what was ignored stays so.
#![cfg(unix)]

#[path = "support/program.rs"]
mod support;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use poa_gpu::files::checkpoint::checkpoints_in;
use support::{Folder, SMALL, heeding};

/// A small network, and never the end of what a test waits for.
const SETTINGS: [&str; 9] = [
    "train",
    "--device=cpu",
    "--steps=100000",
    "train.batch_size_per_gpu=4",
    "train.log_every=1",
    "train.saveckp_minutes=0",
    "evaluation.val_images=10",
    "--resume",
    "--out",
];
/// An evaluation that is over at once, and one that lasts for minutes.
const SHORT: &str = "evaluation.train_images=20";
const LONG: [&str; 2] = ["evaluation.train_images=0", "data.spec=shapes:4000000"];
/// As long as a loaded machine may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn run(out: &str, settings: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poa-gpu"));
    command.args(SETTINGS).arg(out).args(SMALL).args(settings).env("RAYON_NUM_THREADS", "1");
    heeding(command.stdout(Stdio::null()).stderr(Stdio::null()));
    command
}

fn send(child: &Child, signals: &[&str]) {
    for signal in signals {
        let id = child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().unwrap().success());
    }
}

/// Waits for a text in the run's log.
#[track_caller]
fn await_log(out: &str, text: &str) {
    let (log, started) = (Path::new(out).join("train.log"), Instant::now());
    while !std::fs::read_to_string(&log).is_ok_and(|log| log.contains(text)) {
        assert!(started.elapsed() < PATIENCE, "`{text}` does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How a program ends that was asked to, and how long that took.
#[track_caller]
fn end(mut child: Child) -> (ExitStatus, Duration) {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (status, started.elapsed());
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn saved(out: &str) -> Vec<usize> {
    let all = checkpoints_in(Path::new(out).join("checkpoints")).unwrap();
    all.into_iter().map(|(step, _)| step).collect()
}

#[test]
fn each_signal_has_its_exit_status() {
    let folder = Folder::new("signals");
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let out = folder.path(signal);
        let child = run(&out, &[SHORT]).spawn().unwrap();
        await_log(&out, "step 2/");
        send(&child, &[signal]);
        assert_eq!(end(child).0.code(), Some(code), "{signal}");
        assert_eq!(saved(&out).len(), 1, "{signal}");
    }
}

#[test]
fn an_interrupt_ends_with_a_checkpoint() {
    let folder = Folder::new("interrupt");
    let out = folder.path("run");
    let mut child = run(&out, &[SHORT]).stdout(Stdio::piped()).spawn().unwrap();
    let mut results = child.stdout.take().unwrap();
    await_log(&out, "step 2/");
    send(&child, &["INT"]);
    assert_eq!(end(child).0.code(), Some(130));
    let mut printed = String::new();
    results.read_to_string(&mut printed).unwrap();
    assert!(printed.contains("interrupted after"), "{printed}");
    let checkpoints = Path::new(&out).join("checkpoints");
    assert_eq!(std::fs::read_dir(&checkpoints).unwrap().count(), 2, "a checkpoint, and `latest`");
    assert!(checkpoints.join("latest/manifest.json").is_file());
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let folder = Folder::new("ignored");
    let out = folder.path("run");
    // as under nohup, and in the background of a script
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' INT TERM HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_poa-gpu")]);
    shell.args(SETTINGS).args([&out, SHORT]).args(SMALL).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = shell.spawn().unwrap();
    await_log(&out, "step 2/");
    send(&child, &["INT", "TERM", "HUP", "INT"]);
    let log = std::fs::read_to_string(Path::new(&out).join("train.log")).unwrap();
    let done = log.lines().filter(|line| line.contains("step ")).count();
    await_log(&out, &format!("step {}/", done + 5));
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The evaluation before the first step is left within seconds, and made up for when the run goes on.
#[test]
fn an_evaluation_is_left_and_made_up_for() {
    let folder = Folder::new("evaluating");
    let out = folder.path("run");
    let child = run(&out, &LONG).spawn().unwrap();
    await_log(&out, "before the first step");
    std::thread::sleep(Duration::from_millis(300));
    send(&child, &["TERM"]);
    let (status, took) = end(child);
    assert_eq!(status.code(), Some(143));
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(saved(&out), [0]);

    let child = run(&out, &[SHORT]).spawn().unwrap();
    await_log(&out, "k-NN after 0 steps");
    await_log(&out, "step 1/");
    send(&child, &["INT"]);
    assert_eq!(end(child).0.code(), Some(130));
    let metrics = std::fs::read_to_string(Path::new(&out).join("metrics.jsonl")).unwrap();
    let first = metrics.lines().next().unwrap();
    assert!(first.contains("knn.") && first.contains("\"step\":0"), "{first}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let folder = Folder::new("twice");
    let out = folder.path("run");
    let child = run(&out, &LONG).spawn().unwrap();
    await_log(&out, "before the first step");
    // both arrive when it goes on
    send(&child, &["STOP", "INT", "TERM", "CONT"]);
    let (status, took) = end(child);
    assert!(matches!(status.code(), Some(130 | 143)), "{status:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(saved(&out), [0; 0], "nothing was written on the way out");
}

/// The first checkpoint does not wait for the first period.
#[test]
fn the_first_checkpoint_comes_early() {
    let folder = Folder::new("early");
    let out = folder.path("run");
    let settings = [SHORT, "--steps=102", "train.saveckp_freq=1000", "train.log_every=50"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_poa-gpu"));
    let given = SETTINGS.iter().filter(|s| !s.starts_with("--steps") && !s.starts_with("train.log_every"));
    command.args(given).arg(&out).args(SMALL).args(settings).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
    let saved = saved(&out);
    assert!(saved.len() == 2 && saved[0] <= 100 && saved[1] == 102, "{saved:?}");
}

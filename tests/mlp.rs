//! A task that is not POA, the example `mlp`, lasts like one: killed at any moment it goes on to the bit, and
//! leaves the same files behind.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use poa_gpu::files::checkpoint::{checkpoints_in, find};
use serde_json::Value;

const STEPS: usize = 4000;

/// The example's program, built as this test was.
fn program() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--example", "mlp"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    build.args((!cfg!(debug_assertions)).then_some("--release"));
    build.args((!cfg!(feature = "cli")).then_some("--no-default-features"));
    assert!(build.status().unwrap().success(), "the example is built");
    // target/PROFILE/deps/this-test
    let this = std::env::current_exe().unwrap();
    this.parent().and_then(Path::parent).unwrap().join("examples/mlp")
}

fn command(program: &Path, out: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(out).arg(STEPS.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn newest(out: &Path) -> usize {
    checkpoints_in(out.join("checkpoints")).unwrap().last().map_or(0, |(step, _)| *step)
}

/// The metrics without what depends on the clock.
fn metrics(out: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("time");
        line
    });
    lines.collect()
}

#[test]
fn a_killed_run_of_another_task_goes_on_to_the_bit() {
    let program = program();
    let folder = std::env::temp_dir().join(format!("poa-mlp-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let (undisturbed, killed) = (folder.join("undisturbed"), folder.join("killed"));
    assert!(command(&program, &undisturbed).status().unwrap().success());
    let mut kills = 0;
    for wanted in [300, 900, 2000] {
        let mut child = command(&program, &killed).spawn().unwrap();
        let started = Instant::now();
        while newest(&killed) < wanted && child.try_wait().unwrap().is_none() {
            assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint of step {wanted}");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        kills += usize::from(child.wait().unwrap().code().is_none());
    }
    assert!(kills > 0 && newest(&killed) < STEPS, "the run was over before it could be killed");
    assert!(command(&program, &killed).status().unwrap().success());

    let lines = metrics(&undisturbed);
    assert_eq!(lines, metrics(&killed));
    let [before, after] = [find(&undisturbed).unwrap(), find(&killed).unwrap()];
    for file in ["student.safetensors", "optimizer.safetensors", "config.toml"] {
        let read = |dir: &Path| std::fs::read(dir.join(file)).unwrap();
        assert!(read(before.dir()) == read(after.dir()), "{file} differs from the undisturbed run's");
    }
    assert!(!after.dir().join("teacher.safetensors").exists(), "there is no teacher");

    // it learns, and tells what POA tells of every step
    let accuracy = |step: usize| {
        let evaluated = lines.iter().find(|l| l["step"] == step && l.get("accuracy").is_some());
        evaluated.unwrap()["accuracy"].as_f64().unwrap()
    };
    assert!(accuracy(0) < 0.7 && accuracy(STEPS) > 0.9, "{} and {}", accuracy(0), accuracy(STEPS));
    let step = lines.iter().rfind(|l| l.get("loss").is_some()).unwrap();
    for key in ["lr", "weight_decay", "skipped", "images", "epoch", "grad_norm.mlp"] {
        assert!(step.get(key).is_some(), "no {key} in {step}");
    }
    assert!(step.get("teacher_momentum").is_none());
    let log = std::fs::read_to_string(killed.join("train.log")).unwrap();
    assert!(log.contains("resumed after") && log.contains(&format!("step {STEPS}/{STEPS}: loss")), "{log}");
    let events = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().to_string_lossy().contains("tfevents")
    };
    assert!(std::fs::read_dir(&killed).unwrap().any(events), "TensorBoard's events");
    std::fs::remove_dir_all(folder).unwrap();
}

//! The memory of a run stays as it is after its first steps. `kernels-tests/soak` watches a longer one more closely.
#![cfg(target_os = "linux")]

#[path = "support/program.rs"]
mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Folder, SMALL, text};

/// Most that it may grow, of what it was: caches and heaps of a short run are not settled to the per cent.
const SLACK: f64 = 0.15;

/// The resident memory of a process in KiB, if it is there.
fn resident(id: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[test]
fn memory_stays_flat_through_checkpoints_and_evaluations() {
    let folder = Folder::new("soak");
    let settings = [
        "train.OFFICIAL_EPOCH_LENGTH=10",
        "train.saveckp_freq=1",
        "train.keep_checkpoints=2",
        "train.batch_size_per_gpu=2",
        "crops.global_crops_size=16",
        "crops.local_crops_size=8",
        "evaluation.eval_period_iterations=10",
        "evaluation.train_images=20",
        "evaluation.val_images=10",
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_poa-gpu"))
        .args(["train", "--config=demo", "--device=cpu", "--data=shapes:300", "--steps=120", "--out"])
        .arg(folder.0.join("run"))
        .args(settings)
        .args(SMALL)
        .env("RAYON_NUM_THREADS", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut samples = Vec::new();
    while child.try_wait().unwrap().is_none() {
        samples.extend(resident(child.id()));
        std::thread::sleep(Duration::from_millis(5));
    }
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(samples.len() >= 50, "only {} samples of the memory", samples.len());
    let (third, last) = (samples.len() / 3, samples.len() * 5 / 6);
    let (early, late) = (median(&samples[third..samples.len() / 2]), median(&samples[last..]));
    println!("{} samples: {early} KiB, {late} KiB at the end", samples.len());
    assert!(late <= early * (1.0 + SLACK), "the memory grew from {early} to {late} KiB");
}

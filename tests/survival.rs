//! A run that is killed, runs out of disk, or finds its checkpoints damaged goes on as if nothing had
//! happened.
#![cfg(unix)]

#[path = "support/program.rs"]
mod support;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use poa_gpu::files::checkpoint::{Newest, checkpoints_in, find, newest_whole};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{Folder, SMALL};

/// A small network, a checkpoint after every second step, and never the end of what a test waits for.
const SETTINGS: [&str; 13] = [
    "train",
    "--device=cpu",
    "--resume",
    "data.spec=shapes:400",
    "train.batch_size_per_gpu=4",
    "train.log_every=1",
    "optim.epochs=60",
    "optim.warmup_epochs=5",
    "train.OFFICIAL_EPOCH_LENGTH=2",
    "train.saveckp_freq=1",
    "train.keep_checkpoints=2",
    "evaluation.train_images=20",
    "evaluation.val_images=10",
];

fn command(out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poa-gpu"));
    command
        .args(SETTINGS)
        .args(SMALL)
        .arg("--config=demo")
        .arg("--out")
        .arg(out)
        .env("RAYON_NUM_THREADS", "1");
    command
}

fn finish(out: &Path) -> Output {
    let done = command(out).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    done
}

fn spawn(out: &Path) -> Child {
    command(out).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The metrics of a run without what depends on the clock.
fn metrics(out: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("time");
        line
    });
    lines.collect()
}

/// What a finished run computed: its metrics without what depends on the clock, and its tensors.
fn result(out: &Path) -> (Vec<serde_json::Value>, Vec<Vec<u8>>) {
    let checkpoint = find(out).unwrap();
    let files = ["student.safetensors", "teacher.safetensors", "optimizer.safetensors"];
    (metrics(out), files.map(|f| std::fs::read(checkpoint.dir().join(f)).unwrap()).to_vec())
}

fn newest(out: &Path) -> usize {
    checkpoints_in(out.join("checkpoints")).unwrap().last().map_or(0, |(step, _)| *step)
}

/// Killed with SIGKILL at 50 random moments, from the start of the process to the writing of checkpoints;
/// afterwards the run has computed what an undisturbed one does.
#[test]
fn fifty_kills_lose_nothing_but_the_steps_since_the_last_checkpoint() {
    let folder = Folder::new("kills");
    let (undisturbed, out) = (folder.0.join("undisturbed"), folder.0.join("killed"));
    let started = Instant::now();
    finish(&undisturbed);
    let whole = started.elapsed();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut kills, mut before, mut moved) = (0, 0, 0);
    while kills < 50 {
        let mut child = spawn(&out);
        // mostly within the first steps after a resume; now and then right at the start
        let longest = if kills % 5 == 0 { 0.02 } else { 0.15 };
        std::thread::sleep(whole.mul_f64(rng.random_range(0.0..longest)));
        child.kill().unwrap();
        let killed = child.wait().unwrap().code().is_none();
        if !killed {
            // it came to its end: from the start, so that there are 50 kills
            std::fs::remove_dir_all(&out).unwrap();
            before = 0;
            continue;
        }
        kills += 1;
        // a complete checkpoint is never lost, and `latest` points at a complete one whenever it is there
        let after = newest(&out);
        assert!(after >= before, "kill {kills}: the newest checkpoint is {after}, it was {before}");
        moved += usize::from(after > before);
        before = after;
        let latest = out.join("checkpoints/latest");
        if latest.symlink_metadata().is_ok() {
            find(&latest).unwrap().verify().unwrap();
        }
    }
    assert!(moved >= 5, "the kills left no time for a checkpoint: {moved}");
    finish(&out);
    let (expected, got) = (result(&undisturbed), result(&out));
    assert_eq!(expected.0.len(), got.0.len());
    for (a, b) in expected.0.iter().zip(&got.0) {
        assert_eq!(a, b);
    }
    assert!(expected.1 == got.1, "parameters or moments differ from the undisturbed run's");
}

#[test]
fn damaged_checkpoints_are_passed_over() {
    let folder = Folder::new("damage");
    let out = folder.0.join("run");
    let mut child = spawn(&out);
    let started = Instant::now();
    while newest(&out) < 6 {
        assert!(started.elapsed() < Duration::from_secs(120), "no third checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let last = newest(&out);
    let file = out.join(format!("checkpoints/step-{last:08}/student.safetensors"));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&file, bytes).unwrap();
    let done = finish(&out);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("damaged checkpoint") && said.contains("student.safetensors"), "{said}");
    assert!(said.contains(&format!("resumed after {} of 120 steps", last - 2)), "{said}");
    let undisturbed = folder.0.join("undisturbed");
    finish(&undisturbed);
    assert!(result(&undisturbed) == result(&out), "not what an undisturbed run computes");
    // finished: nothing is left to do, and nothing changes
    let done = finish(&out);
    assert!(String::from_utf8_lossy(&done.stderr).contains("resumed after 120 of 120 steps"));
    assert!(result(&undisturbed) == result(&out));
}

/// Files may not grow beyond 64 KiB, as on a full disk: no checkpoint fits, nor the later metrics; training
/// goes on.
#[test]
fn without_room_for_checkpoints_training_goes_on_and_old_ones_stay() {
    let folder = Folder::new("quota");
    let out = folder.0.join("run");
    let mut child = spawn(&out);
    let started = Instant::now();
    while newest(&out) < 4 {
        assert!(started.elapsed() < Duration::from_secs(120), "no second checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (last, dir) = newest_whole(out.join("checkpoints")).unwrap().whole.unwrap();
    let mut limited = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\"";
    limited
        .args(["-c", script, env!("CARGO_BIN_EXE_poa-gpu")])
        .args(SETTINGS)
        .args(SMALL)
        .arg("--config=demo");
    let done = limited.arg("--out").arg(&out).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "the last checkpoint must not fail silently: {said}");
    assert!(said.contains("was not written, training goes on"), "{said}");
    assert!(said.lines().last().unwrap().contains("--resume"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let log = std::fs::read_to_string(out.join("train.log")).unwrap();
    assert!(log.contains("step 120/120"), "the steps were done: {log}");
    assert_eq!(
        newest_whole(out.join("checkpoints")).unwrap().whole,
        Some((last, dir)),
        "the old one is intact"
    );
    let leftovers: Vec<_> = std::fs::read_dir(out.join("checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("partial"))
        .collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
    // with room again the run is finished
    finish(&out);
    assert_eq!(newest(&out), 120);
}

/// A real file system of 3 MiB, where the system lets this process mount one.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_nothing() {
    let folder = Folder::new("disk");
    let mount = folder.0.join("small");
    std::fs::create_dir_all(&mount).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
        .arg(&mount)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        println!("mounting needs root; the limit on file sizes is what is tested here");
        return;
    }
    let out = mount.join("run");
    let done = command(&out).arg("train.keep_checkpoints=0").output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let Newest { whole: found, damaged, .. } = newest_whole(out.join("checkpoints")).unwrap();
    let log = std::fs::read_to_string(out.join("train.log")).unwrap_or_default();
    // with everything else out of the way, the same run goes on
    let old: Vec<_> = checkpoints_in(out.join("checkpoints")).unwrap();
    for (_, dir) in &old[..old.len().saturating_sub(1)] {
        std::fs::remove_dir_all(dir).unwrap();
    }
    let again = command(&out).output().unwrap();
    let end = newest(&out);
    let unmounted = Command::new("umount").arg(&mount).status().unwrap();
    assert!(unmounted.success());
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left on device") && said.contains("training goes on"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(damaged.is_empty(), "{damaged:?}");
    assert!(found.is_some(), "some checkpoints fitted: {said}");
    assert!(log.contains("step 1/120"), "{log}");
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(end, 120);
}

#[test]
fn two_processes_do_not_share_a_run() {
    let folder = Folder::new("lock");
    let out = folder.0.join("run");
    let mut child = spawn(&out);
    let started = Instant::now();
    while newest(&out) < 2 {
        assert!(started.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = command(&out).output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("another process") && said.contains(&out.display().to_string()), "{said}");
}

/// A run that an earlier version of the program began goes on as it did there. The record has the checkpoint
/// of step 4, in `centering` mode and with stochastic depth, and the metrics of all 8 steps on the CPU
/// device.
#[test]
fn a_run_of_an_earlier_version_goes_on() {
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures/checkpoint");
    let folder = Folder::new("earlier");
    let out = folder.0.join("run");
    let checkpoint = "checkpoints/step-00000004";
    std::fs::create_dir_all(out.join(checkpoint)).unwrap();
    let names = ["config", "manifest", "state", "student", "teacher", "optimizer"];
    let extensions = ["toml", "json", "json", "safetensors", "safetensors", "safetensors"];
    let files =
        names.iter().zip(extensions).map(|(name, extension)| format!("{checkpoint}/{name}.{extension}"));
    for file in files.chain(["config.toml".into(), "metrics.jsonl".into()]) {
        std::fs::copy(record.join(&file), out.join(&file)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_poa-gpu"));
    let done = command.args(["train", "--device=cpu", "--resume", "--out"]).arg(&out).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("resumed after 4 of 8 steps"), "{said}");
    let (expected, got) = (metrics(&record), metrics(&out));
    assert_eq!(expected.len(), got.len());
    for (a, b) in expected.iter().zip(&got) {
        let (a, b) = (a.as_object().unwrap(), b.as_object().unwrap());
        assert!(a.keys().eq(b.keys()), "{a:?} {b:?}");
        for ((key, a), b) in a.iter().zip(b.values()) {
            match (a.as_f64(), b.as_f64()) {
                // another processor, or a later version, may add up in another order. The entropy of targets that are
                // nearly certain is what is left of a difference, log p of the certain prototype: other last bits
                // of features move it by 2.4e-7 nats, however small it is
                (Some(a), Some(b)) => {
                    let least = if key.starts_with("target_entropy") { 5e-7 } else { 0.0 };
                    assert!((a - b).abs() <= 1e-4 * a.abs() + least, "{key}: {b}, it was {a}");
                }
                _ => assert_eq!(a, b, "{key}"),
            }
        }
    }
}

//! Limits that a system sets to a process, and devices that are less than they seem: one line says what is
//! missing, and nothing aborts or hangs.
#![cfg(unix)]

#[path = "support/program.rs"]
mod support;

use std::process::{Command, Output};

use support::{Folder, program, text};

const PROGRAM: &str = env!("CARGO_BIN_EXE_poa-gpu");

/// Two steps of a small network, with k-NN before and after.
const TRAIN: [&str; 15] = [
    "train",
    "--device=cpu",
    "--steps=2",
    "data.spec=shapes:200",
    "train.batch_size_per_gpu=2",
    "crops.local_crops_number=1",
    "student.min_embed_dim=16",
    "student.max_embed_dim=32",
    "student.min_depth=1",
    "evaluation.train_images=4",
    "evaluation.val_images=2",
    "evaluation.k=[1]",
    "evaluation.networks=[\"smallest\"]",
    "dino.head_n_prototypes=[16, 24]",
    "--out",
];

/// The program under what the shell does before it.
fn limited(shell: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell}; exec \"$0\" \"$@\""), PROGRAM]).args(args);
    command.env_remove("XDG_RUNTIME_DIR").env_remove("RAYON_NUM_THREADS");
    command
}

/// Ended by itself: with success, or with one line that has these texts.
#[track_caller]
fn ended_well(out: &Output, texts: &[&str]) {
    let said = text(&out.stderr);
    assert!(matches!(out.status.code(), Some(0 | 1)), "{:?}: {said}", out.status);
    assert!(!said.contains("panicked") && !said.contains("backtrace"), "{said}");
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("poa-gpu: ")).collect();
    assert_eq!(lines.len(), usize::from(!out.status.success()), "{said}");
    for line in lines {
        assert!(texts.iter().all(|t| line.contains(t)), "{texts:?} are not in {line}");
    }
}

#[test]
fn a_wish_for_threads_is_followed_within_reason() {
    let said = |wish: &str| {
        let out = Command::new(PROGRAM).arg("devices").env("RAYON_NUM_THREADS", wish).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        (text(&out.stderr), text(&out.stdout))
    };
    let (warning, devices) = said("3");
    assert!(warning.is_empty() && devices.contains("cpu (3 threads)"), "{warning}{devices}");
    assert!(said("100000").0.contains("RAYON_NUM_THREADS=100000 is far more than"));
    assert!(said("many").0.contains("RAYON_NUM_THREADS=\"many\" is no number of threads"));
    assert!(said("0").0.is_empty());
}

/// A process of a user who has no other.
#[cfg(target_os = "linux")]
#[test]
fn few_processes() {
    let as_nobody = |limit: usize, args: &[&str]| {
        // the user must see the program, and be somewhere
        let shell = format!("cd / && ulimit -u {limit}");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=61234", "--clear-groups", "sh", "-c"]);
        command.arg(format!("{shell} && exec \"$0\" \"$@\"")).arg(PROGRAM).args(args);
        command.env_remove("RAYON_NUM_THREADS").output().ok()
    };
    if as_nobody(64, &["--version"]).is_none_or(|out| !out.status.success()) {
        println!("to become another user needs root");
        return;
    }
    let out = as_nobody(1, &["devices"]).unwrap();
    assert_eq!(out.status.code(), Some(1));
    ended_well(&out, &["threads cannot be started", "ulimit -u", "RAYON_NUM_THREADS"]);
    // threads for the kernels, and fewer for the images
    let folder = Folder::new("processes");
    let run = folder.path("run");
    std::fs::create_dir(&run).unwrap();
    std::os::unix::fs::chown(&run, Some(61234), None).unwrap();
    for limit in [3, 4, 5] {
        let out = as_nobody(limit, &[&TRAIN[..], &[&run, "--resume"]].concat()).unwrap();
        ended_well(&out, &["ulimit -u"]);
    }
}

/// Drivers have nothing to complain about where there is no session.
#[test]
fn no_noise_of_drivers() {
    let out = program(&["devices"]);
    assert!(out.status.success() && out.stderr.is_empty(), "{}", text(&out.stderr));
    let out = Command::new(PROGRAM).arg("devices").env("XDG_RUNTIME_DIR", "").output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", text(&out.stderr));
}

#[test]
fn a_software_adapter_says_that_it_is_slow() {
    if !text(&program(&["devices"]).stdout).contains("0: llvmpipe") {
        println!("the first adapter is not Mesa's software adapter");
        return;
    }
    for device in ["gpu", "llvmpipe"] {
        let out = program(&["verify", "--device", device]);
        let said = text(&out.stderr);
        assert!(out.status.success(), "{said}");
        assert_eq!(said.matches("is a software adapter: it is slow, and --device cpu").count(), 1, "{said}");
    }
}

#[test]
fn little_stack_and_few_files() {
    let folder = Folder::new("limits");
    for shell in ["ulimit -s 128", "ulimit -S -n 8"] {
        let run = folder.path(&shell.replace(' ', ""));
        let out = limited(shell, &[&TRAIN[..], &[&run]].concat()).output().unwrap();
        assert!(out.status.success(), "{shell}: {}", text(&out.stderr));
    }
    for limit in [5, 8, 20] {
        let run = folder.path("few");
        let out = limited(&format!("ulimit -n {limit}"), &[&TRAIN[..], &[&run]].concat()).output().unwrap();
        assert_eq!(out.status.code(), Some(1));
        ended_well(&out, &[&format!("at most {limit} files"), "ulimit -n"]);
        assert!(!std::path::Path::new(&run).exists());
    }
}

/// Address space that is not enough for a start, for threads, for tensors, or enough.
#[cfg(target_os = "linux")]
#[test]
fn little_memory() {
    let folder = Folder::new("memory");
    for kib in [50_000, 60_000, 80_000, 120_000, 200_000, 400_000] {
        let run = folder.path(&format!("run-{kib}"));
        let out = limited(&format!("ulimit -v {kib}"), &[&TRAIN[..], &[&run]].concat()).output().unwrap();
        // the system's loader may need more than that
        if out.status.code() != Some(127) {
            ended_well(&out, &["ulimit -v"]);
        }
    }
    // a tensor that no machine holds
    let run = folder.path("large");
    let large = ["dino.head_hidden_dim=24000"];
    let out = limited("ulimit -v 2000000", &[&TRAIN[..], &[&run], &large].concat()).output().unwrap();
    ended_well(&out, &["out of memory: a tensor of", "MiB is not to be had", "ulimit -v"]);
    assert!(!out.status.success());
}

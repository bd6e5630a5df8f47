//! What is written to the terminal: how much, and what happens where it cannot be written.
#![cfg(unix)]

#[path = "support/program.rs"]
mod support;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use support::{Folder, printed, program, text};

/// Two steps of a small network, with k-NN before and after.
const TRAIN: [&str; 10] = [
    "train",
    "--device=cpu",
    "--steps=2",
    "data.spec=shapes:200",
    "train.batch_size_per_gpu=4",
    "train.log_every=1",
    "evaluation.train_images=20",
    "evaluation.val_images=10",
    "dino.head_n_prototypes=[16, 24]",
    "--out",
];

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poa-gpu"));
    command.args(args).env_remove("XDG_RUNTIME_DIR").env_remove("POA_LOG");
    command
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// The writing end of a pipe that nobody reads.
fn closed() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

#[track_caller]
fn has_trained(out: &Output, run: &str) {
    assert!(out.status.success(), "{:?}: {}", out.status, text(&out.stderr));
    assert!(std::path::Path::new(run).join("checkpoints/step-00000002/manifest.json").is_file());
    assert!(std::fs::read_to_string(format!("{run}/train.log")).unwrap().contains("step 2/2"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_terminal_ends_no_run() {
    let folder = Folder::new("full");
    let run = folder.path("run");
    let out = command(&[&TRAIN[..], &[&run]].concat()).stderr(full()).stdout(full()).output().unwrap();
    has_trained(&out, &run);
}

#[test]
fn a_closed_terminal_ends_no_run() {
    let folder = Folder::new("closed");
    let run = folder.path("run");
    let out = command(&[&TRAIN[..], &[&run]].concat()).stderr(closed()).stdout(closed()).output().unwrap();
    has_trained(&out, &run);
    // an error that cannot be shown keeps its status
    let out = command(&["train", "--config", "none.toml"]).stderr(closed()).output().unwrap();
    assert_eq!(out.status.code(), Some(1), "{:?}", out.status);
}

#[test]
fn results_that_are_lost_show_in_the_status() {
    for args in
        [&["config"][..], &["config", "--print-default"], &["completions", "bash"], &["--help"], &["devices"]]
    {
        #[cfg(target_os = "linux")]
        {
            let out = command(args).stdout(full()).output().unwrap();
            assert_eq!(out.status.code(), Some(1), "{args:?}");
            let said = text(&out.stderr);
            assert!(said.contains("poa-gpu: standard output cannot be written"), "{args:?}: {said}");
            // both full: nothing can be said, and nothing panics
            let out = command(args).stdout(full()).stderr(full()).output().unwrap();
            assert_eq!(out.status.code(), Some(1), "{args:?}");
        }
        let out = command(args).stdout(closed()).output().unwrap();
        assert_eq!(out.status.code(), Some(141), "{args:?}");
        assert!(
            !text(&out.stderr).contains("poa-gpu:") && !text(&out.stderr).contains("panicked"),
            "{args:?}"
        );
    }
}

#[test]
fn a_reader_may_leave_early() {
    let mut child = command(&["config"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(!first.is_empty());
    let out = child.wait_with_output().unwrap();
    assert!(matches!(out.status.code(), Some(0 | 141)), "{:?}", out.status);
    assert!(out.stderr.is_empty(), "{}", text(&out.stderr));
}

#[test]
fn verbosity_is_chosen_by_option_or_variable() {
    let folder = Folder::new("verbosity");
    let said = |run: &str, option: &[&str], variable: &str| {
        let run = folder.path(run);
        let mut command = command(&[&TRAIN[..], &[&run], option].concat());
        if !variable.is_empty() {
            command.env("POA_LOG", variable);
        }
        let out = command.output().unwrap();
        has_trained(&out, &run);
        text(&out.stderr)
    };
    // what is for train.log alone, and what is for everybody who watches
    let (note, news) = ("peak memory", "step 2/2  loss");
    let log = |run: &str| std::fs::read_to_string(folder.path(run) + "/train.log").unwrap();
    for (run, option, variable, has_note, has_news) in [
        ("normal", &[][..], "", false, true),
        ("v", &["-v"], "", true, true),
        ("debug", &[], "debug", true, true),
        ("q", &["-q"], "debug", false, false),
        ("warn", &[], "warn,wgpu_core=error", false, false),
    ] {
        let said = said(run, option, variable);
        assert_eq!((said.contains(note), said.contains(news)), (has_note, has_news), "{run}: {said}");
        assert!(log(run).contains(note), "{run}");
    }
    // a step is told once, and quiet runs tell their results
    let shown = said("once", &["-v"], "");
    assert_eq!(shown.lines().filter(|line| line.contains("step 2/2")).count(), 1, "{shown}");
    let (run, trace) = (folder.path("results"), folder.path("trace.json"));
    let out = command(&[&TRAIN[..], &[&run, "-q", "--profile", &trace]].concat()).output().unwrap();
    has_trained(&out, &run);
    let printed_too = text(&out.stdout);
    for words in ["before", "checkpoint:", "profile of", "trace.json"] {
        assert!(printed_too.contains(words), "{words} is not in {printed_too}");
    }
    assert!(!text(&out.stderr).contains("  loss"), "{}", text(&out.stderr));
    let out = command(&["devices"]).env("POA_LOG", "loud").output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("POA_LOG=\"loud\": `loud` is no level"), "{}", text(&out.stderr));
    assert_eq!(program(&["-v", "-q", "devices"]).status.code(), Some(2));
    assert!(printed(&["devices", "-v"]).contains("cpu:"));
    assert!(program(&["--version"]).status.success());
}

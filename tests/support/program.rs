//! Calling the program as a user does.
#![allow(dead_code)] // no test file calls all of it

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use poa_gpu::files::checkpoint::find;

pub fn program(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_poa-gpu")).args(args).env_remove("XDG_RUNTIME_DIR").output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A network and heads that are small enough for many steps a second.
pub const SMALL: [&str; 6] = [
    "student.min_embed_dim=16",
    "student.max_embed_dim=32",
    "student.min_depth=1",
    "dino.head_hidden_dim=32",
    "dino.head_bottleneck_dim=16",
    "dino.head_n_prototypes=[16, 24]",
];

/// A program that heeds signals, though the tests may have been started in the background or under nohup, where these
/// are ignored.
#[cfg(unix)]
pub fn heeding(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    let heed = || {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: no handler is installed, and a process may call this between fork and exec
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: what runs between fork and exec allocates nothing and takes no lock
    unsafe { command.pre_exec(heed) }
}

/// A folder of its own for a test, removed when it is over.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("poa-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Refused with this status, one line on standard error, and every one of these texts in it.
#[track_caller]
pub fn refused(args: &[&str], status: i32, texts: &[&str]) {
    let out = program(args);
    let error = text(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{args:?}: {error}");
    for t in texts {
        assert!(error.contains(t), "{args:?}: `{t}` is not in: {error}");
    }
    let lines: Vec<_> = error.lines().filter(|l| l.starts_with("poa-gpu:")).collect();
    assert_eq!(lines.len(), 1, "{args:?}: one line expected: {error}");
    assert!(!error.contains("panicked"), "{error}");
}

/// What a successful call prints.
#[track_caller]
pub fn printed(args: &[&str]) -> String {
    let out = program(args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

/// All lines of a run's metrics without what depends on the clock, and the tensors of its newest checkpoint.
pub fn result(out: &str) -> (Vec<serde_json::Value>, Vec<Vec<u8>>) {
    let metrics = std::fs::read_to_string(Path::new(out).join("metrics.jsonl")).unwrap();
    let lines = metrics.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("time");
        line
    });
    let checkpoint = find(out.as_ref()).unwrap();
    let files = ["student.safetensors", "teacher.safetensors", "optimizer.safetensors"];
    (lines.collect(), files.map(|f| std::fs::read(checkpoint.dir().join(f)).unwrap()).to_vec())
}

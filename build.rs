//! Puts the version with the commit into the program. No git is needed: a published crate notes its commit, and in a
//! clone git's files say it. Where neither is there (an archive, a wheel's sources), the version alone must do.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let (version, profile) = (variable("CARGO_PKG_VERSION"), variable("PROFILE"));
    // who changes the code builds it without: a new commit is no reason to compile everything again
    let commit = if profile == "release" { published().or_else(cloned) } else { None };
    let note = match profile.as_str() {
        "release" => commit.map(|commit| commit.chars().take(10).collect()),
        other => Some(format!("{other} build")),
    };
    let text = note.map_or(version.clone(), |note: String| format!("{version} ({note})"));
    println!("cargo::rustc-env=POA_GPU_VERSION={text}");
}

/// The commit that cargo noted when it packed the crate.
fn published() -> Option<String> {
    let path = ".cargo_vcs_info.json";
    let text = read(Path::new(path))?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    hash(rest.split('"').nth(1)?)
}

/// The commit of the clone that this is the root of; of no other repository that it may lie in.
fn cloned() -> Option<String> {
    let git = Path::new(".git");
    // in a worktree it is a file that says where its folder is
    let folder = match git.is_dir() {
        true => git.to_path_buf(),
        false => PathBuf::from(read(git)?.strip_prefix("gitdir:")?.trim()),
    };
    let head = read(&folder.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref:").map(str::trim) else { return hash(head.trim()) };
    // grows with every commit, also where the branch is packed away
    let _ = read(&folder.join("logs/HEAD"));
    // branches are shared by all worktrees
    let shared = read(&folder.join("commondir")).map_or(folder.clone(), |path| folder.join(path.trim()));
    if let Some(commit) = read(&shared.join(name)) {
        return hash(commit.trim());
    }
    let packed = read(&shared.join("packed-refs"))?;
    let line = packed.lines().find_map(|line| line.strip_suffix(name)?.strip_suffix(' '));
    hash(line?)
}

fn hash(text: &str) -> Option<String> {
    (text.len() >= 40 && text.chars().all(|c| c.is_ascii_hexdigit())).then(|| text.to_string())
}

/// A file's text, whose change is a reason to build again.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    Some(text)
}

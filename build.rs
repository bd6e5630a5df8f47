//! Puts the version with the commit into the program.

use std::path::Path;
use std::process::Command;

fn main() {
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = Command::new("git").args(["rev-parse", "--short=10", "HEAD"]).output();
    let commit = commit.ok().filter(|out| out.status.success());
    let commit = commit.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_string());
    // without git, as from an archive, the version alone must do
    let text = commit.map_or(version.clone(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=POA_GPU_VERSION={text}");
    println!("cargo::rerun-if-changed=build.rs");
    for path in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

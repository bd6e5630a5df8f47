//! `poa-gpu completions`: the script with which a shell completes arguments.

use clap::Command;
use clap_complete::{Shell, generate};

/// What the program is called.
const NAME: &str = "poa-gpu";
/// The same without the hyphen.
const PLAIN_NAME: &str = "poa_gpu";

/// The script for a shell; `root` is the whole program's command.
pub(super) fn script(shell: Shell, mut root: Command) -> String {
    // of a name with a hyphen, clap's script for bash calls the sub-commands otherwise where it finds out which one
    // is meant than where it looks that up; so a name without one goes in, and the right one where it is bound
    let name = if shell == Shell::Bash { PLAIN_NAME } else { NAME };
    let mut script = Vec::new();
    generate(shell, &mut root, name, &mut script);
    let script = String::from_utf8_lossy(&script);
    let bound = |line: &str| match line.strip_suffix(PLAIN_NAME) {
        Some(head) if head.trim_start().starts_with("complete ") => format!("{head}{NAME}\n"),
        _ => format!("{line}\n"),
    };
    script.lines().map(bound).collect()
}

//! What `--version` says of a build.

use std::fmt::Write;
use std::sync::LazyLock;

use crate::cpu;

/// The version, with the commit it was built from where that is known.
pub(super) const SHORT: &str = env!("POA_GPU_VERSION");

/// The same with what the build can do, and what of it this machine has.
pub(super) static LONG: LazyLock<String> = LazyLock::new(|| {
    let features = [
        ("cli", cfg!(feature = "cli")),
        ("poa", cfg!(feature = "poa")),
        ("images", cfg!(feature = "images")),
        ("charts", cfg!(feature = "charts")),
        ("progress", cfg!(feature = "progress")),
        ("mpi", cfg!(feature = "mpi")),
    ];
    let features: Vec<&str> = features.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    let backends: &[&str] = if cfg!(target_vendor = "apple") {
        &["Metal"]
    } else if cfg!(windows) {
        &["Vulkan", "DX12"]
    } else {
        &["Vulkan"]
    };
    let mut text = SHORT.to_string();
    // writing to a string cannot fail
    let _ = write!(text, "\nfeatures:     {}", features.join(", "));
    let _ = write!(text, "\nGPUs through: {}", backends.join(", "));
    let _ = write!(text, "\nCPU code:     {}", cpu::instruction_sets().join(", "));
    let _ = write!(text, "\ntarget:       {}-{}", std::env::consts::ARCH, std::env::consts::OS);
    text
});

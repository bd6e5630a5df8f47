//! libFuzzer over the targets; `run` beside this builds and starts it. `POA_FUZZ_TARGET` says which one is tried.
//! `POA_FUZZ_NOTES=DIR` is where panics
//! that were caught and the time of the slowest input go. With `POA_FUZZ_SEEDS=DIR` seeds, past failures and words of all targets are written there, and their names, with
//! the longest inputs, to standard output; nothing is tried.
#![no_main]

mod seeds;
mod targets;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use targets::{TARGETS, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();
/// Milliseconds of the slowest input so far.
static SLOWEST: AtomicU64 = AtomicU64::new(0);

libfuzzer_sys::fuzz_target!(init: prepare(), |bytes: &[u8]| {
    if let Some(target) = TARGET.get() {
        let begun = Instant::now();
        (target.run)(bytes);
        let took = begun.elapsed().as_millis() as u64;
        if SLOWEST.fetch_max(took, Ordering::Relaxed) < took && let Some(file) = note("slowest") {
            let _ = fs::write(file, took.to_string());
        }
    }
});

/// A file of what is noted for `run`.
fn note(name: &str) -> Option<PathBuf> {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    Some(DIR.get_or_init(|| std::env::var_os("POA_FUZZ_NOTES").map(PathBuf::from)).as_ref()?.join(name))
}

fn prepare() {
    if let Some(dir) = std::env::var_os("POA_FUZZ_SEEDS") {
        write_seeds(Path::new(&dir)).expect("seeds can be written");
        std::process::exit(0);
    }
    let name = std::env::var("POA_FUZZ_TARGET").expect("POA_FUZZ_TARGET names a target");
    let target = TARGETS.iter().find(|target| target.name == name).expect("there is such a target");
    TARGET.set(target).ok();
    // One that is caught is no failure: decoders may panic, and decoding answers for them. They are counted all the
    // same. libFuzzer ends at the others.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        if let Some(file) = note("panics") {
            let file = fs::File::options().append(true).create(true).open(file);
            let _ = file.and_then(|mut file| writeln!(file, "{}", panic.to_string().replace('\n', " ")));
        }
    }));
}

fn write_seeds(dir: &Path) -> std::io::Result<()> {
    for target in TARGETS {
        let corpus = dir.join(target.name);
        fs::create_dir_all(&corpus)?;
        for (i, seed) in (target.seeds)().iter().enumerate() {
            fs::write(corpus.join(format!("seed-{i}")), seed)?;
        }
        let failures = Path::new(env!("CARGO_MANIFEST_DIR")).join("failures").join(target.name);
        if let Ok(failures) = fs::read_dir(failures) {
            for failure in failures {
                let path = failure?.path();
                fs::copy(&path, corpus.join(path.file_name().unwrap_or_default()))?;
            }
        }
        let words: String = target
            .words
            .iter()
            .filter(|word| !word.is_empty())
            .map(|word| {
                let bytes: String = word.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
                format!("\"{bytes}\"\n")
            })
            .collect();
        fs::write(dir.join(format!("{}.words", target.name)), words)?;
        println!("{} {}", target.name, target.longest);
    }
    Ok(())
}

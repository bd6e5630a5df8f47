//! Every parser of foreign bytes on its seeds, on what once failed, and on some changes of both: nothing panics,
//! hangs or takes much memory. `kernels-tests/fuzz/run` looks for worse with libFuzzer.
//!
//! `POA_FUZZ_INPUTS` sets how many changes are tried of each target, `POA_FUZZ_TARGET` tries one alone.

#[path = "../kernels-tests/fuzz/seeds.rs"]
mod seeds;
#[path = "../kernels-tests/fuzz/targets.rs"]
mod targets;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use targets::{TARGETS, Target};

/// Changed inputs of each target.
const INPUTS: usize = 2000;
/// The longest that one input may take. Parsers take milliseconds; this machine may be busy.
const TIME: Duration = Duration::from_secs(5);
/// The most memory that this process may ever have held, MiB.
const MEMORY: usize = 1024;

/// What once failed, from `kernels-tests/fuzz/failures`.
fn failures(target: &Target) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fuzz/failures").join(target.name);
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths: std::collections::BTreeSet<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x1000_0000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// One of these inputs, changed in one to four places: bits, bytes, numbers, cuts, repeats, parts of another input,
/// words.
fn changed(inputs: &[Vec<u8>], target: &Target, rng: &mut ChaCha8Rng) -> Vec<u8> {
    let pick = |rng: &mut ChaCha8Rng, n: usize| rng.random_range(0..n.max(1));
    let mut bytes = inputs[pick(rng, inputs.len())].clone();
    for _ in 0..rng.random_range(1..=4) {
        let at = pick(rng, bytes.len() + 1);
        let part = |rng: &mut ChaCha8Rng, of: &[u8]| {
            let start = pick(rng, of.len() + 1);
            let end = start + pick(rng, (of.len() - start).min(64) + 1);
            of[start..end].to_vec()
        };
        match rng.random_range(0..9) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            2 if at < bytes.len() => bytes[at] = rng.random(),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..at + pick(rng, (bytes.len() - at).min(64) + 1))),
            5 => {
                let again = part(rng, &bytes);
                bytes.splice(at..at, again);
            }
            6 => {
                let other = &inputs[pick(rng, inputs.len())];
                let other = part(rng, other);
                let end = bytes.len().min(at + other.len());
                bytes.splice(at..end, other);
            }
            7 => {
                let (number, width) = (NUMBERS[pick(rng, NUMBERS.len())], 1 << rng.random_range(0..4));
                let little = &number.to_le_bytes()[..width];
                let big = &number.to_be_bytes()[8 - width..];
                let ascii = number.to_string();
                let number = [little, big, ascii.as_bytes()][pick(rng, 3)].to_vec();
                let end = bytes.len().min(at + number.len());
                bytes.splice(at..end, number);
            }
            _ if !target.words.is_empty() => {
                let word = target.words[pick(rng, target.words.len())].bytes();
                bytes.splice(at..at, word);
            }
            _ => {}
        }
    }
    bytes.truncate(target.longest);
    bytes
}

/// What is being tried, for whoever watches.
type Current = Arc<Mutex<(&'static str, Vec<u8>, Instant)>>;

/// An input as it can be put into a file again: `printf '...'`.
fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Tries everything; the slowest input of each target.
fn try_all(
    chosen: &[&'static Target],
    inputs: usize,
    current: &Current,
) -> BTreeMap<&'static str, (Duration, usize)> {
    let mut slowest = BTreeMap::new();
    for target in chosen {
        let mut known = (target.seeds)();
        known.extend(failures(target));
        let mut rng = ChaCha8Rng::seed_from_u64(16);
        let changes = (0..inputs).map(|_| changed(&known, target, &mut rng)).collect::<Vec<_>>();
        let started = Instant::now();
        let mut worst = Duration::ZERO;
        for input in known.iter().chain(&changes) {
            let begun = Instant::now();
            *current.lock().unwrap_or_else(PoisonError::into_inner) = (target.name, input.clone(), begun);
            let done = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
            assert!(done.is_ok(), "{} panics on `{}`", target.name, shown(input));
            worst = worst.max(begun.elapsed());
        }
        println!(
            "{}: {} inputs in {:?}, the slowest in {worst:?}",
            target.name,
            known.len() + inputs,
            started.elapsed()
        );
        slowest.insert(target.name, (worst, known.len() + inputs));
    }
    slowest
}

/// The most memory this process ever held, MiB; `None` where the system does not say.
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<usize>().ok()? / 1024)
}

#[test]
fn no_parser_panics_hangs_or_takes_much_memory() {
    let wanted = std::env::var("POA_FUZZ_TARGET").ok();
    let inputs = std::env::var("POA_FUZZ_INPUTS").map_or(INPUTS, |n| n.parse().unwrap());
    let chosen: Vec<&Target> =
        TARGETS.iter().filter(|target| wanted.as_ref().is_none_or(|name| name == target.name)).collect();
    assert!(!chosen.is_empty(), "there is no target {wanted:?}");
    let current: Current = Arc::new(Mutex::new(("", Vec::new(), Instant::now())));
    let worker = {
        let (current, chosen) = (current.clone(), chosen.clone());
        std::thread::spawn(move || try_all(&chosen, inputs, &current))
    };
    while !worker.is_finished() {
        std::thread::sleep(Duration::from_millis(50));
        let (target, input, begun) = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(
            target.is_empty() || begun.elapsed() < TIME,
            "{target} takes over {TIME:?} for `{}`",
            shown(&input)
        );
    }
    let tried = worker.join();
    std::fs::remove_dir_all(targets::scratch()).unwrap();
    let tried = tried.unwrap_or_else(|failure| std::panic::resume_unwind(failure));
    assert_eq!(tried.len(), chosen.len());
    if let Some(peak) = peak_memory() {
        println!("peak memory {peak} MiB");
        assert!(peak < MEMORY, "{peak} MiB were held");
    }
}

//! Single bits of a checkpoint, flipped one after the other in all its files: every way to use it refuses it with a
//! line that names a file of it, or takes from it exactly what was written.

#[path = "support/program.rs"]
mod support;

use std::path::{Path, PathBuf};

use poa_gpu::Result;
use poa_gpu::files::checkpoint::{Newest, find, newest_whole};
use poa_gpu::models::backbone::Backbone;
use poa_gpu::models::plain::Format;
use poa_gpu::recipes::teacher::{Teacher, config_of};
use poa_gpu::tensor::Device;
use poa_gpu::train::save::TEACHER;
use poa_gpu::weights::extract::Extraction;
use poa_gpu::weights::import::Import;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::Folder;

const FILES: [&str; 6] = [
    "config.toml",
    "manifest.json",
    "optimizer.safetensors",
    "state.json",
    "student.safetensors",
    "teacher.safetensors",
];
/// Flips anywhere; the first bytes of each file come on top.
const FLIPS: usize = 200;
const FIRST: usize = 64;

fn add(taken: &mut Vec<u8>, name: &str, values: &[f32]) {
    taken.extend(name.bytes());
    taken.extend(values.iter().flat_map(|v| v.to_le_bytes()));
}

/// What `train --init` takes from a checkpoint.
fn start(dir: &Path, backbone: &dyn Backbone) -> Result<Vec<u8>> {
    let import = Import::open(dir, backbone, &backbone.specs())?;
    let mut taken = Vec::new();
    import.fill(|name, values| {
        add(&mut taken, name, values);
        Ok(())
    })?;
    Ok(taken)
}

/// What `eval`, `features` and `visualize` take.
fn evaluation(dir: &Path) -> Result<Vec<u8>> {
    let teacher = Teacher::open(dir, &Device::cpu())?;
    let values = teacher.encoder().parameters.values();
    let mut taken =
        format!("{} {:?}\n{}", teacher.step, teacher.grid, teacher.config.to_toml()?).into_bytes();
    for place in values.layout().places() {
        add(&mut taken, &place.spec.name, &values.read(&place.spec.name)?);
    }
    Ok(taken)
}

/// What `extract` takes.
fn extraction(dir: &Path) -> Result<Vec<u8>> {
    let checkpoint = find(dir)?;
    let config = config_of(&checkpoint)?;
    let backbone = config.backbone()?;
    let file = checkpoint.tensors(TEACHER)?;
    let network = Extraction::new(&file, &*backbone, backbone.grid().intact(), Format::Timm)?
        .normalized(config.normalization()?);
    let mut taken = Vec::new();
    for spec in network.tensors() {
        add(&mut taken, &spec.name, &network.read(&spec.name)?);
    }
    Ok(taken)
}

/// The checkpoint that `train --resume` goes on from: it and no other, or a line on what is wrong with it.
fn resume(checkpoints: &Path, dir: &Path) -> Result<Vec<u8>> {
    let Newest { whole, mut damaged, .. } = newest_whole(checkpoints)?;
    match (whole, damaged.pop()) {
        (Some((step, found)), None) => {
            assert_eq!(found, dir);
            Ok(step.to_le_bytes().to_vec())
        }
        (None, Some(problem)) => {
            let aside = checkpoints.join("step-00000004.damaged");
            std::fs::rename(aside, dir).expect("it is set aside, so that it can still be looked at");
            Err(problem)
        }
        (whole, problem) => panic!("{whole:?} and {problem:?}"),
    }
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels-tests/fixtures/checkpoint/checkpoints");
    let folder = Folder::new("flips");
    let dir = folder.0.join("step-00000004");
    std::fs::create_dir_all(&dir).unwrap();
    let whole: Vec<(PathBuf, Vec<u8>)> = FILES
        .iter()
        .map(|name| (dir.join(name), std::fs::read(record.join("step-00000004").join(name)).unwrap()))
        .collect();
    for (path, bytes) in &whole {
        std::fs::write(path, bytes).unwrap();
    }
    let backbone = config_of(&find(&dir).unwrap()).unwrap().backbone().unwrap();
    let uses = |dir: &Path| {
        [
            ("train --resume", resume(&folder.0, dir)),
            ("train --init", start(dir, &*backbone)),
            ("eval", evaluation(dir)),
            ("extract", extraction(dir)),
        ]
    };
    let undamaged = uses(&dir).map(|(_, taken)| taken.unwrap());

    // anywhere, each byte of the checkpoint as likely as another, and in every file's beginning
    let mut rng = ChaCha8Rng::seed_from_u64(200);
    let total: usize = whole.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut places = Vec::new();
    for _ in 0..FLIPS {
        let mut at = rng.random_range(0..total);
        let file = whole.iter().position(|(_, bytes)| {
            let here = at < bytes.len();
            at -= if here { 0 } else { bytes.len() };
            here
        });
        places.push((file.unwrap(), at));
    }
    places.extend((0..FILES.len()).flat_map(|file| (0..FIRST).map(move |at| (file, at))));

    let (mut refused, mut harmless) = ([0; 4], [0; 4]);
    for (file, at) in places {
        let (path, bytes) = &whole[file];
        let (mut flipped, bit) = (bytes.clone(), rng.random_range(0..8));
        flipped[at] ^= 1 << bit;
        std::fs::write(path, flipped).unwrap();
        for (i, (name, taken)) in uses(&dir).into_iter().enumerate() {
            let place = format!("{name} with bit {bit} of byte {at} of {} flipped", FILES[file]);
            match taken {
                Ok(taken) => {
                    harmless[i] += 1;
                    assert!(taken == undamaged[i], "{place} takes something else than was written");
                }
                Err(problem) => {
                    refused[i] += 1;
                    let problem = problem.to_string();
                    let names_a_file = FILES.iter().any(|name| problem.contains(name))
                        || (FILES[file] == "manifest.json" && problem.contains("step-00000004"));
                    assert!(names_a_file && !problem.contains('\n'), "{place}: {problem}");
                }
            }
        }
        std::fs::write(path, bytes).unwrap();
    }
    println!("refused {refused:?}, harmless {harmless:?}");
    assert_eq!(harmless[0], 0, "a run goes on from what is whole alone");
    assert!(uses(&dir).map(|(_, taken)| taken.unwrap()) == undamaged);
}

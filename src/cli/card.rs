//! What a model card says of the run that a network comes from.

use std::path::Path;

use crate::files::checkpoint::Checkpoint;
use crate::models::grid::Network;
use crate::recipes::Config;
use crate::train::metrics::history;
use crate::train::save::RunState;
use crate::weights::card::RunFacts;

/// The facts about the run of a checkpoint, for a network of it; none where its numbers cannot be read, which a network does
/// not need.
pub(super) fn run_facts(
    checkpoint: &Checkpoint,
    config: &Config,
    intact: Network,
    network: Network,
) -> Option<RunFacts> {
    let state: RunState = checkpoint.state().ok()?;
    // RUN/checkpoints/step-N
    let folder = checkpoint.dir().canonicalize().unwrap_or_else(|_| checkpoint.dir().to_path_buf());
    let run = folder.parent().filter(|dir| dir.ends_with("checkpoints")).and_then(Path::parent);
    let name = run.unwrap_or(&folder).file_name().map(|name| name.to_string_lossy().into_owned());
    Some(RunFacts {
        name: name.unwrap_or_default(),
        arch: config.student.name().to_string(),
        intact,
        data: config.data.spec.to_string(),
        steps: state.step,
        seen: state.seen,
        seed: state.seed,
        knn: run.map(|run| knn(&run.join("metrics.jsonl"), network, state.step)).unwrap_or_default(),
    })
}

/// The newest k-NN results of a network that are no newer than the checkpoint.
fn knn(metrics: &Path, network: Network, most: u64) -> Vec<(u64, usize, f64)> {
    let all: Vec<(u64, usize, f64)> = history(metrics, &format!("knn.{network}."))
        .into_iter()
        .filter_map(|(step, key, top1)| Some((step as u64, key.rsplit('.').next()?.parse().ok()?, top1)))
        .filter(|(step, _, _)| *step <= most)
        .collect();
    let newest = all.iter().map(|(step, _, _)| *step).max();
    all.into_iter().filter(|(step, _, _)| Some(*step) == newest).collect()
}

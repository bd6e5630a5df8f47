//! `poa-gpu eval knn`: the nearest neighbours in feature space.

use clap::Args;
use serde_json::json;

use crate::cli::eval::common::{Common, Evaluated};
use crate::cli::eval::results::{columns, described, percent, plot, whole_numbers, write};
use crate::cli::eval::sets::Sets;
use crate::cli::network_table::{head, line};
use crate::cli::progress::bar;
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::eval::settings::MOST_NEIGHBOURS;
use crate::eval::{KnnOptions, knn_accuracies};
use crate::logging::warn;
use crate::shown::shown;

/// Arguments of `eval knn`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu eval knn --checkpoint runs/demo-1 --train shapes
  poa-gpu eval knn --checkpoint runs/photos --train folder:in/train --val folder:in/val --network small,base
  poa-gpu eval knn --checkpoint runs/photos --train folder:in/train --val folder:in/val --network all --out results")]
pub struct KnnArgs {
    /// What is evaluated
    #[command(flatten)]
    pub common: Common,
    /// On what
    #[command(flatten)]
    pub sets: Sets,
    /// Numbers of neighbours, several separated by spaces or commas
    #[arg(long, value_name = "K", allow_negative_numbers = true, num_args = 1.., default_values = ["10", "20", "100", "200"])]
    pub k: Vec<String>,
    /// Temperature of the neighbours' weights
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.07)]
    pub temperature: f64,
}

pub(super) fn run(args: &KnnArgs) -> Result<()> {
    let ks = neighbours(&args.k, args.sets.train_images)?;
    if args.temperature.is_nan() || args.temperature <= 0.0 {
        return Err(Error::Usage(format!("--temperature {} must be more than 0", args.temperature)));
    }
    let subject = Evaluated::open(&args.common)?;
    let sets = args.sets.open(&subject)?;
    subject.introduce();
    sets.introduce();
    let votes = sets.train.len();
    if let Some(k) = ks.iter().filter(|k| **k > votes).max() {
        warn(format_args!("--k {k} is more than the {votes} images that vote: it counts as {votes}"));
    }
    let options = KnnOptions { ks: ks.clone(), temperature: args.temperature, ..KnnOptions::default() };
    let accuracies = knn_accuracies(
        subject.teacher.encoder(),
        &subject.networks,
        (&sets.train, &sets.val),
        &options,
        &Collective::alone(),
        &mut bar(),
    )?;
    sets.note_unreadable();
    let heads: Vec<String> = ks.iter().map(|k| format!("k={k}")).collect();
    say!("\n{:<10} {:>12} {}", "network", "parameters", columns(&heads));
    for (network, top1) in subject.networks.iter().zip(&accuracies) {
        let cells: Vec<String> = top1.iter().map(|a| percent(*a)).collect();
        say!("{:<10} {:>12} {}", network.to_string(), subject.cost(*network).parameters, columns(&cells));
    }
    let Some(out) = &args.common.out else { return Ok(()) };
    let mut table = vec![head(&heads)];
    let mut results = Vec::new();
    for (network, top1) in subject.networks.iter().zip(&accuracies) {
        table.push(line(*network, subject.cost(*network), top1));
        let by_k: serde_json::Map<_, _> =
            ks.iter().zip(top1).map(|(k, a)| (k.to_string(), json!(a))).collect();
        results.push(described(*network, subject.cost(*network), json!({ "top1": by_k })));
    }
    write(out, "knn", &table, subject.about("knn", &sets.named()), results)?;
    for (i, k) in ks.iter().enumerate() {
        let top1: Vec<f64> = accuracies.iter().map(|a| a[i]).collect();
        plot(&subject, out, &format!("knn-{k}"), &format!("k-NN top-1, k = {k}"), &top1)?;
    }
    say!("\nresults: {}", shown(out));
    Ok(())
}

/// The numbers of neighbours that are asked for, each once; of `images` to learn from, 0 for all.
pub fn neighbours<S: AsRef<str>>(texts: &[S], images: usize) -> Result<Vec<usize>> {
    let ks = whole_numbers(texts)?;
    for &k in &ks {
        if !(1..=MOST_NEIGHBOURS).contains(&k) {
            return Err(Error::Usage(format!(
                "--k {k} must be 1 to {MOST_NEIGHBOURS}: so many neighbours of every image are kept in memory"
            )));
        }
        if images > 0 && k > images {
            return Err(Error::Usage(format!(
                "--k {k} is more than there are to choose from, --train-images {images}; let it be {} or less",
                images.min(MOST_NEIGHBOURS)
            )));
        }
    }
    Ok(ks)
}

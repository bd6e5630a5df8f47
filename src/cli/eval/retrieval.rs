//! `poa-gpu eval retrieval`: a gallery ranked by similarity.

use clap::Args;
use serde_json::json;

use crate::cli::eval::common::{Common, Evaluated, count, note_unreadable};
use crate::cli::eval::results::{columns, described, percent, plot, whole_numbers, write};
use crate::cli::eval::sets::{Pair, Sets};
use crate::cli::network_table::identity;
use crate::cli::progress::bar;
use crate::error::{Error, Result};
use crate::eval::{LabelledImages, RetrievalOptions, RetrievalScores, retrieval_scores};
use crate::logging::warn;
use crate::shown::shown;

/// Arguments of `eval retrieval`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu eval retrieval --checkpoint runs/demo-1 --train shapes:2000
  poa-gpu eval retrieval --checkpoint runs/photos --train folder:in/train --val folder:in/val --network all --out results
  poa-gpu eval retrieval --checkpoint runs/photos --train folder:in/val --within --k 1,5,10
--train is the gallery, --val are the queries. mAP is the mean average precision over the whole ranking, P@1 the share of
queries whose first image is of their class, R@k the share of a query's class that is among the first k, hit@k the share
of queries with an image of their class there, which metric learning calls recall at k.")]
pub struct RetrievalArgs {
    /// What is evaluated
    #[command(flatten)]
    pub common: Common,
    /// On what
    #[command(flatten)]
    pub sets: Sets,
    /// Every image of --train is a query for the others
    #[arg(long, conflicts_with_all = ["val", "val_images"])]
    pub within: bool,
    /// Numbers of images that are looked at, several separated by spaces or commas
    #[arg(long, value_name = "K", allow_negative_numbers = true, num_args = 1.., default_values = ["1", "5", "10"])]
    pub k: Vec<String>,
}

/// The gallery, and the queries where they are not its own images.
enum Images {
    Within(LabelledImages),
    Across(Pair),
}

impl Images {
    fn gallery(&self) -> &LabelledImages {
        match self {
            Self::Within(images) => images,
            Self::Across(pair) => &pair.train,
        }
    }

    fn queries(&self) -> Option<&LabelledImages> {
        match self {
            Self::Within(_) => None,
            Self::Across(pair) => Some(&pair.val),
        }
    }
}

pub(super) fn run(args: &RetrievalArgs) -> Result<()> {
    let ks = whole_numbers(&args.k)?;
    if ks.contains(&0) {
        return Err(Error::Usage("--k 0 must be at least 1".into()));
    }
    let subject = Evaluated::open(&args.common)?;
    let images = match args.within {
        true => Images::Within(args.sets.first(&subject)?),
        false => Images::Across(args.sets.open(&subject)?),
    };
    let (gallery, queries) = (images.gallery(), images.queries());
    let ranked = gallery.len() - usize::from(args.within && !gallery.is_empty());
    if let Some(k) = ks.iter().filter(|k| **k > ranked).max() {
        return Err(Error::Usage(format!(
            "--k {k} is more than the {ranked} images that a query ranks, of {}; let it be that or less",
            gallery.describe()
        )));
    }
    subject.introduce();
    count("gallery:", gallery);
    queries.iter().for_each(|queries| count("queries:", queries));
    let options = RetrievalOptions { ks: ks.clone(), ..RetrievalOptions::default() };
    let encoder = subject.teacher.encoder();
    let scores = retrieval_scores(encoder, &subject.networks, (gallery, queries), &options, &mut bar())?;
    note_unreadable("gallery", gallery);
    queries.iter().for_each(|queries| note_unreadable("query", queries));
    if let Some(RetrievalScores { without: without @ 1.., queries, .. }) = scores.first() {
        warn(format_args!(
            "{without} of {} queries have no image of their class in the gallery: they are left out",
            without + queries
        ));
    }
    let heads: Vec<String> =
        ["mAP".into(), "P@1".into()].into_iter().chain(ks.iter().map(|k| format!("R@{k}"))).collect();
    let heads: Vec<String> = heads.into_iter().chain(ks.iter().map(|k| format!("hit@{k}"))).collect();
    say!("\n{:<10} {:>12} {}", "network", "parameters", columns(&heads));
    for (network, scores) in subject.networks.iter().zip(&scores) {
        let cells: Vec<String> = all(scores).map(percent).collect();
        say!("{:<10} {:>12} {}", network.to_string(), subject.cost(*network).parameters, columns(&cells));
    }
    let Some(out) = &args.common.out else { return Ok(()) };
    let mut table = vec![format!("network,width,depth,parameters,flops,{}", heads.join(","))];
    let mut results = Vec::new();
    for (network, scores) in subject.networks.iter().zip(&scores) {
        let cost = subject.cost(*network);
        let numbers: Vec<String> = all(scores).map(|score| score.to_string()).collect();
        table.push(format!("{},{}", identity(*network, cost), numbers.join(",")));
        let by_k = |scores: &[f64]| -> serde_json::Map<_, _> {
            ks.iter().zip(scores).map(|(k, score)| (k.to_string(), json!(score))).collect()
        };
        let more = json!({
            "map": scores.map, "precision_at_1": scores.precision_at_1, "recall": by_k(&scores.recall),
            "hits": by_k(&scores.hits), "queries": scores.queries, "queries_without": scores.without,
        });
        results.push(described(*network, cost, more));
    }
    let sets: Vec<_> =
        [("gallery", gallery)].into_iter().chain(queries.map(|queries| ("queries", queries))).collect();
    write(out, "retrieval", &table, subject.about("retrieval", &sets), results)?;
    let first: Vec<f64> = scores.iter().map(|scores| scores.precision_at_1).collect();
    if first.iter().any(|share| share.is_finite()) {
        plot(&subject, out, "retrieval", "retrieval, precision at 1", &first)?;
    }
    say!("\nresults: {}", shown(out));
    Ok(())
}

/// In the order of the columns.
fn all(scores: &RetrievalScores) -> impl Iterator<Item = f64> {
    [scores.map, scores.precision_at_1].into_iter().chain(scores.recall.clone()).chain(scores.hits.clone())
}

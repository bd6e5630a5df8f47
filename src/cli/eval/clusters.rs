//! `poa-gpu eval clusters`: unsupervised classification by k-means.

use clap::Args;
use serde_json::json;

use crate::cli::eval::common::{Common, Evaluated, count, note_unreadable, several_classes, tell};
use crate::cli::eval::results::{columns, described, percent, plot, write};
use crate::cli::network_table::identity;
use crate::cli::progress::bar;
use crate::cli::subject::data_spec;
use crate::error::{Error, Result};
use crate::eval::kmeans::KMeansOptions;
use crate::eval::{ClusterOptions, ClusterScores, cluster_scores};
use crate::shown::shown;

/// Arguments of `eval clusters`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu eval clusters --checkpoint runs/demo-1 --data shapes:2000
  poa-gpu eval clusters --checkpoint runs/photos --data folder:in/val --network small,base --out results
ACC is the share of images whose cluster is that of their class under the best one-to-one map; ARI, NMI and FMI are the
adjusted Rand index, the normalised mutual information (arithmetic mean) and the Fowlkes-Mallows index.")]
pub struct ClustersArgs {
    /// What is evaluated
    #[command(flatten)]
    pub common: Common,
    /// Labelled images, as in `poa-gpu train --data`; labels are looked at only once the clusters are there
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub data: String,
    /// At most that many images, random ones; 0 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub images: usize,
    /// Number of clusters [default: that of the classes]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub clusters: Option<usize>,
    /// First centres that are tried; the clusters with the least inertia are kept
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 10)]
    pub starts: usize,
    /// Iterations of a start, at most
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 300)]
    pub iterations: usize,
    /// Divides features by their length first, so that their angles count
    #[arg(long)]
    pub normalize: bool,
    /// Start of every random sequence
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
}

pub(super) fn run(args: &ClustersArgs) -> Result<()> {
    for (name, value) in [("--starts", args.starts), ("--iterations", args.iterations)] {
        if value == 0 {
            return Err(Error::Usage(format!("{name} must be at least 1")));
        }
    }
    if let Some(k @ 0..2) = args.clusters {
        return Err(Error::Usage(format!("--clusters {k} must be at least 2")));
    }
    let subject = Evaluated::open(&args.common)?;
    let source = subject.source(&args.data)?;
    let images = subject.images(&source, args.images)?;
    let classes = images.present().len();
    several_classes(&images, classes)?;
    let clusters = args.clusters.unwrap_or(classes);
    if clusters > images.len() {
        return Err(Error::Usage(format!(
            "--clusters {clusters} is more than the {} images of {}; let it be that or less",
            images.len(),
            images.describe()
        )));
    }
    subject.make_folder()?;
    tell(&*source);
    subject.introduce();
    count("images:", &images);
    let k_means = KMeansOptions {
        starts: args.starts,
        iterations: args.iterations,
        seed: args.seed,
        ..KMeansOptions::default()
    };
    let options = ClusterOptions { k_means, normalize: args.normalize, ..ClusterOptions::new(clusters) };
    let encoder = subject.teacher.encoder();
    let scores = cluster_scores(encoder, &subject.networks, &images, &options, &mut bar())?;
    note_unreadable("labelled", &images);
    say!("k-means:  {clusters} clusters, the best of {} starts", args.starts);
    let heads = ["ACC", "ARI", "NMI", "FMI"].map(String::from);
    say!("\n{:<10} {:>12} {}", "network", "parameters", columns(&heads));
    for (network, scores) in subject.networks.iter().zip(&scores) {
        let cells = four(scores).map(percent);
        say!("{:<10} {:>12} {}", network.to_string(), subject.cost(*network).parameters, columns(&cells));
    }
    let Some(out) = &args.common.out else { return Ok(()) };
    let mut table =
        vec!["network,width,depth,parameters,flops,accuracy,ari,nmi,fmi,inertia,iterations".to_string()];
    let mut results = Vec::new();
    for (network, scores) in subject.networks.iter().zip(&scores) {
        let ([accuracy, ari, nmi, fmi], cost) = (four(scores), subject.cost(*network));
        let ClusterScores { inertia, iterations, .. } = scores;
        let identity = identity(*network, cost);
        table.push(format!("{identity},{accuracy},{ari},{nmi},{fmi},{inertia},{iterations}"));
        let more = json!({
            "accuracy": accuracy, "ari": ari, "nmi": nmi, "fmi": fmi, "inertia": inertia, "iterations": iterations,
        });
        results.push(described(*network, cost, more));
    }
    let mut about = subject.about("clusters", &[("data", &images)]);
    about["clusters"] = json!(clusters);
    about["normalize"] = json!(args.normalize);
    about["starts"] = json!(args.starts);
    about["seed"] = json!(args.seed);
    write(out, "clusters", &table, about, results)?;
    let accuracies: Vec<f64> = scores.iter().map(|scores| scores.agreement.accuracy).collect();
    plot(&subject, out, "clusters", "unsupervised classification, accuracy", &accuracies)?;
    say!("\nresults: {}", shown(out));
    Ok(())
}

/// In the order of the paper's table.
fn four(scores: &ClusterScores) -> [f64; 4] {
    let agreement = &scores.agreement;
    [agreement.accuracy, agreement.ari, agreement.nmi, agreement.fmi]
}

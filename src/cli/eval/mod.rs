//! `poa-gpu eval`: how good sub-networks are, on labelled images.

mod clusters;
mod common;
mod knn;
mod linear;
mod pareto;
mod results;
mod retrieval;
mod robustness;
mod sets;

use clap::Subcommand;

pub use clusters::ClustersArgs;
pub use common::Common;
pub use knn::{KnnArgs, neighbours};
pub use linear::LinearArgs;
pub use pareto::ParetoArgs;
pub use retrieval::RetrievalArgs;
pub use robustness::RobustnessArgs;
pub use sets::Sets;

use crate::error::Result;

/// The kinds of evaluation.
#[derive(Debug, Clone, Subcommand)]
pub enum EvalArgs {
    /// Classifies by the nearest neighbours in feature space; nothing is trained
    Knn(KnnArgs),
    /// Trains linear classifiers on frozen features: 13 learning rates, 1 or 4 blocks, with and without mean
    /// patch
    Linear(LinearArgs),
    /// Puts images into clusters by k-means, and compares these with the classes
    Clusters(ClustersArgs),
    /// Ranks a gallery by its similarity to query images: mean average precision, recall
    Retrieval(RetrievalArgs),
    /// Classifies images with covered cells, shuffled pieces or other backgrounds
    Robustness(Box<RobustnessArgs>),
    /// Compares accuracies with latency, parameters and operations, and draws the networks that none beats in both
    Pareto(Box<ParetoArgs>),
}

pub(super) fn run(args: &EvalArgs) -> Result<()> {
    match args {
        EvalArgs::Knn(args) => knn::run(args),
        EvalArgs::Linear(args) => linear::run(args),
        EvalArgs::Clusters(args) => clusters::run(args),
        EvalArgs::Retrieval(args) => retrieval::run(args),
        EvalArgs::Robustness(args) => robustness::run(args),
        EvalArgs::Pareto(args) => pareto::run(args),
    }
}

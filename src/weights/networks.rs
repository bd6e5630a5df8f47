//! Which sub-networks a command line asks for.

use crate::error::{Error, Result};
use crate::models::grid::{ElasticGrid, Network};
use crate::shown::shown;

/// Names that every grid knows.
const NAMES: [&str; 4] = ["smallest", "middle", "intact", "all"];

/// The networks of `choices`, in that order and each once. A choice is `WIDTHxDEPTH`, smallest, middle,
/// intact, all, or (where the grid has it) a name of the paper's; several may stand in one, separated by
/// commas or spaces.
pub fn choose<S: AsRef<str>>(grid: &ElasticGrid, choices: &[S]) -> Result<Vec<Network>> {
    let mut chosen: Vec<Network> = Vec::new();
    let words = choices.iter().flat_map(|c| c.as_ref().split([',', ' '])).filter(|word| !word.is_empty());
    for word in words {
        let networks = match word {
            "all" => grid.entries().iter().map(|(network, _)| *network).collect(),
            _ => vec![one(grid, word)?],
        };
        for network in networks {
            if !chosen.contains(&network) {
                chosen.push(network);
            }
        }
    }
    if chosen.is_empty() {
        return Err(Error::Usage(format!("no sub-network is named; {}", known(grid))));
    }
    Ok(chosen)
}

fn one(grid: &ElasticGrid, word: &str) -> Result<Network> {
    if let Some((_, network)) = grid.paper().iter().find(|(name, _)| *name == word) {
        return match has(grid, *network) {
            true => Ok(*network),
            false => Err(Error::Usage(format!(
                "`{word}` is the paper's {network}, which this grid does not have; {}",
                known(grid)
            ))),
        };
    }
    grid.named(word).map_err(|_| {
        let nearest = match parse(word) {
            Some(wanted) => nearest_size(grid, wanted),
            None => nearest_name(grid, word),
        };
        let (word, known) = (shown(word), known(grid));
        Error::Usage(format!("there is no sub-network `{word}`; the nearest is {nearest}; {known}"))
    })
}

fn has(grid: &ElasticGrid, network: Network) -> bool {
    grid.entries().iter().any(|(known, _)| *known == network)
}

fn parse(word: &str) -> Option<Network> {
    let (width, depth) = word.split_once('x')?;
    Some(Network::new(width.parse().ok()?, depth.parse().ok()?))
}

/// The network whose width and depth are nearest in proportion, both alike.
fn nearest_size(grid: &ElasticGrid, wanted: Network) -> String {
    let ratio = |a: usize, b: usize| (a.max(1) as f64 / b.max(1) as f64).ln().abs();
    let distance = |n: &Network| ratio(n.width, wanted.width) + ratio(n.depth, wanted.depth);
    let networks = grid.entries().iter().map(|(network, _)| *network);
    networks
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .map_or_else(|| grid.intact().to_string(), |n| n.to_string())
}

fn nearest_name(grid: &ElasticGrid, word: &str) -> String {
    let names = names(grid).map(str::to_string).chain(grid.entries().iter().map(|(n, _)| n.to_string()));
    names
        .max_by(|a, b| strsim::jaro_winkler(a, word).total_cmp(&strsim::jaro_winkler(b, word)))
        .unwrap_or_default()
}

/// The names that work for a grid.
fn names(grid: &ElasticGrid) -> impl Iterator<Item = &'static str> {
    let paper = grid.paper().iter().filter(|(_, network)| has(grid, *network)).map(|(name, _)| *name);
    NAMES.into_iter().chain(paper)
}

fn known(grid: &ElasticGrid) -> String {
    let names: Vec<&str> = names(grid).collect();
    format!("WIDTHxDEPTH from {} to {}, {} work", grid.smallest(), grid.intact(), names.join(", "))
}

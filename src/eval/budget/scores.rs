//! How accurate each network is: a sweep of k-NN over the sub-networks, as `eval knn` leaves it.

use std::fs::File;
use std::path::Path;

use csv::ReaderBuilder;

use crate::error::{Error, Result};
use crate::eval::budget::table::not_csv;
use crate::models::grid::{ElasticGrid, Network};
use crate::shown::shown;

/// Columns of sizes and costs: accuracies are in the others.
const OTHERS: [&str; 8] =
    ["network", "width", "depth", "parameters", "flops", "memory", "latency_ms", "measured"];
/// The column that is taken where it is there.
const USUAL: &str = "k=20";

/// Accuracies of networks, 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// What they are called: the column.
    pub name: String,
    scores: Vec<(Network, f64)>,
}

impl Scores {
    /// Accuracies under a name.
    pub fn new(name: impl Into<String>, scores: Vec<(Network, f64)>) -> Self {
        Self { name: name.into(), scores }
    }

    /// Reads a table with the columns `network` and `column`; without one `k=20`, or else the first that is an accuracy. Networks that the grid
    /// does not have are errors.
    pub fn read(path: &Path, column: Option<&str>, grid: &ElasticGrid) -> Result<Self> {
        let wrong = |problem: String| Error::file(path, problem);
        let file = File::open(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        Self::parse(file, column, grid).map_err(wrong)
    }

    /// The same of a table that is read from anywhere; the error is what is wrong with it.
    pub fn parse(
        text: impl std::io::Read,
        column: Option<&str>,
        grid: &ElasticGrid,
    ) -> std::result::Result<Self, String> {
        let mut reader = ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
        let header = reader.headers().map_err(|e| not_csv(&e))?.clone();
        let place = |name: &str| header.iter().position(|column| column == name);
        let accuracies = || header.iter().filter(|column| !OTHERS.contains(column));
        let chosen = match column {
            Some(name) => place(name).map(|at| (at, name)),
            None => place(USUAL)
                .map(|at| (at, USUAL))
                .or_else(|| accuracies().next().and_then(|name| Some((place(name)?, name)))),
        };
        let (Some(names), Some((at, name))) = (place("network"), chosen) else {
            let found: Vec<_> = accuracies().take(12).map(|column| shown(column).into_owned()).collect();
            return Err(match column {
                Some(column) => {
                    format!("has no accuracies called `{}`; there are {}", shown(column), found.join(", "))
                }
                None => "is no table of accuracies: its first line has to name the columns `network` and, for example, `k=20`; \
                         `poa-gpu eval knn --network all --out DIR` writes one"
                    .to_string(),
            });
        };
        let mut scores: Vec<(Network, f64)> = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|e| not_csv(&e))?;
            let line = record.position().map_or(0, csv::Position::line);
            let (network, text) = (record.get(names).unwrap_or(""), record.get(at).unwrap_or(""));
            let network = grid.named(network).map_err(|e| format!("line {line}: {e}"))?;
            let Some(score) = text.parse::<f64>().ok().filter(|score| (0.0..=1.0).contains(score)) else {
                return Err(format!("line {line}: `{}` is no accuracy; give numbers of 0 to 1", shown(text)));
            };
            if scores.iter().any(|(known, _)| *known == network) {
                return Err(format!("line {line}: {network} is there twice"));
            }
            scores.push((network, score));
        }
        match scores.is_empty() {
            true => Err("has no network in it; give a line a network".into()),
            false => Ok(Self { name: name.to_string(), scores }),
        }
    }

    /// A network's accuracy.
    pub fn of(&self, network: Network) -> Option<f64> {
        self.scores.iter().find(|(known, _)| *known == network).map(|(_, score)| *score)
    }
}

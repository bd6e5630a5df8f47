//! Latencies that were measured elsewhere, as on a phone: a table in CSV.

use std::fs::File;
use std::path::Path;

use csv::ReaderBuilder;

use crate::error::{Error, Result};
use crate::models::grid::{ElasticGrid, Network};
use crate::shown::shown;

/// What a column of names is called.
const NAMES: [&str; 3] = ["network", "model", "name"];
/// What a column of latencies is called, and how many seconds one is.
const LATENCIES: [(&str, f64); 9] = [
    ("latency_ms", 1e-3),
    ("ms", 1e-3),
    ("milliseconds", 1e-3),
    ("latency_us", 1e-6),
    ("us", 1e-6),
    ("microseconds", 1e-6),
    ("latency_s", 1.0),
    ("s", 1.0),
    ("seconds", 1.0),
];

/// Networks and their latencies.
#[derive(Clone, Debug, PartialEq)]
pub struct LatencyTable(Vec<(Network, f64)>);

impl LatencyTable {
    /// Reads a table of networks of `grid`: a line of columns (`network`, `latency_ms`, `latency_us` or `latency_s`, others are passed over), then
    /// a line a network. Rows without a latency are passed over. Networks that the grid does not have, and those named twice, are errors.
    pub fn read(path: &Path, grid: &ElasticGrid) -> Result<Self> {
        let wrong = |problem: String| Error::file(path, problem);
        let file = File::open(path).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        Self::parse(file, grid).map_err(wrong)
    }

    /// The same of a table that is read from anywhere; the error is what is wrong with it.
    pub fn parse(text: impl std::io::Read, grid: &ElasticGrid) -> std::result::Result<Self, String> {
        let mut reader = ReaderBuilder::new().trim(csv::Trim::All).from_reader(text);
        let header = reader.headers().map_err(|e| not_csv(&e))?.clone();
        let columns: Vec<String> = header.iter().map(|column| column.to_lowercase()).collect();
        let place = |name: &str| columns.iter().position(|column| column == name);
        let names = NAMES.iter().find_map(|name| place(name));
        let latencies = LATENCIES.iter().find_map(|(name, one)| Some((place(name)?, *one)));
        let (Some(names), Some((latencies, one))) = (names, latencies) else {
            let found: Vec<_> = header.iter().take(12).map(|column| shown(column).into_owned()).collect();
            return Err(format!(
                "is no table of latencies: its first line has to name the columns `network` and `latency_ms` (or `latency_us`, \
                 `latency_s`); it has {}",
                found.join(", ")
            ));
        };
        let mut table: Vec<(Network, f64)> = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|e| not_csv(&e))?;
            let line = record.position().map_or(0, csv::Position::line);
            let (name, text) = (record.get(names).unwrap_or(""), record.get(latencies).unwrap_or(""));
            if text.is_empty() {
                continue;
            }
            let network = grid.named(name).map_err(|e| format!("line {line}: {e}"))?;
            let seconds = text.parse::<f64>().ok().map(|x| x * one);
            let Some(seconds) = seconds.filter(|s| *s > 0.0 && s.is_finite()) else {
                return Err(format!("line {line}: `{}` is no latency; give a number above 0", shown(text)));
            };
            if table.iter().any(|(known, _)| *known == network) {
                return Err(format!("line {line}: {network} is there twice"));
            }
            table.push((network, seconds));
        }
        match table.is_empty() {
            true => Err("has no latency in it; give a line a network".into()),
            false => Ok(Self(table)),
        }
    }

    /// A network's seconds.
    pub fn seconds(&self, network: Network) -> Option<f64> {
        self.0.iter().find(|(known, _)| *known == network).map(|(_, seconds)| *seconds)
    }
}

/// What is wrong with text that is no table.
pub(super) fn not_csv(e: &csv::Error) -> String {
    format!("cannot be read as a table (CSV): {}", shown(&e.to_string()))
}

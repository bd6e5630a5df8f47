//! Results as tables on the terminal, as CSV and JSON, and as charts.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::eval::common::Evaluated;
use crate::error::{Error, Result};
use crate::files::durable::replace_file;
use crate::models::backbone::Cost;
use crate::models::grid::Network;
use crate::plot;
use crate::shown::shown;

/// The whole numbers that --k asks for, each once.
pub(super) fn whole_numbers<S: AsRef<str>>(texts: &[S]) -> Result<Vec<usize>> {
    let mut ks = Vec::new();
    for word in texts.iter().flat_map(|k| k.as_ref().split([',', ' '])).filter(|word| !word.is_empty()) {
        let k: usize = word.parse().map_err(|_| {
            Error::Usage(format!("--k: `{}` is no whole number; give some, as in --k 10,20", shown(word)))
        })?;
        if !ks.contains(&k) {
            ks.push(k);
        }
    }
    match ks.is_empty() {
        true => Err(Error::Usage("--k names no number; give some, as in --k 10,20".into())),
        false => Ok(ks),
    }
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

pub(super) fn columns(cells: &[String]) -> String {
    cells.iter().map(|cell| format!("{cell:>8}")).collect()
}

/// A network's entry in the JSON file.
pub(super) fn described(n: Network, cost: Cost, more: Value) -> Value {
    let mut entry = json!({
        "network": n.to_string(), "width": n.width, "depth": n.depth,
        "parameters": cost.parameters, "flops": cost.flops,
    });
    if let (Value::Object(entry), Value::Object(more)) = (&mut entry, more) {
        entry.extend(more);
    }
    entry
}

/// Writes `<name>.csv` and `<name>.json`.
pub(super) fn write(
    out: &Path,
    name: &str,
    table: &[String],
    mut about: Value,
    results: Vec<Value>,
) -> Result<()> {
    about["networks"] = Value::Array(results);
    let csv = table.join("\n") + "\n";
    replace_file(&out.join(format!("{name}.csv")), csv.as_bytes())?;
    replace_file(&out.join(format!("{name}.json")), format!("{about:#}\n").as_bytes())
}

/// Draws accuracies over width and depth and over parameters, where there is more than one network.
pub(super) fn plot(evaluated: &Evaluated, out: &Path, name: &str, title: &str, scores: &[f64]) -> Result<()> {
    if evaluated.networks.len() < 2 {
        return Ok(());
    }
    // networks with stages have several of a width and depth; the best one stands for them
    let mut best: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for (n, a) in evaluated.networks.iter().zip(scores) {
        let cell = best.entry((n.width, n.depth)).or_insert(*a);
        *cell = cell.max(*a);
    }
    let cells: Vec<(usize, usize, f64)> = best.into_iter().map(|((w, d), a)| (w, d, a)).collect();
    plot::accuracy_surface(&cells, title, &out.join(format!("{name}-surface")))?;
    let labels: Vec<String> = evaluated.networks.iter().map(ToString::to_string).collect();
    let points: Vec<(f64, f64, &str)> = evaluated
        .networks
        .iter()
        .zip(scores)
        .zip(&labels)
        .map(|((n, a), label)| (evaluated.cost(*n).parameters as f64, *a, label.as_str()))
        .collect();
    let grid = &evaluated.teacher.grid;
    let named: Vec<(String, &str)> = [(grid.intact().to_string(), "intact")]
        .into_iter()
        .chain(grid.paper().iter().map(|(name, network)| (network.to_string(), *name)))
        .collect();
    let named: Vec<(&str, &str)> = named.iter().map(|(label, name)| (label.as_str(), *name)).collect();
    plot::accuracy_over_parameters(&points, &named, title, &out.join(format!("{name}-parameters")))
}

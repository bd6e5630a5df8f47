//! The tables that `poa-gpu eval --out` leaves: the accuracy of many sub-networks.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::files::regular::read_text;
use crate::shown::shown;

/// Bytes of a table that has every network of the largest grid many times over.
const MOST_BYTES: u64 = 8 << 20;
/// Tables of one report.
const MOST_TABLES: usize = 24;
/// Networks of one table; more cannot be told apart.
const MOST_ROWS: usize = 5000;
/// What a table of `eval` begins with.
const COLUMNS: [&str; 5] = ["network", "width", "depth", "parameters", "flops"];

/// The tables in a run's folder and in folders of it.
pub fn in_run(dir: &Path) -> Vec<Value> {
    let folders = entries(dir).into_iter().filter(|path| path.is_dir() && !path.is_symlink());
    let all = std::iter::once(dir.to_path_buf()).chain(folders).flat_map(|folder| entries(&folder));
    let tables = all.filter(|path| path.extension().is_some_and(|e| e == "csv"));
    tables
        .filter_map(|path| read_text(&path, MOST_BYTES).ok().and_then(|text| table(&path, dir, &text)))
        .take(MOST_TABLES)
        .collect()
}

/// The tables that were named: files, or folders that hold some. One without any is an error.
pub fn named(paths: &[PathBuf]) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for path in paths {
        let found = match path.is_dir() {
            true => in_run(path),
            false => {
                let text = read_text(path, MOST_BYTES)?;
                table(path, path.parent().unwrap_or(path), &text).into_iter().collect()
            }
        };
        if found.is_empty() {
            return Err(Error::file(
                path,
                format!(
                    "has no table of sub-networks ({}, ...); give what `poa-gpu eval knn --network all --out` writes",
                    COLUMNS.join(",")
                ),
            ));
        }
        all.extend(found);
    }
    Ok(all)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.sort();
    all
}

/// The table of a file, called by its path below `dir`; `None` where it is none of these.
pub fn table(path: &Path, dir: &Path, text: &str) -> Option<Value> {
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next()?.split(',').collect();
    let scores = head.strip_prefix(&COLUMNS)?;
    let mut rows = Vec::new();
    for line in lines.take(MOST_ROWS) {
        let cells: Vec<&str> = line.split(',').collect();
        let Some(network) = cells.first().filter(|_| cells.len() == head.len()) else { continue };
        let numbers: Vec<f64> = cells[1..].iter().filter_map(|cell| cell.trim().parse().ok()).collect();
        if numbers.len() + 1 == head.len() && numbers.iter().all(|number| number.is_finite()) {
            rows.push(json!([shown(*network), numbers]));
        }
    }
    let name = path.strip_prefix(dir).unwrap_or(path);
    let scores: Vec<_> = scores.iter().map(|name| shown(*name)).collect();
    (!rows.is_empty() && !scores.is_empty())
        .then(|| json!({ "name": shown(name), "scores": scores, "rows": rows }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_as_far_as_they_are_some() {
        let read = |text: &str| table("r/sweeps/a.csv".as_ref(), "r".as_ref(), text);
        let found = read(
            "network,width,depth,parameters,flops,k=10\n48x2,48,2,10,20,0.5\ntorn,4\n48x3,48,3,1,2,NaN\n",
        )
        .unwrap();
        assert_eq!(found["name"], "sweeps/a.csv");
        assert_eq!(found["rows"], json!([["48x2", [48.0, 2.0, 10.0, 20.0, 0.5]]]));
        assert!(read("a,b\n1,2\n").is_none() && read("").is_none());
        assert!(read("network,width,depth,parameters,flops\n48x2,48,2,10,20\n").is_none());
    }
}

//! Tables of what was measured.

use serde_json::json;

use crate::case::Measured;

/// Columns of [`row`].
pub const HEADING: &str =
    "| kernel | poa-gpu | burn | ratio | first call: poa-gpu | burn | error |\n|---|---|---|---|---|---|---|";

impl Measured {
    /// How many times as long burn takes.
    pub fn ratio(&self) -> f64 {
        self.median[1] / self.median[0]
    }
}

/// A row of the table, times in milliseconds or, of first calls, in seconds.
pub fn row(m: &Measured) -> String {
    format!(
        "| {} | {:.2} ms | {:.2} ms | {:.2} | {:.2} s | {:.1} s | {:.0e} |",
        m.name,
        m.median[0] * 1e3,
        m.median[1] * 1e3,
        m.ratio(),
        m.first[0],
        m.first[1],
        m.error
    )
}

/// The whole table.
pub fn markdown(all: &[Measured]) -> String {
    let rows: Vec<String> = all.iter().map(|m| row(m) + "\n").collect();
    format!("{HEADING}\n{}", rows.concat())
}

/// Everything, in seconds.
pub fn json(all: &[Measured], adapter: &str) -> String {
    let side = |m: &Measured, i: usize| json!({ "median": m.median[i], "shortest": m.range[i][0], "longest": m.range[i][1], "first": m.first[i] });
    let kernel = |m: &Measured| {
        json!({
            "name": m.name,
            "rounds": m.rounds,
            "ratio": m.ratio(),
            "error": m.error,
            "poa-gpu": side(m, 0),
            "burn": side(m, 1),
        })
    };
    let all: Vec<_> = all.iter().map(kernel).collect();
    format!("{:#}\n", json!({ "adapter": adapter, "kernels": all }))
}

//! Tables in CSV with a line a network: its name and sizes, then numbers.

use crate::models::backbone::Cost;
use crate::models::grid::Network;

/// The first line, with the names of the numbers.
pub(super) fn head<S: AsRef<str>>(numbers: &[S]) -> String {
    let numbers: Vec<&str> = numbers.iter().map(AsRef::as_ref).collect();
    format!("network,width,depth,parameters,flops,{}", numbers.join(","))
}

/// A network's first columns.
pub(super) fn identity(n: Network, cost: Cost) -> String {
    format!("{n},{},{},{},{}", n.width, n.depth, cost.parameters, cost.flops)
}

/// A network's line.
pub(super) fn line(n: Network, cost: Cost, numbers: &[f64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(f64::to_string).collect();
    format!("{},{}", identity(n, cost), numbers.join(","))
}

//! `poa-gpu eval pareto`: accuracy over latency, parameters and operations, and the networks that none beats.

use clap::Args;
use serde_json::json;

use crate::cli::eval::common::{Common, Evaluated};
use crate::cli::eval::results::{columns, described, percent, write};
use crate::cli::network_table::{head, identity};
use crate::cli::prices::PriceArgs;
use crate::error::{Error, Result};
use crate::eval::budget::{Price, front};
use crate::logging::warn;
use crate::plot::{Priced, accuracy_over_cost};
use crate::shown::shown;

/// Arguments of `eval pareto`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu eval pareto --checkpoint runs/demo-1 --network all --out results
  poa-gpu eval pareto --checkpoint runs/photos --network all --sweep sweep --latency phone.csv --out results
Writes pareto.csv and pareto.json, and pareto-latency, pareto-parameters and pareto-flops as PNG and SVG. pareto.csv can be
--latency and --sweep of `extract --fits`.")]
pub struct ParetoArgs {
    /// What is compared
    #[command(flatten)]
    pub common: Common,
    /// Costs and accuracies
    #[command(flatten)]
    pub prices: PriceArgs,
}

/// A kind of cost: its name in files, how its axis is called, and what a network costs in that unit.
type Axis = (&'static str, &'static str, fn(&Price) -> f64);

const AXES: [Axis; 3] = [
    ("latency", "latency (ms)", |price| price.latency.map_or(f64::NAN, |latency| 1e3 * latency.seconds)),
    ("parameters", "parameters (millions)", |price| price.parameters as f64 / 1e6),
    ("flops", "operations of an image (GFLOPs)", |price| price.flops as f64 / 1e9),
];

pub(super) fn run(args: &ParetoArgs) -> Result<()> {
    args.prices.check()?;
    let subject = Evaluated::open(&args.common)?;
    subject.introduce();
    let scores = args.prices.scores(&subject.teacher)?;
    let scored = subject.networks.iter().filter_map(|network| Some((*network, scores.of(*network)?)));
    let (networks, accuracies): (Vec<_>, Vec<f64>) = scored.unzip();
    if networks.is_empty() {
        return Err(Error::Usage(format!("none of the networks has an accuracy ({})", scores.name)));
    }
    if networks.len() < subject.networks.len() {
        let without = subject.networks.len() - networks.len();
        warn(format_args!("{without} networks have no accuracy ({}), and are left out", scores.name));
    }
    subject.make_folder()?;
    let device = subject.teacher.encoder().device;
    let prices = args.prices.prices(&subject.teacher, &networks, subject.size(), true, device)?.all();
    let fronts = AXES.map(|(_, _, cost)| {
        front(&prices.iter().zip(&accuracies).map(|(price, a)| (cost(price), *a)).collect::<Vec<_>>())
    });

    say!(
        "\n{:<14} {:>12} {}  on the front of",
        "network",
        "parameters",
        columns(&["GFLOPs", "ms", "top-1"].map(String::from))
    );
    for (i, (price, accuracy)) in prices.iter().zip(&accuracies).enumerate() {
        let on: Vec<&str> =
            AXES.iter().zip(&fronts).filter(|(_, f)| f[i]).map(|((name, ..), _)| *name).collect();
        if !on.is_empty() {
            let [ms, _, gflops] = AXES.map(|(_, _, cost)| cost(price));
            let cells = [format!("{gflops:.3}"), format!("{ms:.3}"), percent(*accuracy)];
            say!(
                "{:<14} {:>12} {}  {}",
                price.network.to_string(),
                price.parameters,
                columns(&cells),
                on.join(", ")
            );
        }
    }
    let Some(out) = &args.common.out else { return Ok(()) };
    let extra = [
        "memory",
        "latency_ms",
        "measured",
        &scores.name,
        "front_latency",
        "front_parameters",
        "front_flops",
    ];
    let mut table = vec![head(&extra)];
    let mut results = Vec::new();
    for (i, (price, accuracy)) in prices.iter().zip(&accuracies).enumerate() {
        let cost = subject.cost(price.network);
        let ms = price.latency.map(|latency| 1e3 * latency.seconds);
        let measured = price.latency.is_some_and(|latency| latency.measured);
        let on = fronts.each_ref().map(|front| u8::from(front[i]));
        table.push(format!(
            "{},{},{},{},{accuracy},{},{},{}",
            identity(price.network, cost),
            price.memory,
            ms.map_or_else(String::new, |ms| ms.to_string()),
            u8::from(measured),
            on[0],
            on[1],
            on[2]
        ));
        results.push(described(
            price.network,
            cost,
            json!({
                "memory": price.memory, "latency_ms": ms, "measured": measured, "accuracy": accuracy,
                "front": { "latency": on[0] == 1, "parameters": on[1] == 1, "flops": on[2] == 1 },
            }),
        ));
    }
    let mut about = subject.about("pareto", &[]);
    about["accuracy"] = json!(scores.name);
    about["device"] = json!(args.prices.latency.is_none().then(|| device.describe()));
    about["images_a_pass"] = json!(args.prices.per_pass);
    about["size"] = json!(subject.size());
    write(out, "pareto", &table, about, results)?;
    let names: Vec<String> = prices.iter().map(|price| price.network.to_string()).collect();
    for ((name, axis, cost), on) in AXES.iter().zip(&fronts) {
        let points: Vec<Priced> = (0..prices.len())
            .map(|i| Priced {
                cost: cost(&prices[i]),
                accuracy: accuracies[i],
                label: &names[i],
                on_front: on[i],
            })
            .collect();
        if points.iter().any(|point| point.cost.is_finite()) {
            let title = format!("accuracy ({}) over {axis}", scores.name);
            accuracy_over_cost(&points, axis, &title, &out.join(format!("pareto-{name}")))?;
        }
    }
    say!("\nresults: {}", shown(out));
    Ok(())
}

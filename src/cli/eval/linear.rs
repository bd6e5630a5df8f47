//! `poa-gpu eval linear`: linear classifiers on frozen features.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::eval::common::{Common, Evaluated};
use crate::cli::eval::results::{described, percent, plot, write};
use crate::cli::eval::sets::Sets;
use crate::cli::network_table::identity;
use crate::cli::progress::bar;
use crate::error::{Error, Result};
use crate::eval::{LinearOptions, LinearReport, linear_probes};
use crate::shown::shown;

/// Arguments of `eval linear`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu eval linear --checkpoint runs/photos --train folder:in/train --val folder:in/val
  poa-gpu eval linear --checkpoint runs/demo-1 --train shapes --network all --epochs 2 --epoch-iterations 50 --out lin")]
pub struct LinearArgs {
    /// What is evaluated
    #[command(flatten)]
    pub common: Common,
    /// On what
    #[command(flatten)]
    pub sets: Sets,
    /// Epochs of training
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 10)]
    pub epochs: usize,
    /// Steps of an epoch
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1250)]
    pub epoch_iterations: usize,
    /// Images of a step
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 128)]
    pub batch: usize,
    /// Start of every random sequence
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
}

pub(super) fn run(args: &LinearArgs) -> Result<()> {
    for (name, value) in
        [("--epochs", args.epochs), ("--epoch-iterations", args.epoch_iterations), ("--batch", args.batch)]
    {
        if value == 0 {
            return Err(Error::Usage(format!("{name} must be at least 1")));
        }
    }
    let subject = Evaluated::open(&args.common)?;
    let sets = args.sets.open(&subject)?;
    subject.introduce();
    sets.introduce();
    let options = LinearOptions {
        epochs: args.epochs,
        epoch_iterations: args.epoch_iterations,
        batch: args.batch,
        seed: args.seed,
        ..LinearOptions::default()
    };
    let reports = linear_probes(
        subject.teacher.encoder(),
        &subject.networks,
        (&sets.train, &sets.val),
        &options,
        &mut bar(),
    )?;
    sets.note_unreadable();
    say!("\n{:<10} {:>12} {:>8}   best classifier", "network", "parameters", "top-1");
    for report in &reports {
        let Some(best) = report.best() else { continue };
        let mean = if best.mean_patch { " and mean patch" } else { "" };
        say!(
            "{:<10} {:>12} {:>8}   cls of {} block{}{mean}, learning rate {}",
            report.network.to_string(),
            subject.cost(report.network).parameters,
            percent(best.top1),
            best.blocks,
            if best.blocks == 1 { "" } else { "s" },
            best.rate
        );
    }
    let Some(out) = &args.common.out else { return Ok(()) };
    let mut table =
        vec!["network,width,depth,parameters,flops,blocks,mean_patch,learning_rate,top1".to_string()];
    for report in &reports {
        let identity = identity(report.network, subject.cost(report.network));
        let line = |r: &crate::eval::linear::LinearResult| {
            format!("{identity},{},{},{},{}", r.blocks, r.mean_patch, r.rate, r.top1)
        };
        table.extend(report.results.iter().map(line));
    }
    let results = reports.iter().map(|r| described(r.network, subject.cost(r.network), probes(r))).collect();
    write(out, "linear", &table, subject.about("linear", &sets.named()), results)?;
    let top1: Vec<f64> = reports.iter().map(|r| r.best().map_or(f64::NAN, |b| b.top1)).collect();
    plot(&subject, out, "linear", "linear probe, top-1", &top1)?;
    say!("\nresults: {}", shown(out));
    Ok(())
}

fn probes(report: &LinearReport) -> Value {
    let one = |r: &crate::eval::linear::LinearResult| json!({ "blocks": r.blocks, "mean_patch": r.mean_patch, "learning_rate": r.rate, "top1": r.top1 });
    let all: Vec<Value> = report.results.iter().map(one).collect();
    json!({ "best": report.best().as_ref().map(one), "classifiers": all })
}

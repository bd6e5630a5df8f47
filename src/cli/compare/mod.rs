//! `poa-gpu compare`: the accuracies of several runs over images seen and over floating-point operations.

mod run;
mod work;

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::compare::run::{Compared, Point};
use crate::error::{Error, Result};
use crate::files::durable::replace_file;
use crate::logging::warn;
use crate::plot;
use crate::shown::shown;

/// Arguments of `compare`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu compare runs/demo-1 runs/distill-demo-1
  poa-gpu compare runs/a runs/b runs/c --metric 'k = 20' --out results     with CSV and pictures")]
pub struct CompareArgs {
    /// Folders of runs: of pre-training, fine-tuning or distillation
    #[arg(value_name = "RUN", required = true, num_args = 1..)]
    pub runs: Vec<PathBuf>,
    /// Only accuracies whose name holds this text, such as 'k = 20', 96x3 or top-1; may be given several times
    #[arg(long, value_name = "TEXT")]
    pub metric: Vec<String>,
    /// Folder for the results: CSV and pictures [default: none are written]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

pub(super) fn run(args: &CompareArgs) -> Result<()> {
    let mut known = HashSet::new();
    for dir in &args.runs {
        let place = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        if !known.insert(place) {
            return Err(Error::Usage(format!("{} is named twice; give each run once", shown(dir))));
        }
    }
    let mut runs =
        args.runs.iter().map(|dir| Compared::open(dir, &args.metric)).collect::<Result<Vec<_>>>()?;
    // folders of one name are told apart by their paths
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for run in &mut runs {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = shown(&run.dir).into_owned();
        }
    }
    for run in &runs {
        if let Err(e) = &run.flops {
            warn(format_args!("{}: its operations are not known: {e}", run.name));
        }
    }
    show(&runs);
    let Some(out) = &args.out else { return Ok(()) };
    std::fs::create_dir_all(out).map_err(|e| Error::file(out, format!("cannot be created: {e}")))?;
    replace_file(&out.join("comparison.csv"), table(&runs).as_bytes())?;
    draw(&runs, out)?;
    say!("\nresults: {}", shown(out));
    Ok(())
}

/// A number with its power of a thousand.
fn thousands(value: f64) -> String {
    const NAMES: [&str; 8] = ["", " k", " M", " G", " T", " P", " E", " Z"];
    let mut power = 0;
    let mut rest = value;
    while rest >= 1000.0 && power + 1 < NAMES.len() {
        (rest, power) = (rest / 1000.0, power + 1);
    }
    let digits = if power == 0 { 0 } else { 2 };
    format!("{rest:.digits$}{}", NAMES[power])
}

fn show(runs: &[Compared]) {
    let width =
        |of: &dyn Fn(&Compared) -> usize, least: usize| runs.iter().map(of).max().unwrap_or(0).max(least);
    let name = width(&|run| run.name.chars().count(), 3);
    let metric = width(&|run| run.curves.iter().map(|c| c.metric.len()).max().unwrap_or(0), 8);
    say!(
        "{:<name$}  {:<12}  {:<metric$} {:>10} {:>12} {:>10} {:>8} {:>8} {:>8}",
        "run",
        "",
        "accuracy",
        "images",
        "FLOPs/image",
        "FLOPs",
        "first",
        "last",
        "best"
    );
    for run in runs {
        for curve in &run.curves {
            let percent = |accuracy: f64| format!("{:.1}%", 100.0 * accuracy);
            let (Some(first), Some(last)) = (curve.points.first(), curve.points.last()) else { continue };
            let best = curve.points.iter().map(|point| point.accuracy).fold(f64::MIN, f64::max);
            let unknown = || "-".to_string();
            say!(
                "{:<name$}  {:<12}  {:<metric$} {:>10} {:>12} {:>10} {:>8} {:>8} {:>8}",
                run.name,
                run.kind.name(),
                curve.metric,
                thousands(last.images),
                run.flops.as_ref().map_or_else(|_| unknown(), |each| thousands(*each)),
                run.flops_until(last).map_or_else(unknown, thousands),
                percent(first.accuracy),
                percent(last.accuracy),
                percent(best)
            );
        }
    }
    say!(
        "\nFLOPs are the run's own: those that trained what a run starts from, or its teacher, are not among them."
    );
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn table(runs: &[Compared]) -> String {
    let mut table = String::from("run,kind,accuracy_of,step,images,flops,accuracy\n");
    for run in runs {
        for curve in &run.curves {
            for point in &curve.points {
                let flops = run.flops_until(point).map_or_else(String::new, |flops| format!("{flops}"));
                // writing to a string cannot fail
                let _ = writeln!(
                    table,
                    "{},{},{},{},{},{flops},{}",
                    quoted(&run.name),
                    run.kind.name(),
                    quoted(&curve.metric),
                    point.step,
                    point.images,
                    point.accuracy
                );
            }
        }
    }
    table
}

/// Accuracies over images and over operations.
fn draw(runs: &[Compared], out: &Path) -> Result<()> {
    let series = |x: &dyn Fn(&Compared, &Point) -> Option<f64>| -> Vec<(String, Vec<(f64, f64)>)> {
        let of_run = |run: &Compared| -> Vec<(String, Vec<(f64, f64)>)> {
            let points = |points: &[Point]| -> Vec<(f64, f64)> {
                points.iter().filter_map(|point| Some((x(run, point)?, 100.0 * point.accuracy))).collect()
            };
            run.curves
                .iter()
                .map(|curve| (format!("{}: {}", run.name, curve.metric), points(&curve.points)))
                .filter(|(_, points)| !points.is_empty())
                .collect()
        };
        runs.iter().flat_map(of_run).collect()
    };
    let images = series(&|_, point| Some(point.images));
    plot::lines(
        &images,
        "Accuracy over images",
        "images seen",
        "accuracy (%)",
        &out.join("accuracy-images"),
    )?;
    let flops = series(&|run, point| run.flops_until(point));
    if flops.is_empty() {
        warn("no chart over operations: those of no run are known");
        return Ok(());
    }
    let (text, stem) = ("Accuracy over floating-point operations", out.join("accuracy-flops"));
    plot::lines(&flops, text, "floating-point operations", "accuracy (%)", &stem)
}

#[cfg(test)]
mod tests {
    use super::thousands;

    #[test]
    fn large_numbers_are_shown_by_their_power_of_a_thousand() {
        let all = [0.0, 999.0, 38_400.0, 2.5e9, 1.8e19].map(thousands);
        assert_eq!(all, ["0", "999", "38.40 k", "2.50 G", "18.00 E"]);
    }
}

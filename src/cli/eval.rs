//! `poa-gpu eval`: how good sub-networks are, on labelled images.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::progress::bar;
use crate::cli::subject::{data_spec, image_size};
use crate::collective::Collective;
use crate::data;
use crate::data::labels::first_three;
use crate::error::{Error, Result};
use crate::eval::settings::MOST_NEIGHBOURS;
use crate::eval::{KnnOptions, LabelledImages, LinearOptions, LinearReport, knn_accuracies, linear_probes};
use crate::files::durable::replace_file;
use crate::gpu::DeviceChoice;
use crate::logging::{info, warn};
use crate::models::backbone::Cost;
use crate::models::grid::Network;
use crate::ops;
use crate::ops::matmul::by_timing;
use crate::plot;
use crate::recipes::teacher::Teacher;
use crate::shown::shown;
use crate::weights::networks::choose;

/// The kinds of evaluation.
#[derive(Debug, Clone, Subcommand)]
pub enum EvalArgs {
    /// Classifies by the nearest neighbours in feature space; nothing is trained
    Knn(KnnArgs),
    /// Trains linear classifiers on frozen features: 13 learning rates, 1 or 4 blocks, with and without mean
    /// patch
    Linear(LinearArgs),
}

/// What both kinds need.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// A run's folder (its newest checkpoint is taken) or a checkpoint's
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// Labelled images to learn from, as in `poa-gpu train --data`
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub train: String,
    /// Labelled images to be classified; default: those that the source of --train brings or that are held
    /// out of it
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub val: Option<String>,
    /// WIDTHxDEPTH, smallest, middle, intact, all, or the paper's small, base, ...; several separated by
    /// spaces or commas
    #[arg(long, value_name = "NETWORK", num_args = 1.., default_value = "intact")]
    pub network: Vec<String>,
    /// At most that many images of --train, random ones; 0 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub train_images: usize,
    /// At most that many images of --val, random ones; 0 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub val_images: usize,
    /// Pixels a side that images are brought to, a multiple of the patch size [default: the global crops']
    #[arg(long, value_name = "PIXELS", allow_negative_numbers = true)]
    pub size: Option<usize>,
    /// Folder for the results: CSV, JSON and, of several networks, plots [default: none are written]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true, default_value = "auto")]
    pub device: DeviceChoice,
}

/// Arguments of `eval knn`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu eval knn --checkpoint runs/demo-1 --train shapes
  poa-gpu eval knn --checkpoint runs/photos --train folder:in/train --val folder:in/val --network small,base
  poa-gpu eval knn --checkpoint runs/photos --train folder:in/train --val folder:in/val --network all --out results")]
pub struct KnnArgs {
    /// What and on what
    #[command(flatten)]
    pub common: Common,
    /// Numbers of neighbours, several separated by spaces or commas
    #[arg(long, value_name = "K", allow_negative_numbers = true, num_args = 1.., default_values = ["10", "20", "100", "200"])]
    pub k: Vec<String>,
    /// Temperature of the neighbours' weights
    #[arg(long, allow_negative_numbers = true, default_value_t = 0.07)]
    pub temperature: f64,
}

/// Arguments of `eval linear`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu eval linear --checkpoint runs/photos --train folder:in/train --val folder:in/val
  poa-gpu eval linear --checkpoint runs/demo-1 --train shapes --network all --epochs 2 --epoch-iterations 50 --out lin")]
pub struct LinearArgs {
    /// What and on what
    #[command(flatten)]
    pub common: Common,
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

pub(super) fn run(args: &EvalArgs) -> Result<()> {
    match args {
        EvalArgs::Knn(args) => knn(args),
        EvalArgs::Linear(args) => linear(args),
    }
}

/// Everything that is evaluated, opened and checked.
struct Evaluated {
    teacher: Teacher,
    networks: Vec<Network>,
    train: LabelledImages,
    val: LabelledImages,
}

impl Evaluated {
    fn open(args: &Common) -> Result<Self> {
        let device = by_timing(ops::open(&args.device)?)?;
        let teacher = Teacher::open(&args.checkpoint, &device)?;
        let reading = teacher.config.data.reading();
        let train = data::open(&args.train, &reading)?;
        let (train, val) = match &args.val {
            Some(spec) => (train, data::open(spec, &reading)?),
            None => match data::split(train, data::HeldOut::default()) {
                (train, Some(val)) => (train, val),
                (train, None) => {
                    return Err(Error::file(train.describe(), why_none_held_out(train.classes())));
                }
            },
        };
        let networks = choose(&teacher.grid, &args.network)?;
        let view = teacher.config.evaluation_view(image_size(args.size, &teacher)?)?;
        if let Some(out) = &args.out {
            std::fs::create_dir_all(out).map_err(|e| Error::file(out, format!("cannot be created: {e}")))?;
        }
        let remarks = train.remarks().into_iter();
        for remark in remarks.chain(args.val.iter().flat_map(|_| val.remarks())) {
            info(remark);
        }
        let train = LabelledImages::new(&train, args.train_images, &view)?;
        if train.classes().len() < 2 {
            let problem = "has one class alone; give images of two or more";
            return Err(Error::file(train.describe(), problem));
        }
        let val = LabelledImages::new(&val, args.val_images, &view)?.joined_to(&train)?;
        Ok(Self { train, val, teacher, networks })
    }

    fn introduce(&self) {
        say!("teacher: {} ({} steps)", shown(&self.teacher.dir), self.teacher.step);
        for (what, images) in [("train: ", &self.train), ("val:   ", &self.val)] {
            let unlabelled = match images.unlabelled() {
                0 => String::new(),
                count => format!(" ({count} without a label are left out)"),
            };
            let (count, classes, all) = (images.len(), images.present().len(), images.classes().len());
            let of = if classes == all { String::new() } else { format!(" of {all}") };
            say!("{what}  {}, {count} images{unlabelled}, {classes}{of} classes", images.describe());
        }
        let known = self.train.present();
        let unseen: Vec<&str> = self
            .val
            .present()
            .difference(&known)
            .filter_map(|class| Some(self.val.classes().get(*class as usize)?.as_str()))
            .collect();
        if !unseen.is_empty() {
            warn(format_args!(
                "{} classes that are to be found have no image to learn from among the {} that were picked: {}",
                unseen.len(),
                self.train.len(),
                first_three(&unseen)
            ));
        }
    }

    fn cost(&self, network: Network) -> Cost {
        self.teacher.encoder().backbone.cost(network)
    }

    fn note_unreadable(&self) {
        for (what, images) in [("training", &self.train), ("validation", &self.val)] {
            let bad = images.bad_samples();
            if let Some(first) = bad.first() {
                let count = bad.len();
                warn(format_args!(
                    "{count} {what} images cannot be used, such as {}: {}",
                    first.name, first.reason
                ));
            }
        }
    }

    /// What all results begin with.
    fn about(&self, kind: &str) -> Value {
        let set = |images: &LabelledImages| {
            json!({
                "source": images.describe(), "images": images.len(), "without_label": images.unlabelled(),
                "classes": images.present().len(),
            })
        };
        json!({
            "evaluation": kind,
            "checkpoint": self.teacher.dir,
            "steps": self.teacher.step,
            "train": set(&self.train),
            "val": set(&self.val),
            "classes": self.val.classes(),
            "size": self.val.size(),
        })
    }

    /// Draws top-1 over width and depth and over parameters, where there is more than one network.
    fn plot(&self, out: &Path, name: &str, title: &str, top1: &[f64]) -> Result<()> {
        if self.networks.len() < 2 {
            return Ok(());
        }
        // networks with stages have several of a width and depth; the best one stands for them
        let mut best: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        for (n, a) in self.networks.iter().zip(top1) {
            let cell = best.entry((n.width, n.depth)).or_insert(*a);
            *cell = cell.max(*a);
        }
        let cells: Vec<(usize, usize, f64)> = best.into_iter().map(|((w, d), a)| (w, d, a)).collect();
        plot::accuracy_surface(&cells, title, &out.join(format!("{name}-surface")))?;
        let labels: Vec<String> = self.networks.iter().map(ToString::to_string).collect();
        let points: Vec<(f64, f64, &str)> = self
            .networks
            .iter()
            .zip(top1)
            .zip(&labels)
            .map(|((n, a), label)| (self.cost(*n).parameters as f64, *a, label.as_str()))
            .collect();
        let grid = &self.teacher.grid;
        let named: Vec<(String, &str)> = [(grid.intact().to_string(), "intact")]
            .into_iter()
            .chain(grid.paper().iter().map(|(name, network)| (network.to_string(), *name)))
            .collect();
        let named: Vec<(&str, &str)> = named.iter().map(|(label, name)| (label.as_str(), *name)).collect();
        plot::accuracy_over_parameters(&points, &named, title, &out.join(format!("{name}-parameters")))
    }
}

fn knn(args: &KnnArgs) -> Result<()> {
    let ks = neighbours(&args.k, args.common.train_images)?;
    if args.temperature.is_nan() || args.temperature <= 0.0 {
        return Err(Error::Usage(format!("--temperature {} must be more than 0", args.temperature)));
    }
    let subject = Evaluated::open(&args.common)?;
    subject.introduce();
    let votes = subject.train.len();
    if let Some(k) = ks.iter().filter(|k| **k > votes).max() {
        warn(format_args!("--k {k} is more than the {votes} images that vote: it counts as {votes}"));
    }
    let options = KnnOptions { ks: ks.clone(), temperature: args.temperature, ..KnnOptions::default() };
    let accuracies = knn_accuracies(
        subject.teacher.encoder(),
        &subject.networks,
        (&subject.train, &subject.val),
        &options,
        &Collective::alone(),
        &mut bar(),
    )?;
    subject.note_unreadable();
    let heads: Vec<String> = ks.iter().map(|k| format!("k={k}")).collect();
    say!("\n{:<10} {:>12} {}", "network", "parameters", columns(&heads));
    for (network, top1) in subject.networks.iter().zip(&accuracies) {
        let cells: Vec<String> = top1.iter().map(|a| percent(*a)).collect();
        say!("{:<10} {:>12} {}", network.to_string(), subject.cost(*network).parameters, columns(&cells));
    }
    let Some(out) = &args.common.out else { return Ok(()) };
    let mut table = vec![format!("network,width,depth,parameters,flops,{}", heads.join(","))];
    let mut results = Vec::new();
    for (network, top1) in subject.networks.iter().zip(&accuracies) {
        let numbers: Vec<String> = top1.iter().map(f64::to_string).collect();
        table.push(format!("{},{}", identity(*network, subject.cost(*network)), numbers.join(",")));
        let by_k: serde_json::Map<_, _> =
            ks.iter().zip(top1).map(|(k, a)| (k.to_string(), json!(a))).collect();
        results.push(described(*network, subject.cost(*network), json!({ "top1": by_k })));
    }
    write(out, "knn", &table, subject.about("knn"), results)?;
    for (i, k) in ks.iter().enumerate() {
        let top1: Vec<f64> = accuracies.iter().map(|a| a[i]).collect();
        subject.plot(out, &format!("knn-{k}"), &format!("k-NN top-1, k = {k}"), &top1)?;
    }
    say!("\nresults: {}", shown(out));
    Ok(())
}

/// Why no images of a source with these classes could be held out.
fn why_none_held_out(classes: &[String]) -> String {
    match classes {
        [] => "has no labels to evaluate with (classes are the sub-folders that images lie in)".into(),
        [one] => format!("has one class alone, `{}`; give images of two or more", shown(one)),
        _ => "has too few labelled images to hold a tenth of them out; give --val SPEC too".into(),
    }
}

/// The numbers of neighbours that are asked for, each once; of `images` to learn from, 0 for all.
pub fn neighbours<S: AsRef<str>>(texts: &[S], images: usize) -> Result<Vec<usize>> {
    let mut ks = Vec::new();
    for word in texts.iter().flat_map(|k| k.as_ref().split([',', ' '])).filter(|word| !word.is_empty()) {
        let k: usize = word.parse().map_err(|_| {
            Error::Usage(format!("--k: `{}` is no whole number; give some, as in --k 10,20", shown(word)))
        })?;
        if !(1..=MOST_NEIGHBOURS).contains(&k) {
            return Err(Error::Usage(format!(
                "--k {k} must be 1 to {MOST_NEIGHBOURS}: so many neighbours of every image are kept in memory"
            )));
        }
        if images > 0 && k > images {
            return Err(Error::Usage(format!(
                "--k {k} is more than there are to choose from, --train-images {images}; let it be {} or less",
                images.min(MOST_NEIGHBOURS)
            )));
        }
        if !ks.contains(&k) {
            ks.push(k);
        }
    }
    match ks.is_empty() {
        true => Err(Error::Usage("--k names no number of neighbours; give some, as in --k 10,20".into())),
        false => Ok(ks),
    }
}

fn linear(args: &LinearArgs) -> Result<()> {
    for (name, value) in
        [("--epochs", args.epochs), ("--epoch-iterations", args.epoch_iterations), ("--batch", args.batch)]
    {
        if value == 0 {
            return Err(Error::Usage(format!("{name} must be at least 1")));
        }
    }
    let subject = Evaluated::open(&args.common)?;
    subject.introduce();
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
        (&subject.train, &subject.val),
        &options,
        &mut bar(),
    )?;
    subject.note_unreadable();
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
    write(out, "linear", &table, subject.about("linear"), results)?;
    let top1: Vec<f64> = reports.iter().map(|r| r.best().map_or(f64::NAN, |b| b.top1)).collect();
    subject.plot(out, "linear", "linear probe, top-1", &top1)?;
    say!("\nresults: {}", shown(out));
    Ok(())
}

fn probes(report: &LinearReport) -> Value {
    let one = |r: &crate::eval::linear::LinearResult| json!({ "blocks": r.blocks, "mean_patch": r.mean_patch, "learning_rate": r.rate, "top1": r.top1 });
    let all: Vec<Value> = report.results.iter().map(one).collect();
    json!({ "best": report.best().as_ref().map(one), "classifiers": all })
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn columns(cells: &[String]) -> String {
    cells.iter().map(|cell| format!("{cell:>8}")).collect()
}

/// A network's first columns.
fn identity(n: Network, cost: Cost) -> String {
    format!("{n},{},{},{},{}", n.width, n.depth, cost.parameters, cost.flops)
}

/// A network's entry in the JSON file.
fn described(n: Network, cost: Cost, more: Value) -> Value {
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
fn write(out: &Path, name: &str, table: &[String], mut about: Value, results: Vec<Value>) -> Result<()> {
    about["networks"] = Value::Array(results);
    let csv = table.join("\n") + "\n";
    replace_file(&out.join(format!("{name}.csv")), csv.as_bytes())?;
    replace_file(&out.join(format!("{name}.json")), format!("{about:#}\n").as_bytes())
}

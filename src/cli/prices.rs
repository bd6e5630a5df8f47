//! What sub-networks cost and how accurate they are, for commands that choose among them.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::network_table::{head, line};
use crate::cli::progress::bar;
use crate::collective::Collective;
use crate::data::{self, HeldOut};
use crate::error::{Error, Result};
use crate::eval::budget::{LatencyTable, Prices, Scores, Stopwatch};
use crate::eval::{KnnOptions, LabelledImages, knn_accuracies};
use crate::files::durable::replace_file;
use crate::logging::{info, warn};
use crate::models::grid::Network;
use crate::recipes::teacher::Teacher;
use crate::shown::shown;
use crate::tensor::Device;

/// The fewest networks that are measured: of fewer, nothing could be said of the others.
const FEWEST: usize = 5;
/// Folder of a run with the accuracies of all sub-networks, a file a checkpoint.
const SWEEPS: &str = "sweeps";
/// What stands for accuracy where there is none: larger networks are taken for better ones.
const BY_SIZE: &str = "flops";

/// How costs are found, and accuracies.
#[derive(Debug, Clone, Args)]
pub struct PriceArgs {
    /// Accuracies of the sub-networks, in CSV, as `eval knn --network all --out` writes them, or the folder it wrote to [default: the run's
    /// own evaluation is done with all of them, and kept in its folder sweeps]
    #[arg(long, value_name = "PATH")]
    pub sweep: Option<PathBuf>,
    /// The column of accuracies; `flops` takes larger networks for better ones [default: k=20, or the first]
    #[arg(long, value_name = "COLUMN")]
    pub by: Option<String>,
    /// Latencies that were measured elsewhere, in CSV: columns `network` and `latency_ms` [default: they are measured on --device]
    #[arg(long, value_name = "FILE")]
    pub latency: Option<PathBuf>,
    /// Images of a pass whose latency and memory count
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1)]
    pub per_pass: usize,
    /// Networks whose latency is measured; of the others it is predicted from these. 0 measures all
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 12)]
    pub measure: usize,
}

impl PriceArgs {
    /// What is wrong with the numbers.
    pub(super) fn check(&self) -> Result<()> {
        if self.per_pass == 0 {
            return Err(Error::Usage("--per-pass 0 must be 1 or more".into()));
        }
        if self.measure != 0 && self.measure < FEWEST {
            return Err(Error::Usage(format!(
                "--measure {} must be {FEWEST} or more: so many networks it takes to predict the others (0 measures all)",
                self.measure
            )));
        }
        Ok(())
    }

    /// What `networks` of a teacher cost with images of `size` pixels; latencies too where they are wanted, and what is known of them said.
    pub(super) fn prices<'a>(
        &self,
        teacher: &'a Teacher,
        networks: &[Network],
        size: usize,
        latencies: bool,
        device: &'a Device,
    ) -> Result<Prices<'a>> {
        let shape = [self.per_pass, teacher.config.student.elastic().in_chans, size, size];
        let stopwatch = Stopwatch { backbone: teacher.encoder().backbone, device, shape };
        let mut prices = Prices::new(stopwatch, networks)?;
        if let Some(path) = &self.latency {
            prices.take(&LatencyTable::read(path, &teacher.grid)?);
        } else if latencies {
            let count = if self.measure == 0 { networks.len() } else { self.measure };
            prices.measure(count, &mut bar())?;
        }
        if latencies || self.latency.is_some() {
            tell(&prices, networks.len(), self, device);
        }
        Ok(prices)
    }

    /// How accurate the sub-networks are.
    pub(super) fn scores(&self, teacher: &Teacher) -> Result<Scores> {
        let by = self.by.as_deref();
        if by == Some(BY_SIZE) && self.sweep.is_none() {
            let backbone = teacher.encoder().backbone;
            let all: Vec<(Network, f64)> =
                teacher.grid.entries().iter().map(|(n, _)| (*n, backbone.cost(*n).flops as f64)).collect();
            let most = all.iter().map(|(_, flops)| *flops).fold(1.0, f64::max);
            let scores = all.into_iter().map(|(n, flops)| (n, flops / most)).collect();
            return Ok(Scores::new("operations, of those of the intact network", scores));
        }
        if let Some(path) = &self.sweep {
            let path = if path.is_dir() { path.join("knn.csv") } else { path.clone() };
            return Scores::read(&path, by, &teacher.grid);
        }
        let kept = kept(teacher);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.is_file()) {
            info(format_args!("accuracies of the sub-networks: {}", shown(kept)));
            return Scores::read(kept, by, &teacher.grid);
        }
        let table = sweep(teacher)?;
        match &kept {
            Some(kept) => {
                let folder = kept.parent().unwrap_or(Path::new("."));
                let made = std::fs::create_dir_all(folder)
                    .map_err(|e| Error::file(folder, format!("cannot be created: {e}")));
                // what cannot be kept is found anew the next time
                match made.and_then(|()| replace_file(kept, table.as_bytes())) {
                    Ok(()) => info(format_args!("accuracies are kept in {}", shown(kept))),
                    Err(e) => warn(e),
                }
            }
            None => info("this is no checkpoint of a run's folder, so that accuracies are not kept"),
        }
        Scores::parse(table.as_bytes(), by, &teacher.grid).map_err(Error::Usage)
    }
}

/// Where a run keeps the accuracies of a checkpoint's sub-networks.
fn kept(teacher: &Teacher) -> Option<PathBuf> {
    let checkpoints =
        teacher.dir.parent().filter(|dir| dir.file_name().is_some_and(|n| n == "checkpoints"))?;
    let name = teacher.dir.file_name()?.to_str()?;
    Some(checkpoints.parent()?.join(SWEEPS).join(format!("{name}.csv")))
}

/// k-NN of all sub-networks on the images that the run evaluates itself with, as a table.
fn sweep(teacher: &Teacher) -> Result<String> {
    let config = &teacher.config;
    let reading = config.data.reading();
    let none = |what: String| {
        Error::Usage(format!(
            "nothing says how accurate the sub-networks are: {what}. `poa-gpu eval knn --network all --train SPEC --out DIR` finds it on \
             labelled images, for --sweep DIR; --by flops takes larger networks for better ones"
        ))
    };
    if config.data.spec.is_empty() && config.evaluation.train.is_empty() {
        return Err(none(format!("{} does not say what it was trained on", shown(&teacher.dir))));
    }
    let open = |spec: &str| data::open(spec, &reading).map_err(|e| none(e.to_string()));
    let (train, val) = match config.evaluation.train.is_empty() {
        false => (open(&config.evaluation.train)?, open(&config.evaluation.val)?),
        true => {
            let held_out = HeldOut { fraction: config.data.held_out, at_most: config.data.held_out_at_most };
            match data::split(open(&config.data.spec)?, held_out) {
                (train, Some(val)) => (train, val),
                (train, None) => {
                    return Err(none(format!("of {} no labelled images are held out", train.describe())));
                }
            }
        }
    };
    let view = config.evaluation_view(config.crops.global_crops_size)?;
    let train = LabelledImages::new(&train, config.evaluation.train_images, &view)?;
    let val = LabelledImages::new(&val, config.evaluation.val_images, &view)?.joined_to(&train)?;
    let networks: Vec<Network> = teacher.grid.entries().iter().map(|(network, _)| *network).collect();
    info(format_args!(
        "k-NN of {} sub-networks on the run's own images: {} vote, {} are classified",
        networks.len(),
        train.len(),
        val.len()
    ));
    let options = KnnOptions {
        ks: config.evaluation.k.clone(),
        temperature: config.evaluation.temperature,
        ..KnnOptions::default()
    };
    let (encoder, alone) = (teacher.encoder(), Collective::alone());
    let all = knn_accuracies(encoder, &networks, (&train, &val), &options, &alone, &mut bar())?;
    let heads: Vec<String> = options.ks.iter().map(|k| format!("k={k}")).collect();
    let lines = networks.iter().zip(&all).map(|(n, top1)| line(*n, encoder.backbone.cost(*n), top1));
    Ok(std::iter::once(head(&heads)).chain(lines).collect::<Vec<_>>().join("\n") + "\n")
}

/// Says which latencies were measured, and how good the others are.
fn tell(prices: &Prices<'_>, networks: usize, args: &PriceArgs, device: &Device) {
    let (measured, where_) = match &args.latency {
        Some(path) => (prices.measured(), format!("in {}", shown(path))),
        None => {
            let images =
                if args.per_pass == 1 { "one image".into() } else { format!("{} images", args.per_pass) };
            (prices.measured(), format!("measured on {}, {images} a pass", device.describe()))
        }
    };
    let others = match (prices.model(), networks - measured) {
        (_, 0) => String::new(),
        (Some(model), others) => format!(
            "; {others} predicted, with an error of {:.1}% (median; {:.1}% at most) where measured ones are predicted from the others",
            100.0 * model.median_error(),
            100.0 * model.largest_error()
        ),
        (None, others) => format!("; {others} are not known, since so few tell nothing of others"),
    };
    say!("latency: {measured} networks {where_}{others}");
}

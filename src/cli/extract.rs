//! `poa-gpu extract`: plain networks out of a trained teacher.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgGroup, Args, Command};

use crate::cli::card::run_facts;
use crate::cli::prices::PriceArgs;
use crate::cli::subject::check_size;
use crate::error::{Error, Result};
use crate::eval::budget::{Choice, Limits, choose as choose_within};
use crate::files::checkpoint;
use crate::gpu::DeviceChoice;
use crate::models::graph::Extent;
use crate::models::grid::Network;
use crate::models::plain::Format;
use crate::nn::elastic::InputScale;
use crate::ops;
use crate::ops::matmul::by_timing;
use crate::recipes::teacher::{Teacher, config_of};
use crate::shown::shown;
use crate::train::save::TEACHER;
use crate::weights::card::{Facts, card};
use crate::weights::extract::Extraction;
use crate::weights::heads::write_heads;
use crate::weights::networks::choose;
use crate::weights::onnx::{OnnxOptions, write_onnx};

/// Arguments of `extract`.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("what").args(["out", "list"]).required(true).multiple(true))]
#[command(after_help = "\
Examples:
  poa-gpu extract --checkpoint runs/photos --list
  poa-gpu extract --checkpoint runs/photos --network small --out vit-s
  poa-gpu extract --checkpoint runs/photos --network 384x12,768x20 --out nets --format dinov2
  poa-gpu extract --checkpoint runs/photos --network small --out vit-s --heads
  poa-gpu extract --checkpoint runs/photos --fits 5ms,20M --out fast
  poa-gpu extract --checkpoint runs/photos --fits 12ms --latency phone.csv --sweep results --out phone
  poa-gpu extract --checkpoint runs/photos --network small --out vit-s --format onnx --size dynamic
  poa-gpu extract --checkpoint runs/photos --network small --out hf --format transformers
then, in Python:
  timm.create_model('local-dir:vit-s', pretrained=True)
  transformers.AutoModel.from_pretrained('hf')
A README.md in the folder says what the network is and how it is loaded; one that someone else wrote is left alone.")]
pub struct ExtractArgs {
    /// A run's folder (its newest checkpoint is taken) or a checkpoint's
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// WIDTHxDEPTH, smallest, middle, intact, all, or the paper's small, base, ...; several separated by
    /// spaces or commas
    #[arg(long, value_name = "NETWORK", num_args = 1.., default_value = "intact", conflicts_with = "fits")]
    pub network: Vec<String>,
    /// The most accurate network that costs at most this, instead of --network: a latency (5ms), parameters (20M), operations of an image
    /// (2gflops), memory (1.5GiB); several separated by spaces or commas
    #[arg(long, value_name = "BUDGET", num_args = 1.., allow_negative_numbers = true, conflicts_with = "list")]
    pub fits: Option<Vec<String>>,
    /// How costs and accuracies are found
    #[command(flatten, next_help_heading = "With --fits")]
    pub prices: PriceArgs,
    /// Where latency is measured: auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(
        long,
        value_name = "DEVICE",
        allow_negative_numbers = true,
        default_value = "auto",
        help_heading = "With --fits"
    )]
    pub device: DeviceChoice,
    /// Where to: the network's folder, or with several networks the folder of theirs
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Whose names and configuration the networks get
    #[arg(long, default_value = "timm", value_parser = Formats)]
    pub format: Format,
    /// Keeps the projection heads too: heads.safetensors in the network's folder, with plain names, cut to its width
    #[arg(long, conflicts_with = "list")]
    pub heads: bool,
    /// Images a call of an ONNX model: a number, or dynamic [default: dynamic]
    #[arg(long, value_name = "N")]
    pub batch: Option<Extent>,
    /// Pixels a side of an ONNX model's images: a number, or dynamic (not of a Swin) [default: the global crops']
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<Extent>,
    /// Prints all sub-networks with parameters and operations, and extracts nothing
    #[arg(long)]
    pub list: bool,
}

/// Reads a format, and knows all of them for help and completions.
#[derive(Clone)]
struct Formats;

impl TypedValueParser for Formats {
    type Value = Format;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> std::result::Result<Format, clap::Error> {
        StringValueParser::new().try_map(|name| name.parse::<Format>()).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Format::ALL.into_iter().map(|format| PossibleValue::new(format.name()))))
    }
}

pub(super) fn run(args: &ExtractArgs) -> Result<()> {
    let checkpoint = checkpoint::find(&args.checkpoint)?;
    let config = config_of(&checkpoint)?;
    let backbone = config.backbone()?;
    let grid = backbone.grid();
    if args.list {
        say!(
            "{:<10} {:>14} {:>10}   at {} pixels",
            "network",
            "parameters",
            "GFLOPs",
            config.crops.global_crops_size
        );
        for (network, _) in grid.entries() {
            let c = backbone.cost(*network);
            say!("{:<10} {:>14} {:>10.3}", network.to_string(), c.parameters, c.flops as f64 / 1e9);
        }
        return Ok(());
    }
    let options = onnx_options(args, config.student.elastic().patch_size)?;
    let networks = match &args.fits {
        None => choose(grid, &args.network)?,
        Some(texts) => vec![within(texts, args)?],
    };
    let Some(out) = &args.out else { return Err(Error::Usage("--out DIR is missing".into())) };
    let teacher = checkpoint.tensors(TEACHER)?;
    say!("teacher: {}", shown(checkpoint.dir()));
    for network in &networks {
        let dir = match networks.len() {
            1 => out.clone(),
            _ => out.join(network.to_string()),
        };
        refuse_run(&dir)?;
        let extraction =
            Extraction::new(&teacher, &*backbone, *network, args.format)?.normalized(config.normalization()?);
        let text = card(&Facts {
            network: *network,
            format: args.format,
            plain: extraction.plain(),
            normalization: extraction.normalization(),
            classes: extraction.classes(),
            cost: backbone.cost(*network),
            width: backbone.feature_width(*network),
            run: run_facts(&checkpoint, &config, grid.intact(), *network),
        });
        let extraction = extraction.with_card(text);
        match options {
            Some(options) => drop(write_onnx(&extraction, &*backbone, options, &dir)?),
            None => extraction.write(&dir)?,
        }
        let kept = match args.heads {
            true => {
                let scale = InputScale(config.student.elastic().input_scale);
                write_heads(&teacher, scale, backbone.feature_width(*network), &dir)?
            }
            false => 0,
        };
        let c = backbone.cost(*network);
        let heads = if kept > 0 { format!(", {kept} heads") } else { String::new() };
        say!("{:<10} {:>14} parameters{heads}  {}", network.to_string(), c.parameters, shown(&dir));
    }
    Ok(())
}

/// The most accurate network within a budget.
fn within(texts: &[String], args: &ExtractArgs) -> Result<Network> {
    let limits = Limits::parse(texts)?;
    args.prices.check()?;
    let device = by_timing(ops::open(&args.device)?)?;
    let teacher = Teacher::open(&args.checkpoint, &device)?;
    let networks: Vec<Network> = teacher.grid.entries().iter().map(|(network, _)| *network).collect();
    let scores = args.prices.scores(&teacher)?;
    let size = match args.size {
        Some(Extent::Fixed(size)) => size,
        _ => teacher.config.crops.global_crops_size,
    };
    let mut prices = args.prices.prices(&teacher, &networks, size, limits.latency.is_some(), &device)?;
    let Choice { price, score } = choose_within(&mut prices, &scores, &limits)?;
    let (fits, costs) = (limits.describe(), price.describe());
    say!("{} fits {fits}: accuracy ({}) {:.1}%, {costs}", price.network, scores.name, 100.0 * score);
    Ok(price.network)
}

/// How ONNX models are written, where they are asked for.
fn onnx_options(args: &ExtractArgs, patch: usize) -> Result<Option<OnnxOptions>> {
    if args.format != Format::Onnx {
        let given =
            [("--batch", args.batch), ("--size", args.size)].into_iter().find(|(_, value)| value.is_some());
        return match given {
            Some((option, _)) => {
                Err(Error::Usage(format!("{option} is for ONNX models; give --format onnx, or leave it out")))
            }
            None => Ok(None),
        };
    }
    if let Some(Extent::Fixed(size)) = args.size {
        check_size(size, patch)?;
    }
    let usual = OnnxOptions::default();
    Ok(Some(OnnxOptions { batch: args.batch.unwrap_or(usual.batch), size: args.size, ..usual }))
}

/// A `config.json` beside a run's files would only confuse.
fn refuse_run(dir: &Path) -> Result<()> {
    match dir.join("config.toml").exists() {
        true => Err(Error::file(dir, "is a run's folder; give the network one of its own with --out")),
        false => Ok(()),
    }
}

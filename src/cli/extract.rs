//! `poa-gpu extract`: plain networks out of a trained teacher.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgGroup, Args, Command};

use crate::error::{Error, Result};
use crate::files::checkpoint;
use crate::models::plain::Format;
use crate::nn::elastic::InputScale;
use crate::recipes::teacher::config_of;
use crate::shown::shown;
use crate::train::save::TEACHER;
use crate::weights::extract::Extraction;
use crate::weights::heads::write_heads;
use crate::weights::networks::choose;

/// Arguments of `extract`.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("what").args(["out", "list"]).required(true).multiple(true))]
#[command(after_help = "\
Examples:
  poa-gpu extract --checkpoint runs/photos --list
  poa-gpu extract --checkpoint runs/photos --network small --out vit-s
  poa-gpu extract --checkpoint runs/photos --network 384x12,768x20 --out nets --format dinov2
  poa-gpu extract --checkpoint runs/photos --network small --out vit-s --heads
then, in Python:
  timm.create_model('local-dir:vit-s', pretrained=True)")]
pub struct ExtractArgs {
    /// A run's folder (its newest checkpoint is taken) or a checkpoint's
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// WIDTHxDEPTH, smallest, middle, intact, all, or the paper's small, base, ...; several separated by
    /// spaces or commas
    #[arg(long, value_name = "NETWORK", num_args = 1.., default_value = "intact")]
    pub network: Vec<String>,
    /// Where to: the network's folder, or with several networks the folder of theirs
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Whose names and configuration the networks get
    #[arg(long, default_value = "timm", value_parser = Formats)]
    pub format: Format,
    /// Keeps the projection heads too: heads.safetensors in the network's folder, with plain names, cut to its width
    #[arg(long, conflicts_with = "list")]
    pub heads: bool,
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
    let networks = choose(grid, &args.network)?;
    let Some(out) = &args.out else { return Err(Error::Usage("--out DIR is missing".into())) };
    let teacher = checkpoint.tensors(TEACHER)?;
    say!("teacher: {}", shown(checkpoint.dir()));
    for network in &networks {
        let dir = match networks.len() {
            1 => out.clone(),
            _ => out.join(network.to_string()),
        };
        refuse_run(&dir)?;
        Extraction::new(&teacher, &*backbone, *network, args.format)?
            .normalized(config.normalization()?)
            .write(&dir)?;
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

/// A `config.json` beside a run's files would only confuse.
fn refuse_run(dir: &Path) -> Result<()> {
    match dir.join("config.toml").exists() {
        true => Err(Error::file(dir, "is a run's folder; give the network one of its own with --out")),
        false => Ok(()),
    }
}

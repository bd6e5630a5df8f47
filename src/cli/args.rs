//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, recipe_name};
use crate::error::Result;
use crate::tensor::DeviceChoice;

/// Pre-trains a whole family of vision backbones in one run, on any GPU (POA, ECCV 2024).
#[derive(Debug, Parser)]
#[command(name = "poa-gpu", version, about, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trains a backbone and all its sub-networks
    Train(TrainArgs),
    /// Replays recorded training steps and compares every number with the record
    Verify(VerifyArgs),
    /// Lists the devices that can be used, with their limits
    Devices,
}

/// Arguments of `train`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu train                                        the demo: small images, generated as it goes
  poa-gpu train --steps 100 --device cpu               the same in 100 steps, without a GPU
  poa-gpu train --config vit_ee1200 --data folder:./images
                                                       the paper's ViT recipe on a folder of images
  poa-gpu train --config my.toml optim.epochs=50 'dino.head_n_prototypes=[1024, 2048]'")]
pub struct TrainArgs {
    /// A TOML file, or a recipe of the program: demo, vit_ee1200, bench_tiny, bench_vit_s
    #[arg(long, value_name = "FILE|NAME", default_value = "demo")]
    pub config: String,
    /// Where the images come from: folder:DIR, shapes, shapes:N, shapes:NxSIZE (sets data.spec)
    #[arg(long, value_name = "SPEC")]
    pub data: Option<String>,
    /// Folder of the run; it must not hold another [default: runs/RECIPE-N]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Steps of the whole run; what the recipe counts in epochs shrinks in proportion (sets train.total_steps)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub steps: Option<u64>,
    /// Start of every random sequence (sets train.seed)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=i64::MAX as u64))]
    pub seed: Option<u64>,
    /// Settings that replace those of the recipe
    #[arg(value_name = "SECTION.KEY=VALUE")]
    pub settings: Vec<String>,
}

impl TrainArgs {
    /// The recipe with the settings of the command line over it, resolved for a run on `ranks` devices.
    pub fn load_config(&self, ranks: usize) -> Result<Config> {
        let mut config = Config::load(&self.config, &self.settings)?;
        if let Some(spec) = &self.data {
            config.data.spec.clone_from(spec);
        }
        if let Some(steps) = self.steps {
            config.train.total_steps = usize::try_from(steps).unwrap_or(usize::MAX);
        }
        if let Some(seed) = self.seed {
            config.train.seed = seed;
        }
        config.resolve(ranks)?;
        Ok(config)
    }

    /// What the run is called after.
    pub fn recipe(&self) -> String {
        recipe_name(&self.config)
    }
}

/// Arguments of `verify`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu verify                               the records that come with the program
  poa-gpu verify ./my-record --device cpu      a record of your own, on the CPU
  poa-gpu verify --dump numbers.safetensors    keeps what was computed")]
pub struct VerifyArgs {
    /// Folders with a recorded training step each (fixture.json and its tensors)
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Writes every number that was computed into this safetensors file
    #[arg(long, value_name = "FILE")]
    pub dump: Option<PathBuf>,
}

//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::cli::bench::BenchArgs;
use crate::cli::compare::CompareArgs;
use crate::cli::config::ConfigArgs;
use crate::cli::distill::DistillArgs;
use crate::cli::eval::EvalArgs;
use crate::cli::extract::ExtractArgs;
use crate::cli::features::FeaturesArgs;
use crate::cli::finetune::FinetuneArgs;
use crate::cli::man::ManArgs;
use crate::cli::report::ReportArgs;
use crate::cli::run_args::RunArgs;
use crate::cli::segment::SegmentArgs;
use crate::cli::subject::data_spec;
use crate::cli::version;
use crate::cli::visualize::VisualizeArgs;
use crate::cli::watch::WatchArgs;
use crate::error::{Error, Result};
use crate::gpu::DeviceChoice;
use crate::logging::console::Verbosity;
use crate::poa::settings::Precision;
use crate::recipes::{Config, recipe_name};
use crate::train::run_folder::{holds_run, newest_run};

/// Pre-trains a whole family of vision backbones in one run, on any GPU (POA, ECCV 2024).
#[derive(Debug, Parser)]
#[command(name = "poa-gpu", version = version::SHORT, long_version = version::LONG.as_str(), about, max_term_width = 100)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  poa-gpu train                                    the demo, on whatever device there is
  poa-gpu train --config vit_ee1200 --data folder:photos --out runs/photos --resume
  poa-gpu eval knn --checkpoint runs/photos --train folder:a --val folder:b --network all
  poa-gpu extract --checkpoint runs/photos --network small --out vit-s
  poa-gpu COMMAND --help                           everything about a command"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much is said on the way.
    #[command(flatten)]
    pub verbosity: VerbosityArgs,
}

/// How much is said on standard error.
#[derive(Debug, Clone, Args)]
pub struct VerbosityArgs {
    /// Says more: -v what train.log gets, -vv everything (POA_LOG=LEVEL or TARGET=LEVEL,... chooses finer)
    #[arg(long, short, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Shows warnings, errors and results alone
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

impl VerbosityArgs {
    /// What was asked for, if anything was.
    pub fn level(&self) -> Option<Verbosity> {
        match (self.quiet, self.verbose) {
            (true, _) => Some(Verbosity::Quiet),
            (false, 0) => None,
            (false, 1) => Some(Verbosity::Verbose),
            (false, _) => Some(Verbosity::Everything),
        }
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Trains a backbone and all its sub-networks
    Train(TrainArgs),
    /// Trains a pre-trained network as a whole, with a classifier, on labelled images
    Finetune(FinetuneArgs),
    /// Trains a head that tells the class of every pixel, on a pre-trained network
    Segment(SegmentArgs),
    /// Trains a network of any size, without labels, to see images as a frozen teacher does (SEED)
    Distill(DistillArgs),
    /// Cuts sub-networks out of a trained teacher, as plain networks for timm, DINOv2's code or POA's
    Extract(ExtractArgs),
    /// Measures sub-networks on labelled images: k-NN, linear probe, clusters, retrieval or robustness
    #[command(subcommand)]
    Eval(EvalArgs),
    /// Shows accuracies of several runs over images seen and over floating-point operations
    Compare(CompareArgs),
    /// Writes a page about a run: curves, accuracies, crops, pictures, recipe, warnings
    Report(ReportArgs),
    /// Shows the same page on this machine while the run goes on
    Watch(WatchArgs),
    /// Writes the features of images to a safetensors file
    Features(FeaturesArgs),
    /// Draws what a sub-network attends to and how it sees the parts of an image
    Visualize(VisualizeArgs),
    /// Prints or checks a configuration
    Config(ConfigArgs),
    /// Replays recorded training steps and compares every number with the record
    Verify(VerifyArgs),
    /// Lists the devices that can be used, with their limits
    #[command(after_help = "Example:\n  poa-gpu devices        what --device can be, best first")]
    Devices,
    /// Times the main kernels and whole training steps on a device, beside the best it does
    Bench(BenchArgs),
    /// Prints a page of the manual, for man
    Man(ManArgs),
    /// Prints a script with which a shell completes this program's arguments
    #[command(
        after_help = "Example:\n  poa-gpu completions bash > ~/.local/share/bash-completion/completions/poa-gpu"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `train`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu train                                        the demo: small images, generated as it goes
  poa-gpu train --steps 100 --device cpu               the same in 100 steps, without a GPU
  poa-gpu train --config vit_ee1200 --data folder:./images
                                                       the paper's ViT recipe on a folder of images
  poa-gpu train --config my.toml optim.epochs=50 'dino.head_n_prototypes=[1024, 2048]'
  poa-gpu train --config my.toml --out runs/a --resume goes on where runs/a ended, or starts it
  poa-gpu train --out runs/a --resume optim.epochs=400 goes on with a setting changed
  poa-gpu train --config vit_ee1200 --data folder:./images --devices all
                                                       on all GPUs of this machine
  poa-gpu train --config bench_vit_s --steps 8 --profile trace.json
                                                       where the time of a step goes
  poa-gpu train --config vit_ee1200 --data 'webdataset:shards/{000..146}.tar' --init vit_large.safetensors")]
pub struct TrainArgs {
    /// A TOML file, or a recipe of the program: demo, demo_swin, demo_resnet, small, cifar10, cifar10_swin,
    /// cifar10_resnet, vit_ee1200, swin_ee1200, resnet_ee2400, bench_tiny, bench_vit_s, bench_vit_l
    /// [default: demo, or with --resume the run's own]
    #[arg(long, value_name = "FILE|NAME")]
    pub config: Option<String>,
    /// Where the images come from: folder:DIR, list:FILE, webdataset:PATTERN, cifar10:DIR, cifar100:DIR,
    /// shapes, shapes:N, shapes:NxSIZE, shapes:NxSIZExCHANNELS (sets data.spec). Quote patterns with braces
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub data: Option<String>,
    /// Folder of the run; without --resume it must not hold another that has done a step [default:
    /// runs/RECIPE-N]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Goes on with the run in --out (without it: the newest of the recipe in runs/) from its newest whole
    /// checkpoint; where there is none yet, starts it. The same command can so be given again and again
    #[arg(long)]
    pub resume: bool,
    /// Starts from weights instead of random ones: a safetensors file with timm's, DINOv2's or POA's names,
    /// or a checkpoint. Passed over where a run is resumed
    #[arg(long, value_name = "FILE|DIR")]
    pub init: Option<PathBuf>,
    /// Lets --init start from a file that fills less than half of the backbone or has tensors of other widths;
    /// what it does not fill starts at random
    #[arg(long, requires = "init")]
    pub init_partial: bool,
    /// Records a few steps once they run smoothly: prints a table of the kernels with their rates beside what
    /// the device can do, and writes a trace (JSON) for ui.perfetto.dev
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Where, how long, and from which seed
    #[command(flatten)]
    pub run: RunArgs,
    /// Settings that replace those of the recipe
    #[arg(value_name = "SECTION.KEY=VALUE")]
    pub settings: Vec<String>,
}

impl TrainArgs {
    /// The recipe with the settings of the command line over it, resolved for a run on `ranks` devices.
    pub fn load_config(&self, ranks: usize) -> Result<Config> {
        let config = Config::load(self.config.as_deref().unwrap_or(DEFAULT_RECIPE), &self.settings)?;
        self.finish(config, ranks)
    }

    /// The configuration to go on with in a run that was started with `stored`: that one under the settings
    /// of the command line or, where the command line names a recipe, that recipe.
    pub fn resumed_config(&self, mut stored: Config, ranks: usize) -> Result<Config> {
        if self.config.is_some() {
            return self.load_config(ranks);
        }
        let before = stored.optim.clone();
        let followed = before.lr == before.scaled_lr(stored.images_per_step().saturating_mul(ranks));
        stored.apply(&self.settings)?;
        let optim = &mut stored.optim;
        // a rate that was worked out stands as a number in what was stored
        let changed = (optim.base_lr, optim.scaling_rule) != (before.base_lr, before.scaling_rule);
        if followed && changed && optim.lr == before.lr {
            optim.lr = 0.0;
        }
        self.finish(stored, ranks)
    }

    fn finish(&self, mut config: Config, ranks: usize) -> Result<Config> {
        if let Some(spec) = &self.data {
            config.data.spec.clone_from(spec);
        }
        if let Some(steps) = self.run.steps {
            config.train.total_steps = usize::try_from(steps).unwrap_or(usize::MAX);
        }
        if let Some(seed) = self.run.seed {
            config.train.seed = seed;
        }
        config.resolve(ranks)?;
        if config.data.spec.is_empty() {
            return Err(Error::config(
                "data.spec",
                "names no images; give --data folder:DIR, or --data shapes for the embedded set",
            ));
        }
        Ok(config)
    }

    /// What the run is called after.
    pub fn recipe(&self) -> String {
        recipe_name(self.config.as_deref().unwrap_or(DEFAULT_RECIPE))
    }

    /// The folder of the run that is to be resumed, if there is one.
    pub fn run_to_resume(&self) -> Option<PathBuf> {
        match &self.out {
            _ if !self.resume => None,
            Some(dir) => holds_run(dir).then(|| dir.clone()),
            None => newest_run(&self.recipe()),
        }
    }
}

/// The recipe that `train` takes without being told one.
const DEFAULT_RECIPE: &str = "demo";

/// Arguments of `verify`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu verify                               the records that come with the program
  poa-gpu verify ./my-record --device cpu      a record of your own, on the CPU
  poa-gpu verify --precision mixed             as train.precision=mixed trains
  poa-gpu verify --dump numbers.safetensors    keeps what was computed")]
pub struct VerifyArgs {
    /// Folders with a recorded training step each (fixture.json and its tensors)
    #[arg(value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    /// auto, cpu, gpu, the number of a device in `poa-gpu devices`, or part of its name
    #[arg(long, value_name = "DEVICE", allow_negative_numbers = true, default_value = "auto")]
    pub device: DeviceChoice,
    /// What activations and products are made of; mixed and bf16 are compared with wider tolerances
    #[arg(long, value_name = "PRECISION", value_enum, default_value_t = ReplayPrecision::F32)]
    pub precision: ReplayPrecision,
    /// Writes every number that was computed into this safetensors file
    #[arg(long, value_name = "FILE")]
    pub dump: Option<PathBuf>,
}

/// What a record is replayed in, as `train.precision` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReplayPrecision {
    /// Single precision
    F32,
    /// Half precision with sums, losses and weights in single, as train.precision=mixed trains; on a GPU
    Mixed,
    /// Single precision with products of bfloat16, as train.precision=bf16 trains; on processors with AVX512-BF16
    Bf16,
}

impl From<ReplayPrecision> for Precision {
    fn from(precision: ReplayPrecision) -> Self {
        match precision {
            ReplayPrecision::F32 => Self::F32,
            ReplayPrecision::Mixed => Self::Mixed,
            ReplayPrecision::Bf16 => Self::Bf16,
        }
    }
}

//! A run of a task beside pre-training, from the command line to its end: what `finetune` and `segment` share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::cli::environment;
use crate::cli::init::Init;
use crate::cli::ranks::{self, Rank, agree_on_images, agree_on_settings, tell_devices};
use crate::cli::run_args::RunArgs;
use crate::cli::signals::Signals;
use crate::cli::subject::data_spec;
use crate::cli::version;
use crate::collective::Collective;
use crate::data::Source;
use crate::error::{Error, Interruption, Result};
use crate::files::checkpoint::checkpoints_in;
use crate::models::grid::Network;
use crate::ops;
use crate::ops::matmul::by_timing;
use crate::recipes::preset::Recipes;
use crate::recipes::{Preset, Stored, recipe_name};
use crate::shown::shown;
use crate::tensor::Device;
use crate::train::plan::RunPlan;
use crate::train::run_folder::{CONFIG, RunFolder, holds_run};
use crate::train::task::Task;
use crate::train::trainer::{Outcome, Start, Trainer};

/// What such a run is told.
#[derive(Debug, Clone, Args)]
pub struct TaskArgs {
    /// What to start from: a run's folder (its newest checkpoint is taken) or a checkpoint's; an extracted network's folder;
    /// or a safetensors file, whose sizes section student of --config must say (of a Swin's or ResNet's folder too)
    #[arg(long, value_name = "FILE|DIR", required_unless_present_any = ["resume", "random"])]
    pub init: Option<PathBuf>,
    /// Takes the sizes of --init, or without it those of --config, and random weights: what pre-training is compared with
    #[arg(long)]
    pub random: bool,
    /// The sub-network: WIDTHxDEPTH, smallest, middle, intact, or the paper's small, base, ...
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Images to learn from: of `finetune` with labels, such as folder:DIR; of `segment` with masks, such as
    /// pairs:IMAGES::MASKS or ade20k:DIR (sets data.spec)
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub train: Option<String>,
    /// Images to be judged by; default: those that the source of --train brings or that are held out of it (sets data.val)
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub val: Option<String>,
    /// A TOML file, or one of the presets named below [default: demo, or with --resume the run's own]
    #[arg(long, value_name = "FILE|NAME")]
    pub config: Option<String>,
    /// Folder of the run; without --resume it must not hold another that has done a step [default: runs/COMMAND-PRESET-N]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Goes on with the run in --out from its newest whole checkpoint; where there is none yet, starts it
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Where, how long, and from which seed
    #[command(flatten)]
    pub run: RunArgs,
    /// Settings that replace those of the preset
    #[arg(value_name = "SECTION.KEY=VALUE")]
    pub settings: Vec<String>,
}

/// The preset that is taken without being told one.
const DEFAULT_PRESET: &str = "demo";

impl TaskArgs {
    /// The settings of the command line, those that have options of their own last; `section` is the task's.
    fn overrides(&self, section: &str) -> Vec<String> {
        let text = |key: &str, value: &str| format!("{key}={}", toml::Value::String(value.into()));
        let mut all = self.settings.clone();
        // as it is found from any folder: a run that has no checkpoint yet starts from it again
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let init = self.init.iter().map(|path| absolute(path).to_string_lossy().into_owned());
        all.extend(init.map(|path| text(&format!("{section}.init"), &path)));
        all.extend(self.random.then(|| format!("{section}.random=true")));
        all.extend(self.train.iter().map(|spec| text("data.spec", spec)));
        all.extend(self.val.iter().map(|spec| text("data.val", spec)));
        all.extend(self.network.iter().map(|network| text(&format!("{section}.network"), network)));
        all.extend(self.run.steps.map(|steps| format!("train.total_steps={steps}")));
        all.extend(self.run.seed.map(|seed| format!("train.seed={seed}")));
        all
    }
}

/// What all settings of such tasks say alike.
pub(super) struct Common<'a> {
    /// What the run starts from; empty for nothing.
    pub init: &'a str,
    /// Whether it starts from random weights.
    pub random: bool,
    /// The images to learn from; empty for none.
    pub spec: &'a str,
    /// Seconds that a rank waits for the others.
    pub rank_timeout: usize,
}

/// A task that is run from the command line.
pub(super) trait TaskCommand {
    /// Its settings.
    type Settings: Preset;
    /// Its images.
    type Data;
    /// The task.
    type Task: Task;

    /// An example of images to learn from, as options.
    const EXAMPLE: &'static str;

    /// What its settings say of the run.
    fn common(settings: &Self::Settings) -> Common<'_>;
    /// The settings that the sizes of what it starts from make.
    fn base(init: &Init) -> Result<Self::Settings>;
    /// Opens its images.
    fn open(settings: &Self::Settings) -> Result<Self::Data>;
    /// What is learnt from.
    fn source(data: &Self::Data) -> &dyn Source;
    /// How long the run is on so many images and ranks.
    fn plan(settings: &Self::Settings, images: usize, ranks: usize) -> RunPlan;
    /// The task, as one of its ranks.
    fn task(
        ranks: &Collective,
        settings: (Self::Settings, String),
        device: &Device,
        data: Self::Data,
        steps: usize,
        dir: Option<&Path>,
    ) -> Result<Self::Task>;
    /// The sub-network that is meant.
    fn network(settings: &Self::Settings) -> Result<Network>;
    /// Gives its network the weights that it starts from.
    fn fill(task: &mut Self::Task, init: &Init, network: Network, dir: &Path) -> Result<String>;
    /// Says how it has ended.
    fn report(outcome: &Outcome<Self::Task>, dir: Option<&Path>) -> Result<()>;
}

/// Runs a task on all its ranks.
pub(super) fn run<C: TaskCommand>(args: &TaskArgs, quiet: bool, signals: &Signals) -> Result<()> {
    environment::open_files()?;
    ranks::run(&args.run.asked(), |rank| tune::<C>(args, quiet, signals, rank))
}

/// The run as one of its ranks. The first has the run's folder and speaks for all.
fn tune<C: TaskCommand>(args: &TaskArgs, quiet: bool, signals: &Signals, rank: &Rank) -> Result<()> {
    let ranks = &rank.ranks;
    let section = <C::Settings as Recipes>::SECTION;
    let overrides = args.overrides(section);
    let source = args.config.as_deref().unwrap_or(DEFAULT_PRESET);
    ranks.agree(&[("the version", version::SHORT.to_string())])?;
    let quiet = quiet || !ranks.leads();
    let shows = |text: String| {
        if !quiet {
            mention!("{text}");
        }
    };
    let earlier = match args.out.as_deref().filter(|dir| ranks.leads() && args.resume && holds_run(dir)) {
        None => None,
        Some(dir) => {
            let folder = RunFolder::open(dir)?;
            let (text, path) = folder.stored_config()?;
            let stored = C::Settings::from_stored(&text, &path)?;
            Some((folder, stored))
        }
    };
    let begun = earlier
        .as_ref()
        .is_some_and(|(folder, _)| checkpoints_in(folder.checkpoints()).is_ok_and(|found| !found.is_empty()));
    let stored_init = earlier.as_ref().map(|(_, stored)| PathBuf::from(C::common(stored).init));
    let init = match args.init.clone().or(stored_init.filter(|path| !path.as_os_str().is_empty())) {
        Some(path) if ranks.leads() => match Init::open(&path) {
            // its checkpoint has all it needs
            Err(_) if begun => None,
            opened => Some(opened?),
        },
        _ => None,
    };
    let stored = earlier.as_ref().map(|(_, stored)| stored.to_toml()).transpose()?;
    let base = init.as_ref().map(|init| C::base(init)?.to_toml()).transpose()?;
    let (stored, base) = ranks.hear_first((stored, base))?;
    let resume = stored.is_some();
    let settings = match (&stored, &args.config) {
        (Some(stored), None) => C::Settings::from_stored(stored, CONFIG.as_ref())?.over(&overrides)?,
        _ => {
            // of a run that goes on with another preset: that over what it has
            let base = match stored.as_ref().or(base.as_ref()) {
                Some(base) => C::Settings::from_stored(base, CONFIG.as_ref())?,
                None => C::Settings::default(),
            };
            C::Settings::load(&base, source, &overrides)?
        }
    };
    if C::common(&settings).spec.is_empty() {
        let problem = format!("names no images; give {}, or --train shapes", C::EXAMPLE);
        return Err(Error::config("data.spec", problem));
    }
    agree_on_settings(ranks, &settings)?;
    ranks.be_patient(Duration::from_secs(C::common(&settings).rank_timeout as u64))?;
    let data = C::open(&settings)?;
    let (images, classes) = (C::source(&data).len(), C::source(&data).classes().len());
    agree_on_images(ranks, C::source(&data))?;
    let device = by_timing(ops::open(&rank.device)?)?;
    tell_devices(ranks, &device.describe())?;
    let folder = match earlier {
        _ if !ranks.leads() => None,
        Some((folder, stored)) => {
            for (key, new, old) in settings.differences(&stored)? {
                shows(format!("changed: {key} = {new} (was {old})"));
            }
            Some(folder)
        }
        None => Some(match (&args.out, args.resume) {
            (Some(dir), true) => RunFolder::start(dir, &settings.to_toml()?)?,
            _ => {
                let name = format!("{}-{}", <C::Settings as Recipes>::COMMAND, recipe_name(source));
                RunFolder::create(args.out.as_deref(), &name, &settings.to_toml()?)?
            }
        }),
    };
    shows(format!("device:  {}", device.describe()));
    let dir = folder.as_ref().map(|folder| folder.dir().to_path_buf());
    if let Some(dir) = &dir {
        shows(format!("run:     {}", shown(dir)));
    }
    shows(format!("data:    {}, {images} images of {classes} classes", C::source(&data).describe()));
    let plan = C::plan(&settings, images, ranks.size());
    let (network, random) = (C::network(&settings)?, C::common(&settings).random);
    let started = || -> Result<_> {
        let text = settings.to_toml()?;
        let mut task = C::task(ranks, (settings.clone(), text), &device, data, plan.steps, dir.as_deref())?;
        let told = match (&init, &dir) {
            // before there is a checkpoint: one that is loaded replaces it
            (Some(init), Some(dir)) if !random => Some(C::fill(&mut task, init, network, dir)?),
            _ => None,
        };
        Ok((task, told))
    };
    let started = started();
    if let Some(folder) = folder.as_ref().filter(|_| started.is_err() && !resume) {
        folder.withdraw();
    }
    let (task, told) = started?;
    let start = Start { resume, stop: signals.stop().clone(), ranks: ranks.clone(), ..Start::default() };
    let mut trainer = Trainer::new(task, plan, folder, &start)?;
    if !trainer.resumed() && told.is_none() && !random && ranks.leads() {
        return Err(Error::config(
            format!("{section}.init"),
            "says nothing that can be read, and there is no whole checkpoint to go on from; give --init, or --random",
        ));
    }
    match told.filter(|_| !trainer.resumed()) {
        Some(told) => trainer.say(&told),
        None if !trainer.resumed() => trainer.say(&format!("network {network} starts from random weights")),
        None => {}
    }
    // until here there was nothing to save
    let stop = signals.orderly();
    let outcome = trainer.run()?;
    if ranks.leads() {
        C::report(&outcome, dir.as_deref())?;
    }
    match outcome.interrupted {
        true => Err(Error::Interrupted(stop.asked().unwrap_or(Interruption::Asked))),
        false => Ok(()),
    }
}

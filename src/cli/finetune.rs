//! `poa-gpu finetune`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::cli::environment;
use crate::cli::ranks::{self, Rank, agree_on_images, agree_on_settings, tell_devices};
use crate::cli::run_args::RunArgs;
use crate::cli::signals::Signals;
use crate::cli::subject::data_spec;
use crate::cli::version;
use crate::error::{Error, Interruption, Result};
use crate::eval::classification::Classification;
use crate::files::checkpoint::{self, checkpoints_in};
use crate::files::durable::replace_file;
use crate::files::tensor_writer::write_tensors_with;
use crate::models::plain::Format;
use crate::ops;
use crate::ops::matmul::by_timing;
use crate::recipes::teacher::config_of;
use crate::recipes::{Config, recipe_name};
use crate::shown::shown;
use crate::tasks::finetune::{self, Finetune, FinetuneModel, FinetuneTask, Settings};
use crate::train::run_folder::{CONFIG, RunFolder, holds_run};
use crate::train::save::TEACHER;
use crate::train::trainer::{Outcome, Start, Trainer};
use crate::weights::extract::Extraction;
use crate::weights::import::Import;
use crate::weights::sizes::student_in;

/// Arguments of `finetune`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu finetune --init runs/demo-1                  the demo's network on the embedded images
  poa-gpu finetune --init runs/photos --network small --train folder:in/train --val folder:in/val --config imagenet
  poa-gpu finetune --init runs/photos --network small --train folder:in/train --val folder:in/val --config semi data.fraction=0.1
  poa-gpu finetune --init runs/photos --random --train folder:in/train     the same network from random weights
  poa-gpu finetune --out runs/tuned --resume           goes on where runs/tuned ended")]
pub struct FinetuneArgs {
    /// What to start from: a run's folder (its newest checkpoint is taken) or a checkpoint's; an extracted network's folder;
    /// or a safetensors file, whose sizes section student of --config must say (of a Swin's or ResNet's folder too)
    #[arg(long, value_name = "FILE|DIR", required_unless_present_any = ["resume", "random"])]
    pub init: Option<PathBuf>,
    /// Takes the sizes of --init, or without it those of --config, and random weights: what pre-training is compared with
    #[arg(long)]
    pub random: bool,
    /// The sub-network: WIDTHxDEPTH, smallest, middle, intact, or the paper's small, base, ... (sets finetune.network)
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Labelled images to learn from, as in `poa-gpu train --data` (sets data.spec)
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub train: Option<String>,
    /// Labelled images to be judged by; default: those that the source of --train brings or that are held out of it (sets
    /// data.val)
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub val: Option<String>,
    /// A TOML file, or a preset: demo, imagenet, semi, cifar10, cifar100, cars, flowers, inat18, inat19, linear
    /// [default: demo, or with --resume the run's own]
    #[arg(long, value_name = "FILE|NAME")]
    pub config: Option<String>,
    /// Folder of the run; without --resume it must not hold another that has done a step [default: runs/finetune-PRESET-N]
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

impl FinetuneArgs {
    /// The settings of the command line, those that have options of their own last.
    fn overrides(&self) -> Vec<String> {
        let text = |key: &str, value: &str| format!("{key}={}", toml::Value::String(value.into()));
        let mut all = self.settings.clone();
        // as it is found from any folder: a run that has no checkpoint yet starts from it again
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        all.extend(self.init.iter().map(|path| text("finetune.init", &absolute(path).to_string_lossy())));
        all.extend(self.random.then(|| "finetune.random=true".to_string()));
        all.extend(self.train.iter().map(|spec| text("data.spec", spec)));
        all.extend(self.val.iter().map(|spec| text("data.val", spec)));
        all.extend(self.network.iter().map(|network| text("finetune.network", network)));
        all.extend(self.run.steps.map(|steps| format!("train.total_steps={steps}")));
        all.extend(self.run.seed.map(|seed| format!("train.seed={seed}")));
        all
    }

    fn source(&self) -> &str {
        self.config.as_deref().unwrap_or(DEFAULT_PRESET)
    }
}

pub(super) fn run(args: &FinetuneArgs, quiet: bool, signals: &Signals) -> Result<()> {
    environment::open_files()?;
    ranks::run(&args.run.asked(), |rank| tune(args, quiet, signals, rank))
}

/// What a run starts from.
enum Init {
    /// A checkpoint of pre-training, and how it was made.
    Checkpoint(checkpoint::Checkpoint, Box<Config>),
    /// A file of a plain network, or a folder with one.
    Plain(PathBuf),
}

impl Init {
    fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Err(Error::file(
                path,
                "no such file or folder; --init takes a run, a checkpoint or weights",
            ));
        }
        match path.is_dir() && (checkpoint::has_manifest(path) || checkpoint::find_in(path)?.is_some()) {
            true => {
                let found = checkpoint::find(path)?;
                let config = config_of(&found)?;
                Ok(Self::Checkpoint(found, Box::new(config)))
            }
            false => Ok(Self::Plain(path.to_path_buf())),
        }
    }

    /// What its sizes make the settings begin with.
    fn base(&self) -> Result<Settings> {
        Ok(match self {
            Self::Plain(path) => {
                let mut base = Settings::default();
                if let Some(described) = student_in(path)? {
                    base.student = described.student;
                    base.finetune.image_size = described.image;
                    (base.data.data.mean, base.data.data.std) = (described.mean, described.std);
                }
                base
            }
            Self::Checkpoint(_, config) => {
                let image_size = config.crops.global_crops_size;
                let mut base = Settings { student: config.student.clone(), ..Settings::default() };
                base.finetune = Finetune { image_size, ..Finetune::default() };
                if !config.dino.branches.draws() {
                    // the one that was trained
                    base.finetune.network = config.backbone()?.grid().intact().to_string();
                }
                (base.data.data.mean, base.data.data.std) =
                    (config.data.mean.clone(), config.data.std.clone());
                (base.data.data.max_pixels, base.data.data.deep_bits) =
                    (config.data.max_pixels, config.data.deep_bits);
                base
            }
        })
    }

    /// Gives a model its weights; `dir` is the run's folder.
    fn fill(&self, model: &mut FinetuneModel, settings: &Settings, dir: &Path) -> Result<String> {
        let specs: Vec<_> = model.backbone.specs();
        match self {
            Self::Plain(path) => model.start_from(&Import::open(path, &*model.backbone, &specs)?),
            Self::Checkpoint(checkpoint, config) => {
                let (teacher, whole) = (checkpoint.tensors(TEACHER)?, config.backbone()?);
                let network = settings.sub_network()?;
                let extraction = Extraction::new(&teacher, &*whole, network, Format::Poa)?;
                let file = dir.join("start.safetensors");
                write_tensors_with(&file, &extraction.tensors(), &[], |name| extraction.read(name))?;
                let summary = Import::open(&file, &*model.backbone, &specs)
                    .and_then(|import| model.start_from(&import));
                let removed = std::fs::remove_file(&file);
                summary?;
                removed.map_err(|e| Error::file(&file, format!("cannot be removed: {e}")))?;
                let step = checkpoint.state::<crate::train::save::RunState>()?.step;
                Ok(format!("starts from network {network} of {} ({step} steps)", shown(checkpoint.dir())))
            }
        }
    }
}

/// The run as one of its ranks. The first has the run's folder and speaks for all.
fn tune(args: &FinetuneArgs, quiet: bool, signals: &Signals, rank: &Rank) -> Result<()> {
    let ranks = &rank.ranks;
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
            let stored = Settings::from_stored(&text, &path)?;
            Some((folder, stored))
        }
    };
    let begun = earlier
        .as_ref()
        .is_some_and(|(folder, _)| checkpoints_in(folder.checkpoints()).is_ok_and(|found| !found.is_empty()));
    let stored_init = earlier.as_ref().map(|(_, stored)| PathBuf::from(&stored.finetune.init));
    let init = match args.init.clone().or(stored_init.filter(|path| !path.as_os_str().is_empty())) {
        Some(path) if ranks.leads() => match Init::open(&path) {
            // its checkpoint has all it needs
            Err(_) if begun => None,
            opened => Some(opened?),
        },
        _ => None,
    };
    let stored = earlier.as_ref().map(|(_, stored)| stored.to_toml()).transpose()?;
    let base = init.as_ref().map(|init| init.base()?.to_toml()).transpose()?;
    let (stored, base) = ranks.hear_first((stored, base))?;
    let resume = stored.is_some();
    let settings = match (&stored, &args.config) {
        (Some(stored), None) => Settings::from_stored(stored, CONFIG.as_ref())?.over(&args.overrides())?,
        _ => {
            // of a run that goes on with another preset: that over what it has
            let base = match stored.as_ref().or(base.as_ref()) {
                Some(base) => Settings::from_stored(base, CONFIG.as_ref())?,
                None => Settings::default(),
            };
            Settings::load(&base, args.source(), &args.overrides())?
        }
    };
    if settings.data.data.spec.is_empty() {
        return Err(Error::config(
            "data.spec",
            "names no images; give --train folder:DIR, or --train shapes",
        ));
    }
    agree_on_settings(ranks, &settings)?;
    ranks.be_patient(Duration::from_secs(settings.train.rank_timeout as u64))?;
    let data = finetune::open(&settings)?;
    let (images, classes) = (data.train.len(), data.train.classes().len());
    agree_on_images(ranks, &*data.train)?;
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
                let name = format!("finetune-{}", recipe_name(args.source()));
                RunFolder::create(args.out.as_deref(), &name, &settings.to_toml()?)?
            }
        }),
    };
    shows(format!("device:  {}", device.describe()));
    let dir = folder.as_ref().map(|folder| folder.dir().to_path_buf());
    if let Some(dir) = &dir {
        shows(format!("run:     {}", shown(dir)));
    }
    shows(format!("data:    {}, {images} images of {classes} classes", data.train.describe()));
    let plan = settings.plan(images, ranks.size());
    let started = || -> Result<_> {
        let text = settings.to_toml()?;
        let mut task =
            FinetuneTask::new(ranks, (settings.clone(), text), &device, data, plan.steps, dir.as_deref())?;
        let told = match (&init, &dir) {
            // before there is a checkpoint: one that is loaded replaces it
            (Some(init), Some(dir)) if !settings.finetune.random => {
                Some(init.fill(&mut task.model, &settings, dir)?)
            }
            _ => None,
        };
        Ok((task, told))
    };
    let started = started();
    if let Some(folder) = folder.as_ref().filter(|_| started.is_err() && !resume) {
        folder.withdraw();
    }
    let (task, told) = started?;
    let network = task.model.network;
    let start = Start { resume, stop: signals.stop().clone(), ranks: ranks.clone(), ..Start::default() };
    let mut trainer = Trainer::new(task, plan, folder, &start)?;
    if !trainer.resumed() && told.is_none() && !settings.finetune.random && ranks.leads() {
        return Err(Error::config(
            "finetune.init",
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
        report(&outcome, dir.as_deref())?;
    }
    match outcome.interrupted {
        true => Err(Error::Interrupted(stop.asked().unwrap_or(Interruption::Asked))),
        false => Ok(()),
    }
}

/// Says how good the network has become, and writes how good it is class by class.
fn report(outcome: &Outcome<FinetuneTask>, dir: Option<&Path>) -> Result<()> {
    if outcome.interrupted {
        mention!("interrupted after {} steps", outcome.steps);
    }
    let judged = outcome.task.judged();
    let best = judged.iter().reduce(|best, one| if one.1.top1 > best.1.top1 { one } else { best });
    if let (Some((step, best)), Some((_, last))) = (best, judged.last()) {
        mention!("\ntop-1 {:.2}%, top-5 {:.2}%", 100.0 * last.top1, 100.0 * last.top5);
        mention!("the best: {:.2}% after {step} steps", 100.0 * best.top1);
    }
    if let (Some(dir), Some(last)) = (dir, outcome.task.last()) {
        write_table(last, outcome.task.classes(), dir)?;
        let title = format!("{} images to be judged by", last.images());
        last.draw(outcome.task.classes(), &title, &dir.join("confusion"))?;
        if let Some(format) = outcome.task.written() {
            mention!("the network with its classifier (format {format}): {}", shown(&dir.join("best")));
        }
    }
    mention!("checkpoint: {}", shown(&outcome.checkpoint));
    Ok(())
}

/// Images and accuracy of every class, as CSV.
fn write_table(found: &Classification, classes: &[String], dir: &Path) -> Result<()> {
    let mut table = String::from("class,images,accuracy\n");
    let mut images = vec![0; classes.len()];
    found.confusion().iter().for_each(|((label, _), count)| images[*label as usize] += count);
    for ((name, accuracy), images) in classes.iter().zip(found.per_class()).zip(images) {
        let accuracy = accuracy.map_or_else(String::new, |share| format!("{share:.4}"));
        // writing to a string cannot fail
        let _ = writeln!(table, "\"{}\",{images},{accuracy}", name.replace('"', "\"\""));
    }
    replace_file(&dir.join("classes.csv"), table.as_bytes())
}

//! `poa-gpu distill`.

pub(super) mod teacher;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::cli::distill::teacher::{Found, Identity};
use crate::cli::environment;
use crate::cli::ranks::{self, Rank, agree_on_images, agree_on_settings, tell_devices};
use crate::cli::run_args::RunArgs;
use crate::cli::signals::Signals;
use crate::cli::subject::data_spec;
use crate::cli::version;
use crate::data::channels::in_channels;
use crate::data::open_setting;
use crate::error::{Error, Interruption, Result};
use crate::files::checkpoint::Checkpoint;
use crate::models::plain::Format;
use crate::ops;
use crate::ops::matmul::by_timing;
use crate::recipes::{Preset, Stored, recipe_name};
use crate::shown::shown;
use crate::tasks::distill::{DistillTask, Settings};
use crate::train::run_folder::{CONFIG, RunFolder, holds_run};
use crate::train::save::TEACHER;
use crate::train::task::Task;
use crate::train::trainer::{Outcome, Start, Trainer};
use crate::weights::extract::Extraction;

/// Arguments of `distill`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu distill --teacher runs/demo-1                the demo's smallest size from its whole network, on the embedded images
  poa-gpu distill --teacher runs/photos --student small --data folder:in/train --config seed
  poa-gpu distill --teacher nets/vit-l --data folder:in/train --config my.toml     a student of any family, by section student
  poa-gpu distill --out runs/student --resume          goes on where runs/student ended
then
  poa-gpu eval knn --checkpoint runs/student --train folder:in/train --val folder:in/val")]
pub struct DistillArgs {
    /// What is learnt from: a run's folder (its newest checkpoint is taken) or a checkpoint's; an extracted network's folder; or a
    /// safetensors file, whose sizes section student of --config must say (of a Swin's or ResNet's folder too)
    #[arg(long, value_name = "FILE|DIR", required_unless_present = "resume")]
    pub teacher: Option<PathBuf>,
    /// The teacher's sub-network: WIDTHxDEPTH, smallest, middle, intact, or the paper's small, base, ... (sets
    /// distill.teacher_network)
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// The student's size, a sub-network of section student, which is the teacher's where the recipe does not say (sets
    /// distill.student)
    #[arg(long, value_name = "NETWORK")]
    pub student: Option<String>,
    /// Images to learn from, as in `poa-gpu train --data` (sets data.spec)
    #[arg(long, value_name = "SPEC", value_parser = data_spec())]
    pub data: Option<String>,
    /// A TOML file, or a preset: demo, seed [default: demo, or with --resume the run's own]
    #[arg(long, value_name = "FILE|NAME")]
    pub config: Option<String>,
    /// Folder of the run; without --resume it must not hold another that has done a step [default: runs/distill-PRESET-N]
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
/// The folder of the student as a plain network, in a run's.
const STUDENT: &str = "student";

impl DistillArgs {
    /// The settings of the command line, those that have options of their own last.
    fn overrides(&self, teacher: Option<&Found>) -> Vec<String> {
        let text = |key: &str, value: &str| format!("{key}={}", toml::Value::String(value.into()));
        let mut all = self.settings.clone();
        all.extend(teacher.map(|found| text("distill.teacher", &found.path().to_string_lossy())));
        all.extend(self.network.iter().map(|network| text("distill.teacher_network", network)));
        all.extend(self.student.iter().map(|network| text("distill.student", network)));
        all.extend(self.data.iter().map(|spec| text("data.spec", spec)));
        all.extend(self.run.steps.map(|steps| format!("train.total_steps={steps}")));
        all.extend(self.run.seed.map(|seed| format!("train.seed={seed}")));
        all
    }

    fn source(&self) -> &str {
        self.config.as_deref().unwrap_or(DEFAULT_PRESET)
    }
}

pub(super) fn run(args: &DistillArgs, quiet: bool, signals: &Signals) -> Result<()> {
    environment::open_files()?;
    ranks::run(&args.run.asked(), |rank| distil(args, quiet, signals, rank))
}

/// The run as one of its ranks. The first has the run's folder and speaks for all.
fn distil(args: &DistillArgs, quiet: bool, signals: &Signals, rank: &Rank) -> Result<()> {
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
    let stored = earlier.as_ref().map(|(_, stored)| stored.to_toml()).transpose()?;
    let stored = ranks.hear_first(stored)?;
    let resume = stored.is_some();
    let stored = stored.map(|text| Settings::from_stored(&text, CONFIG.as_ref())).transpose()?;
    // every rank reads the teacher, as every rank reads images
    let given = match &args.teacher {
        Some(path) => Some(Found::open(path)?),
        None => None,
    };
    let overrides = args.overrides(given.as_ref());
    let settings = match (&stored, &args.config) {
        (Some(stored), None) => stored.over(&overrides)?,
        (Some(stored), Some(_)) => Settings::load(stored, args.source(), &overrides)?,
        (None, _) => {
            let base = given.as_ref().map_or_else(Settings::default, Found::base);
            Settings::load(&base, args.source(), &overrides)?
        }
    };
    if settings.data.spec.is_empty() {
        return Err(Error::config("data.spec", "names no images; give --data folder:DIR, or --data shapes"));
    }
    agree_on_settings(ranks, &settings)?;
    ranks.be_patient(Duration::from_secs(settings.train.rank_timeout as u64))?;
    let found = match given {
        Some(found) => found,
        None if settings.distill.teacher.is_empty() => {
            return Err(Error::config("distill.teacher", "is empty; give --teacher"));
        }
        None => Found::open(Path::new(&settings.distill.teacher))?,
    };
    let source = open_setting("data.spec", &settings.data.spec, &settings.data.reading())?;
    let source = in_channels(source, settings.channels())?;
    agree_on_images(ranks, &*source)?;
    let device = by_timing(ops::open(&rank.device)?)?;
    tell_devices(ranks, &device.describe())?;
    let teacher = found.frozen(&settings, &device)?;
    let identity = Identity {
        teacher: found.path().to_string_lossy().into_owned(),
        network: teacher.network.to_string(),
        checksum: format!("{:08x}", teacher.checksum()?),
    };
    ranks.agree(&[("the checksum of the teacher", identity.checksum.clone())])?;
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
                let name = format!("distill-{}", recipe_name(args.source()));
                RunFolder::create(args.out.as_deref(), &name, &settings.to_toml()?)?
            }
        }),
    };
    shows(format!("device:  {}", device.describe()));
    let dir = folder.as_ref().map(|folder| folder.dir().to_path_buf());
    if let Some(dir) = &dir {
        shows(format!("run:     {}", shown(dir)));
        identity.keep(dir, resume)?;
    }
    shows(format!("data:    {}, {} images", source.describe(), source.len()));
    shows(format!("teacher: {} of {}", identity.network, shown(&identity.teacher)));
    let text = settings.to_toml()?;
    let task = DistillTask::new(ranks, (settings.clone(), text), &device, teacher, source, dir.as_deref());
    if let Some(folder) = folder.as_ref().filter(|_| task.is_err() && !resume) {
        let _ = std::fs::remove_file(folder.dir().join("teacher.json"));
        folder.withdraw();
    }
    let task = task?;
    let plan = settings.plan(task.samples(), ranks.size());
    let network = task.model.network;
    let start = Start { resume, stop: signals.stop().clone(), ranks: ranks.clone(), ..Start::default() };
    let mut trainer = Trainer::new(task, plan, folder, &start)?;
    if !trainer.resumed() {
        trainer.say(&format!(
            "student {network} ({}) starts from random weights, teacher {}",
            settings.student.name(),
            identity.network
        ));
    }
    // until here there was nothing to save
    let stop = signals.orderly();
    let outcome = trainer.run()?;
    if ranks.leads() {
        report(&outcome, &settings, dir.as_deref())?;
    }
    match outcome.interrupted {
        true => Err(Error::Interrupted(stop.asked().unwrap_or(Interruption::Asked))),
        false => Ok(()),
    }
}

/// Says how good the student has become, and writes it as a network of its own.
fn report(outcome: &Outcome<DistillTask>, settings: &Settings, dir: Option<&Path>) -> Result<()> {
    if outcome.interrupted {
        mention!("interrupted after {} steps", outcome.steps);
    }
    let found = outcome.task.found();
    for (_, key, after) in found.iter().filter(|(step, _, _)| *step == outcome.steps) {
        let before = found.iter().find(|(step, known, _)| *step == 0 && known == key);
        let name = key.trim_start_matches("knn.").replacen('.', ", k = ", 1);
        let from = before
            .map_or_else(String::new, |(_, _, top1)| format!(" (from random weights {:.1}%)", 100.0 * top1));
        mention!("k-NN {name}: {:.1}%{from}", 100.0 * after);
    }
    if let Some(dir) = dir.filter(|_| !outcome.interrupted) {
        let format = write_student(outcome, settings, &dir.join(STUDENT))?;
        mention!("the student (format {format}): {}", shown(&dir.join(STUDENT)));
    }
    mention!("checkpoint: {}", shown(&outcome.checkpoint));
    Ok(())
}

/// The student of the last checkpoint for timm, or where timm has no such network in POA's format. Says in which.
fn write_student(outcome: &Outcome<DistillTask>, settings: &Settings, to: &Path) -> Result<Format> {
    let (backbone, network) = (&*outcome.task.model.backbone, outcome.task.model.network);
    let format = if backbone.plain(network, Format::Timm).is_ok() { Format::Timm } else { Format::Poa };
    let average = Checkpoint::open(&outcome.checkpoint)?.tensors(TEACHER)?;
    Extraction::new(&average, backbone, network, format)?.normalized(settings.normalization()?).write(to)?;
    Ok(format)
}

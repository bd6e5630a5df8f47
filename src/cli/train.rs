//! `poa-gpu train`.

use std::path::Path;
use std::time::Duration;

use crate::cli::args::TrainArgs;
use crate::cli::environment;
use crate::cli::forecast;
use crate::cli::ranks::{self, Rank, agree_on_images, agree_on_settings, tell_devices};
use crate::cli::signals::Signals;
use crate::cli::version;
use crate::data;
use crate::data::channels::in_channels;
use crate::error::{Error, Interruption, Result};
use crate::files::checkpoint::checkpoints_in;
use crate::logging;
use crate::ops;
use crate::ops::matmul::by_timing;
use crate::poa::{PoaModel, PoaTask};
use crate::recipes::Config;
use crate::shown::shown;
use crate::tensor::Device;
use crate::train::profiling::Profiling;
use crate::train::run_folder::{CONFIG, RunFolder};
use crate::train::trainer::{Outcome, Start, Trainer};
use crate::weights::import::Import;

pub(super) fn run(args: &TrainArgs, quiet: bool, signals: &Signals) -> Result<()> {
    environment::open_files()?;
    ranks::run(&args.run.asked(), |rank| train(args, quiet, signals, rank))
}

/// The run as one of its ranks. The first has the run's folder and speaks for all.
fn train(args: &TrainArgs, quiet: bool, signals: &Signals, rank: &Rank) -> Result<()> {
    let ranks = &rank.ranks;
    ranks.agree(&[("the version", version::SHORT.to_string())])?;
    let quiet = quiet || !ranks.leads();
    let earlier = match args.run_to_resume().filter(|_| ranks.leads()) {
        None => None,
        Some(dir) => {
            let folder = RunFolder::open(&dir)?;
            let (text, path) = folder.stored_config()?;
            let stored = Config::from_stored(&text, &path).map_err(|e| match folder.config_copy() {
                Some((_, copy)) if copy != path => {
                    Error::file(&path, format!("{e}; an intact copy is {}", shown(&copy)))
                }
                _ => e,
            })?;
            Some((folder, stored))
        }
    };
    // other ranks need not see the folder
    let stored = earlier.as_ref().map(|(_, stored)| stored.to_toml()).transpose()?;
    let stored = match ranks.hear_first(stored)? {
        None => None,
        Some(text) => Some(Config::from_stored(&text, CONFIG.as_ref())?),
    };
    let resume = stored.is_some();
    let mut config = match &stored {
        None => args.load_config(ranks.size())?,
        Some(stored) => args.resumed_config(stored.clone(), ranks.size())?,
    };
    agree_on_settings(ranks, &config)?;
    ranks.be_patient(Duration::from_secs(config.train.rank_timeout as u64))?;
    if let Some(init) = args.init.as_deref().filter(|path| ranks.leads() && !path.exists()) {
        return Err(Error::file(
            init,
            "no such file; --init takes a safetensors file or a checkpoint's folder",
        ));
    }
    // before there is a folder, or a step; the heads need not be known for it
    let begun = |(folder, _): &(RunFolder, Config)| {
        checkpoints_in(folder.checkpoints()).is_ok_and(|found| !found.is_empty())
    };
    let wanted = |_: &&Path| ranks.leads() && !earlier.as_ref().is_some_and(begun);
    if let Some(init) = args.init.as_deref().filter(wanted) {
        let backbone = config.backbone()?;
        Import::open(init, &*backbone, &backbone.specs())?.demand(args.init_partial)?;
    }
    let profile = args.profile.clone().filter(|_| ranks.leads()).map(Profiling::create).transpose()?;
    let source = data::open_setting("data.spec", &config.data.spec, &config.data.reading())?;
    let source = in_channels(source, config.channels())?;
    agree_on_images(ranks, &*source)?;
    config.fit(source.len());
    let device = by_timing(ops::open(&rank.device)?)?;
    tell_devices(ranks, &device.describe())?;
    // before there is a folder: what the device refuses is no run
    let (memory, too_much) =
        forecast::of_memory(&mut config, &device, !resume && ranks.leads(), ranks.size())?;
    let config = match ranks.is_alone() {
        true => config,
        false => Config::from_stored(&ranks.hear_first(config.to_toml()?)?, CONFIG.as_ref())?,
    };
    let shows = |text: String| {
        if !quiet {
            mention!("{text}");
        }
    };
    let mut changes = Vec::new();
    let folder = match earlier {
        _ if !ranks.leads() => None,
        Some((folder, stored)) => {
            changes = config.differences(&stored)?;
            for (key, new, old) in &changes {
                shows(format!("changed: {key} = {new} (was {old})"));
            }
            Some(folder)
        }
        // what an attempt left that was ended before it had a configuration is no run
        None => Some(match (&args.out, args.resume) {
            (Some(dir), true) => RunFolder::start(dir, &config.to_toml()?)?,
            _ => RunFolder::create(args.out.as_deref(), &args.recipe(), &config.to_toml()?)?,
        }),
    };
    match ranks.size() {
        1 => shows(format!("device:  {}", device.describe())),
        size => shows(format!("device:  {} and those of {} other ranks", device.describe(), size - 1)),
    }
    if let Some(folder) = &folder {
        shows(format!("run:     {}", shown(folder.dir())));
    }
    let (plan, text) = (config.plan(), config.to_toml()?);
    shows(format!("memory:  {memory}"));
    if let Some(warning) = too_much {
        logging::warn(warning);
    }
    if config.optim.shard && ranks.is_alone() {
        logging::debug("optim.shard: there is one rank, and nothing is split");
    }
    let task = PoaTask::of_rank(ranks, config, text, &device, source, folder.as_ref().map(RunFolder::dir));
    if let Some(folder) = folder.as_ref().filter(|_| task.is_err() && !resume) {
        folder.withdraw();
    }
    let task = task?;
    shows(format!("data:    {}", task.data()));
    let start = Start { resume, profile, stop: signals.stop().clone(), ranks: ranks.clone() };
    let mut trainer = Trainer::new(task, plan, folder, &start).map_err(|e| with_changes(e, &changes))?;
    match args.init.as_deref().filter(|_| ranks.leads()) {
        Some(path) if trainer.resumed() => {
            trainer
                .say(&format!("the run goes on from its checkpoint: --init {} is passed over", shown(path)));
        }
        Some(path) => {
            let summary = initialise(&mut trainer.task_mut().model, path)?;
            trainer.say(&summary);
        }
        None => {}
    }
    // until here there was nothing to save
    let stop = signals.orderly();
    let outcome = trainer.run()?;
    // on the way it is shown as a message
    if let Some(table) = outcome.profile.as_ref().filter(|_| quiet) {
        mention!("{table}");
    }
    if ranks.leads() {
        report(&outcome, &device);
    }
    match outcome.interrupted {
        true => Err(Error::Interrupted(stop.asked().unwrap_or(Interruption::Asked))),
        false => Ok(()),
    }
}

/// What is wrong with a checkpoint, with the settings that were changed since: sizes of another network do not fit it.
fn with_changes(e: Error, changes: &[(String, String, String)]) -> Error {
    let sizes = ["student.", "dino.head_", "ibot.head_", "ibot.separate_head", "crops.global_crops_size"];
    let changed: Vec<String> = changes
        .iter()
        .filter(|(key, ..)| sizes.iter().any(|size| key.starts_with(size)))
        .map(|(key, new, old)| format!("{key} = {new} (was {old})"))
        .collect();
    match changed.is_empty() || !matches!(e, Error::File { .. } | Error::Shape { .. }) {
        true => e,
        false => e.and(format!(
            "the run is to go on with {}; where that changes sizes its checkpoint does not fit: leave it out, or start a \
             run of its own",
            changed.join(", ")
        )),
    }
}

/// Fills student and teacher from a file of weights, as far as it has them; says which those are.
fn initialise(model: &mut PoaModel, path: &Path) -> Result<String> {
    let specs: Vec<_> = model.student.values().layout().places().iter().map(|p| p.spec.clone()).collect();
    let import = Import::open(path, &*model.backbone, &specs)?;
    import.fill(|name, values| {
        model.student.values().write(name, values)?;
        model.teacher.values().write(name, values)
    })?;
    model.trained().values_changed()?;
    Ok(import.summary())
}

fn report(outcome: &Outcome<PoaTask>, device: &Device) {
    if outcome.interrupted {
        mention!("interrupted after {} steps", outcome.steps);
    }
    let gains = match outcome.interrupted {
        true => Vec::new(),
        false => outcome.task.gains(outcome.steps),
    };
    if !gains.is_empty() {
        mention!("\nk-NN top-1 of the teacher's sub-networks on held-out images");
        mention!("  {:<12} {:>4} {:>8} {:>8} {:>8}", "network", "k", "before", "after", "gain");
        for r in &gains {
            let [before, gain] = match r.before {
                Some(before) => {
                    [format!("{:.1}%", 100.0 * before), format!("{:+.1}", 100.0 * (r.after - before))]
                }
                None => ["-".into(), "-".into()],
            };
            let (network, after) = (r.network.to_string(), format!("{:.1}%", 100.0 * r.after));
            mention!("  {network:<12} {:>4} {before:>8} {after:>8} {gain:>8}", r.k);
        }
        if gains.iter().any(|r| r.before.is_none()) {
            mention!("  (before the first step other images were classified, or it was not noted)");
        }
    }
    mention!("\ncheckpoint:         {}", shown(&outcome.checkpoint));
    mention!("peak device memory: {} MiB", device.peak_bytes() >> 20);
}

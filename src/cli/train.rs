//! `poa-gpu train`.

use std::path::Path;

use crate::cli::args::TrainArgs;
use crate::cli::environment;
use crate::cli::signals::Signals;
use crate::data;
use crate::data::channels::in_channels;
use crate::error::{Error, Interruption, Result};
use crate::files::checkpoint::checkpoints_in;
use crate::ops;
use crate::poa::{PoaModel, PoaTask};
use crate::recipes::Config;
use crate::shown::shown;
use crate::tensor::Device;
use crate::train::profiling::Profiling;
use crate::train::run_folder::RunFolder;
use crate::train::trainer::{Outcome, Start, Trainer};
use crate::weights::import::Import;

pub(super) fn run(args: &TrainArgs, quiet: bool, signals: &Signals) -> Result<()> {
    environment::open_files()?;
    let earlier = match args.run_to_resume() {
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
    let config = match &earlier {
        None => args.load_config(1)?,
        Some((_, stored)) => args.resumed_config(stored.clone(), 1)?,
    };
    if let Some(init) = args.init.as_deref().filter(|path| !path.exists()) {
        return Err(Error::file(
            init,
            "no such file; --init takes a safetensors file or a checkpoint's folder",
        ));
    }
    // before there is a folder, or a step; the heads need not be known for it
    let begun = |(folder, _): &(RunFolder, Config)| {
        checkpoints_in(folder.checkpoints()).is_ok_and(|found| !found.is_empty())
    };
    if let Some(init) = args.init.as_deref().filter(|_| !earlier.as_ref().is_some_and(begun)) {
        let backbone = config.backbone()?;
        Import::open(init, &*backbone, &backbone.specs())?.demand(args.init_partial)?;
    }
    let profile = args.profile.clone().map(Profiling::create).transpose()?;
    let source = in_channels(data::open(&config.data.spec, &config.data.reading())?, config.channels())?;
    let device = ops::open(&args.device)?;
    let shows = |text: String| {
        if !quiet {
            mention!("{text}");
        }
    };
    let resume = earlier.is_some();
    let folder = match earlier {
        Some((folder, stored)) => {
            let changes = config.differences(&stored)?;
            for (key, new, old) in &changes {
                shows(format!("changed: {key} = {new} (was {old})"));
            }
            folder
        }
        // what an attempt left that was ended before it had a configuration is no run
        None => match (&args.out, args.resume) {
            (Some(dir), true) => RunFolder::start(dir, &config.to_toml()?)?,
            _ => RunFolder::create(args.out.as_deref(), &args.recipe(), &config.to_toml()?)?,
        },
    };
    shows(format!("device:  {}", device.describe()));
    shows(format!("data:    {}, {} images", source.describe(), source.len()));
    shows(format!("run:     {}", shown(folder.dir())));
    let (plan, text) = (config.plan(), config.to_toml()?);
    let task = PoaTask::new(config, text, &device, source, folder.dir());
    if task.is_err() && !resume {
        folder.withdraw();
    }
    let task = task?;
    let start = Start { resume, profile, stop: signals.stop().clone() };
    let mut trainer = Trainer::new(task, plan, folder, &start)?;
    if let Some(path) = args.init.as_deref().filter(|_| !trainer.resumed()) {
        let summary = initialise(&mut trainer.task_mut().model, path)?;
        trainer.say(&summary);
    }
    // until here there was nothing to save
    let stop = signals.orderly();
    let outcome = trainer.run()?;
    if !quiet {
        report(&outcome, &device);
    }
    match outcome.interrupted {
        true => Err(Error::Interrupted(stop.asked().unwrap_or(Interruption::Asked))),
        false => Ok(()),
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
            mention!(
                "  {:<12} {:>4} {:>7.1}% {:>7.1}% {:>+8.1}",
                r.network.to_string(),
                r.k,
                100.0 * r.before,
                100.0 * r.after,
                100.0 * (r.after - r.before)
            );
        }
    }
    mention!("\ncheckpoint:         {}", shown(&outcome.checkpoint));
    mention!("peak device memory: {} MiB", device.peak_bytes() >> 20);
}

//! `poa-gpu finetune`.

use std::fmt::Write;
use std::path::Path;

use clap::Args;

use crate::cli::init::Init;
use crate::cli::signals::Signals;
use crate::cli::task_run::{self, Common, TaskArgs, TaskCommand};
use crate::collective::Collective;
use crate::data::Source;
use crate::error::Result;
use crate::eval::classification::Classification;
use crate::files::durable::replace_file;
use crate::models::grid::Network;
use crate::shown::shown;
use crate::tasks::finetune::{self, Finetune, FinetuneData, FinetuneTask, Settings};
use crate::tensor::Device;
use crate::train::plan::RunPlan;
use crate::train::trainer::Outcome;

/// Arguments of `finetune`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu finetune --init runs/demo-1                  the demo's network on the embedded images
  poa-gpu finetune --init runs/photos --network small --train folder:in/train --val folder:in/val --config imagenet
  poa-gpu finetune --init runs/photos --network small --train folder:in/train --val folder:in/val --config semi data.fraction=0.1
  poa-gpu finetune --init runs/photos --random --train folder:in/train     the same network from random weights
  poa-gpu finetune --out runs/tuned --resume           goes on where runs/tuned ended
Presets: demo, imagenet, semi, cifar10, cifar100, cars, flowers, inat18, inat19, linear")]
pub struct FinetuneArgs {
    /// All of it
    #[command(flatten)]
    pub task: TaskArgs,
}

/// The task, for the runner of tasks.
struct Finetuning;

pub(super) fn run(args: &FinetuneArgs, quiet: bool, signals: &Signals) -> Result<()> {
    task_run::run::<Finetuning>(&args.task, quiet, signals)
}

impl TaskCommand for Finetuning {
    type Settings = Settings;
    type Data = FinetuneData;
    type Task = FinetuneTask;

    const EXAMPLE: &'static str = "--train folder:DIR";

    fn common(settings: &Settings) -> Common<'_> {
        Common {
            init: &settings.finetune.init,
            random: settings.finetune.random,
            spec: &settings.data.data.spec,
            rank_timeout: settings.train.rank_timeout,
        }
    }

    fn base(init: &Init) -> Result<Settings> {
        let mut base = Settings::default();
        if let Some(described) = init.describe()? {
            base.student = described.student;
            base.finetune = Finetune { image_size: described.image, ..Finetune::default() };
            (base.data.data.mean, base.data.data.std) = (described.mean, described.std);
        }
        if let Some(network) = init.only_network()? {
            base.finetune.network = network;
        }
        if let Some((max_pixels, deep_bits)) = init.reading() {
            (base.data.data.max_pixels, base.data.data.deep_bits) = (max_pixels, deep_bits);
        }
        Ok(base)
    }

    fn open(settings: &Settings) -> Result<FinetuneData> {
        finetune::open(settings)
    }

    fn source(data: &FinetuneData) -> &dyn Source {
        &*data.train
    }

    fn plan(settings: &Settings, images: usize, ranks: usize) -> RunPlan {
        settings.plan(images, ranks)
    }

    fn task(
        ranks: &Collective,
        settings: (Settings, String),
        device: &Device,
        data: FinetuneData,
        steps: usize,
        dir: Option<&Path>,
    ) -> Result<FinetuneTask> {
        FinetuneTask::new(ranks, settings, device, data, steps, dir)
    }

    fn network(settings: &Settings) -> Result<Network> {
        settings.sub_network()
    }

    fn fill(task: &mut FinetuneTask, init: &Init, network: Network, dir: &Path) -> Result<String> {
        let model = &mut task.model;
        let alone = model.backbone.alone(model.network)?;
        init.fill(&*alone, network, dir, |import| model.start_from(import))
    }

    fn report(outcome: &Outcome<FinetuneTask>, dir: Option<&Path>) -> Result<()> {
        report(outcome, dir)
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

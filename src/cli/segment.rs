//! `poa-gpu segment`.

use std::path::Path;

use clap::Args;

use crate::cli::init::Init;
use crate::cli::signals::Signals;
use crate::cli::task_run::{self, Common, TaskArgs, TaskCommand};
use crate::collective::Collective;
use crate::data::Source;
use crate::error::Result;
use crate::models::grid::Network;
use crate::shown::shown;
use crate::tasks::segment::{self, Segment, SegmentData, SegmentTask, Settings};
use crate::tensor::Device;
use crate::train::plan::RunPlan;
use crate::train::trainer::Outcome;

/// Arguments of `segment`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  poa-gpu segment --init runs/demo-1                   a linear head on the demo's network, on the embedded images
  poa-gpu segment --init runs/photos --config linear --train ade20k:ADEChallengeData2016
  poa-gpu segment --init runs/photos --config upernet_small --train ade20k:ADEChallengeData2016
  poa-gpu segment --init runs/photos --config linear --train pairs:in/images::in/masks data.classes=classes.txt
  poa-gpu segment --out runs/maps --resume             goes on where runs/maps ended
Presets: demo, linear, linear_small, linear_base, linear_large, upernet_small, upernet_base")]
pub struct SegmentArgs {
    /// All of it
    #[command(flatten)]
    pub task: TaskArgs,
}

/// The task, for the runner of tasks.
struct Segmentation;

pub(super) fn run(args: &SegmentArgs, quiet: bool, signals: &Signals) -> Result<()> {
    task_run::run::<Segmentation>(&args.task, quiet, signals)
}

impl TaskCommand for Segmentation {
    type Settings = Settings;
    type Data = SegmentData;
    type Task = SegmentTask;

    const EXAMPLE: &'static str = "--train pairs:IMAGES::MASKS";

    fn common(settings: &Settings) -> Common<'_> {
        Common {
            init: &settings.segment.init,
            random: settings.segment.random,
            spec: &settings.data.data.spec,
            rank_timeout: settings.train.rank_timeout,
        }
    }

    fn base(init: &Init) -> Result<Settings> {
        let mut base = Settings::default();
        if let Some(described) = init.describe()? {
            base.student = described.student;
            base.segment = Segment { image_size: described.image, ..Segment::default() };
            (base.data.data.mean, base.data.data.std) = (described.mean, described.std);
        }
        if let Some(network) = init.only_network()? {
            base.segment.network = network;
        }
        if let Some((max_pixels, deep_bits)) = init.reading() {
            (base.data.data.max_pixels, base.data.data.deep_bits) = (max_pixels, deep_bits);
        }
        Ok(base)
    }

    fn open(settings: &Settings) -> Result<SegmentData> {
        segment::open(settings)
    }

    fn source(data: &SegmentData) -> &dyn Source {
        &*data.train
    }

    fn plan(settings: &Settings, images: usize, ranks: usize) -> RunPlan {
        settings.plan(images, ranks)
    }

    fn task(
        ranks: &Collective,
        settings: (Settings, String),
        device: &Device,
        data: SegmentData,
        steps: usize,
        dir: Option<&Path>,
    ) -> Result<SegmentTask> {
        SegmentTask::new(ranks, settings, device, data, steps, dir)
    }

    fn network(settings: &Settings) -> Result<Network> {
        settings.sub_network()
    }

    fn fill(task: &mut SegmentTask, init: &Init, network: Network, dir: &Path) -> Result<String> {
        let model = &mut task.model;
        let alone = model.backbone.alone(model.network)?;
        init.fill(&*alone, network, dir, |import| model.start_from(import))
    }

    fn report(outcome: &Outcome<SegmentTask>, dir: Option<&Path>) -> Result<()> {
        report(outcome, dir)
    }
}

/// Says how good the model has become.
fn report(outcome: &Outcome<SegmentTask>, dir: Option<&Path>) -> Result<()> {
    if outcome.interrupted {
        mention!("interrupted after {} steps", outcome.steps);
    }
    let judged = outcome.task.judged();
    let best = judged.iter().reduce(|best, one| if one.1.miou > best.1.miou { one } else { best });
    if let (Some((step, best)), Some((_, last))) = (best, judged.last()) {
        mention!(
            "\nmIoU {:.2}%, mean accuracy {:.2}%, {:.2}% of the pixels right",
            100.0 * last.miou,
            100.0 * last.macc,
            100.0 * last.aacc
        );
        mention!("the best: {:.2}% after {step} steps", 100.0 * best.miou);
    }
    if let (Some(dir), Some(format)) = (dir, outcome.task.written()) {
        mention!("the network (format {format}) and its head: {}", shown(&dir.join("best")));
    }
    mention!("checkpoint: {}", shown(&outcome.checkpoint));
    Ok(())
}

//! k-NN that several ranks share: the accuracies of one rank, and the end of all where one is asked to end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use poa_gpu::collective::{Collective, Threads};
use poa_gpu::data::{self, BadKind, BadSample, EvaluationView, Image, Source};
use poa_gpu::error::Interruption;
use poa_gpu::eval::{KnnOptions, LabelledImages, knn_accuracies};
use poa_gpu::gpu::DeviceChoice;
use poa_gpu::ops;
use poa_gpu::poa::{PoaModel, PoaTask};
use poa_gpu::recipes::Config;
use poa_gpu::stop::Stop;
use poa_gpu::tensor::Device;
use poa_gpu::train::run_folder::RunFolder;
use poa_gpu::train::trainer::{Start, Trainer};
use poa_gpu::{Error, Result};

/// Runs `rank` on so many threads that meet; their results in rank order.
fn ranks<T: Send>(size: usize, rank: impl Fn(Collective) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let run = |side: Threads| {
            let rank = &rank;
            scope.spawn(move || rank(Collective::over(move || Ok(side), Duration::from_secs(300)).unwrap()))
        };
        let all: Vec<_> = Threads::meeting(size).into_iter().map(run).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn shapes() -> Arc<dyn Source> {
    data::open("shapes:900", &data::Reading::default()).unwrap()
}

/// Shapes that are met with something at each.
struct Met<F: Fn(usize) -> Result<(), BadSample> + Send + Sync>(Arc<dyn Source>, F);

impl<F: Fn(usize) -> Result<(), BadSample> + Send + Sync> Source for Met<F> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn load(&self, i: usize) -> Result<Image, BadSample> {
        self.1(i).and_then(|()| self.0.load(i))
    }
    fn label(&self, i: usize) -> Option<u32> {
        self.0.label(i)
    }
    fn classes(&self) -> &[String] {
        self.0.classes()
    }
    fn name(&self, i: usize) -> String {
        self.0.name(i)
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn own_held_out(&self) -> Option<Arc<dyn Source>> {
        self.0.own_held_out()
    }
}

/// Of which the images that `bad` names cannot be read.
fn broken(source: Arc<dyn Source>, bad: fn(usize) -> bool) -> Arc<dyn Source> {
    let name = source.clone();
    Arc::new(Met(source, move |i| match bad(i) {
        true => Err(BadSample { name: name.name(i), kind: BadKind::Damaged, reason: "broken".into() }),
        false => Ok(()),
    }))
}

/// What a rank finds: accuracies, how many images it knows to be unreadable, and the progress at the end.
type Found = (Vec<Vec<f64>>, [usize; 2], (usize, usize));

/// k-NN with so many images on each side, of which some are unreadable.
fn knn(c: &Collective, device: &Device, sides: (usize, usize), bad: fn(usize) -> bool) -> Result<Found> {
    let mut config = Config::recipe("demo").unwrap();
    config.resolve(1).unwrap();
    let view = EvaluationView::rgb(config.crops.global_crops_size);
    let images = |source, count| LabelledImages::new(&broken(source, bad), count, &view).unwrap();
    let (train, val) = (images(shapes(), sides.0), images(shapes().own_held_out().unwrap(), sides.1));
    let model = PoaModel::new(&config, device, 5).unwrap();
    let networks = ["smallest", "intact"].map(|name| model.grid.named(name).unwrap());
    let options = KnnOptions { ks: vec![1, 7, 20], ..KnnOptions::default() };
    let mut told = (0, 0);
    let mut all = Vec::new();
    // the second time few images come from memory
    for _ in 0..2 {
        let mut progress = |_: &str, done: usize, total: usize| told = (done, total);
        all.push(knn_accuracies(
            model.teacher_encoder(),
            &networks,
            (&train, &val),
            &options,
            c,
            &mut progress,
        )?);
    }
    assert_eq!(all[0], all[1]);
    Ok((all.remove(0), [train.bad_samples().len(), val.bad_samples().len()], told))
}

fn every_seventh(i: usize) -> bool {
    i % 7 == 3
}

#[test]
fn accuracies_are_those_of_one_rank() {
    let device = Device::cpu;
    // parts that do not divide; fewer batches than ranks; fewer images than ranks
    for sides in [(433, 250), (701, 120), (120, 2), (1, 301)] {
        let alone = knn(&Collective::alone(), &device(), sides, every_seventh).unwrap();
        assert!(alone.0.iter().flatten().all(|a| (0.0..=1.0).contains(a)));
        for size in [2, 3, 5] {
            for (rank, found) in
                ranks(size, |c| knn(&c, &device(), sides, every_seventh).unwrap()).iter().enumerate()
            {
                assert_eq!(found, &alone, "rank {rank} of {size}, {sides:?} images");
            }
        }
    }
}

#[test]
fn on_adapters_too() {
    let device = || ops::open(&DeviceChoice::Gpu).expect("an adapter");
    let sides = (230, 120);
    let alone = knn(&Collective::alone(), &device(), sides, |_| false).unwrap();
    for found in ranks(2, |c| knn(&c, &device(), sides, |_| false).unwrap()) {
        assert_eq!(found, alone);
    }
}

#[test]
fn a_batch_without_a_readable_image_holds_nobody_up_and_a_set_without_one_ends_all() {
    // the first hundred of those that vote, a whole batch, and nearly all that are classified
    let first = |i: usize| i < 100;
    let alone = knn(&Collective::alone(), &Device::cpu(), (900, 200), first);
    let shared = ranks(3, |c| knn(&c, &Device::cpu(), (900, 200), first));
    for found in &shared {
        assert_eq!(found.as_ref().unwrap(), alone.as_ref().unwrap());
    }
    let all = ranks(3, |c| knn(&c, &Device::cpu(), (150, 120), |_| true));
    let text = all[0].as_ref().unwrap_err().to_string();
    assert!(text.contains("no readable labelled image"), "{text}");
    assert!(all[1..].iter().all(|r| matches!(r, Err(Error::Elsewhere(_)))), "{all:?}");
}

/// The folder of a run, removed at the end.
struct Run(PathBuf);

impl Run {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("poa-ranks-knn-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }

    /// Begins the run or goes on with it, as rank 0 or another; `stop` is this rank's. How many steps are done then, and
    /// whether that is not all.
    fn rank(&self, c: &Collective, source: Arc<dyn Source>, stop: &Stop) -> (usize, bool) {
        let mut config = Config::recipe("demo").unwrap();
        config.apply(&SETTINGS).unwrap();
        config.resolve(c.size()).unwrap();
        let resume = c.hear_first(self.0.exists()).unwrap();
        let text = config.to_toml().unwrap();
        let folder = c.leads().then(|| match resume {
            true => RunFolder::open(&self.0).unwrap(),
            false => RunFolder::create(Some(&self.0), "demo", &text).unwrap(),
        });
        let dir: Option<&Path> = folder.as_ref().map(RunFolder::dir);
        let task = PoaTask::of_rank(c, config.clone(), text, &Device::cpu(), source, dir).unwrap();
        let start = Start { resume, stop: stop.clone(), ranks: c.clone(), ..Start::default() };
        let outcome = Trainer::new(task, config.plan(), folder, &start).unwrap().run().unwrap();
        assert_eq!(outcome.checkpoint.join("manifest.json").is_file(), c.leads());
        (outcome.steps, outcome.interrupted)
    }

    fn go_on(&self, size: usize) {
        let ended = ranks(size, |c| self.rank(&c, shapes(), &Stop::new()));
        assert_eq!(ended, vec![(2, false); size]);
    }

    /// Metrics without what depends on the clock.
    fn metrics(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.0.join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("time");
            line
        });
        lines.collect()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SETTINGS: [&str; 12] = [
    "train.batch_size_per_gpu=4",
    "train.total_steps=2",
    "train.log_every=1",
    "evaluation.train_images=450",
    "evaluation.val_images=130",
    "dino.head_n_prototypes=[16, 24]",
    "train.num_workers=1",
    "student.min_embed_dim=16",
    "student.max_embed_dim=32",
    "student.min_depth=1",
    "dino.head_hidden_dim=32",
    "dino.head_bottleneck_dim=16",
];

#[test]
fn a_rank_that_is_asked_to_end_ends_the_evaluation_of_all_and_it_is_made_up_for() {
    let (size, asked) = (3, 1);
    let expected = Run::new("undisturbed");
    expected.go_on(size);
    let run = Run::new("asked");
    let ended = ranks(size, |c| {
        let (stop, loads) = (Stop::new(), AtomicUsize::new(0));
        let (wish, mine) = (stop.clone(), c.rank() == asked);
        let source = Met(shapes(), move |_| {
            // while it loads its first images that vote, or before
            if loads.fetch_add(1, Ordering::SeqCst) == 60 && mine {
                wish.ask(Interruption::Terminate);
            }
            Ok(())
        });
        run.rank(&c, Arc::new(source), &stop)
    });
    assert_eq!(ended, vec![(0, true); size]);
    let knn = |line: &serde_json::Value| line.as_object().unwrap().keys().any(|key| key.starts_with("knn."));
    assert!(!run.metrics().iter().any(knn));
    run.go_on(size);
    assert_eq!(run.metrics(), expected.metrics());
    assert!(run.metrics().iter().filter(|line| knn(line)).count() >= 2);

    // before the first step nothing depends on the number of ranks
    let alone = Run::new("alone");
    alone.go_on(1);
    let first = |run: &Run| run.metrics().into_iter().filter(|line| knn(line) && line["step"] == 0);
    assert!(first(&alone).eq(first(&run)) && first(&run).count() > 0);
}

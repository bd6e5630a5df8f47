//! A run that is asked to end leaves what it is doing, whatever that is, keeps the steps that are done, and goes
//! on as if nothing had happened.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use poa_gpu::data::{self, BadSample, Image, Source};
use poa_gpu::error::Interruption;
use poa_gpu::poa::PoaTask;
use poa_gpu::recipes::Config;
use poa_gpu::stop::Stop;
use poa_gpu::tensor::Device;
use poa_gpu::train::run_folder::RunFolder;
use poa_gpu::train::trainer::{Start, Trainer};

const SETTINGS: [&str; 15] = [
    "train.batch_size_per_gpu=4",
    "train.total_steps=9",
    "train.log_every=1",
    "train.accumulation_steps=2",
    "train.centering=\"centering\"",
    "evaluation.eval_period_iterations=3",
    "evaluation.train_images=40",
    "evaluation.val_images=20",
    "dino.head_n_prototypes=[16, 24]",
    "train.num_workers=2",
    "student.min_embed_dim=16",
    "student.max_embed_dim=32",
    "student.min_depth=1",
    "dino.head_hidden_dim=32",
    "dino.head_bottleneck_dim=16",
];

fn shapes() -> Arc<dyn Source> {
    data::open("shapes:400", &data::Reading::default()).unwrap()
}

/// A disk that answers `answers` times, and then not until it is let go.
struct Slow {
    inner: Arc<dyn Source>,
    answers: usize,
    asked: AtomicUsize,
    free: Mutex<bool>,
    freed: Condvar,
}

impl Slow {
    fn new(answers: usize) -> Arc<Self> {
        let (free, freed) = (Mutex::new(false), Condvar::new());
        Arc::new(Self { inner: shapes(), answers, asked: AtomicUsize::new(0), free, freed })
    }

    fn hangs(&self) -> bool {
        self.asked.load(Ordering::SeqCst) > self.answers
    }

    fn let_go(&self) {
        *self.free.lock().unwrap() = true;
        self.freed.notify_all();
    }
}

impl Source for Slow {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn load(&self, i: usize) -> Result<Image, BadSample> {
        if self.asked.fetch_add(1, Ordering::SeqCst) >= self.answers {
            let mut free = self.free.lock().unwrap();
            while !*free {
                free = self.freed.wait(free).unwrap();
            }
        }
        self.inner.load(i)
    }

    fn label(&self, i: usize) -> Option<u32> {
        self.inner.label(i)
    }

    fn classes(&self) -> &[String] {
        self.inner.classes()
    }

    fn name(&self, i: usize) -> String {
        self.inner.name(i)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn own_held_out(&self) -> Option<Arc<dyn Source>> {
        self.inner.own_held_out()
    }
}

/// The folder of a run, removed at the end.
struct Run(PathBuf);

impl Run {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("poa-stopping-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }

    /// Begins the run or goes on with it; how many steps are done then, and whether that is not all.
    fn go_on(&self, source: Arc<dyn Source>, stop: &Stop) -> (usize, bool) {
        let mut config = Config::recipe("demo").unwrap();
        config.apply(&SETTINGS).unwrap();
        config.resolve(1).unwrap();
        let (text, resume) = (config.to_toml().unwrap(), self.0.exists());
        let folder = match resume {
            true => RunFolder::open(&self.0).unwrap(),
            false => RunFolder::create(Some(&self.0), "demo", &text).unwrap(),
        };
        let task = PoaTask::new(config.clone(), text, &Device::cpu(), source, self.0.as_path()).unwrap();
        let start = Start { resume, stop: stop.clone(), ..Start::default() };
        let outcome = Trainer::new(task, config.plan(), folder, &start).unwrap().run().unwrap();
        assert!(outcome.checkpoint.join("manifest.json").is_file());
        (outcome.steps, outcome.interrupted)
    }

    /// Metrics without what depends on the clock, and the tensors of the newest checkpoint.
    fn result(&self) -> (Vec<serde_json::Value>, Vec<Vec<u8>>) {
        let text = std::fs::read_to_string(self.0.join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            line.as_object_mut().unwrap().remove("time");
            line
        });
        let checkpoint = self.0.join("checkpoints/latest");
        let files = ["student.safetensors", "teacher.safetensors", "optimizer.safetensors"];
        (lines.collect(), files.map(|f| std::fs::read(checkpoint.join(f)).unwrap()).to_vec())
    }
}

/// The points (step, name) that TensorBoard shows of a run, sorted.
fn shown_points(run: &Run) -> Vec<(u64, String)> {
    let entries = std::fs::read_dir(&run.0).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.to_string_lossy().contains("tfevents")).collect();
    files.sort();
    let mut points = Vec::new();
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let event = fields(&rest[12..12 + length]);
            rest = &rest[length + 16..];
            let of = |number: u64| event.iter().find(|(n, ..)| *n == number);
            let step = of(2).map_or(0, |(_, step, _)| *step);
            if of(7).is_some() {
                points.retain(|(at, _)| *at < step);
            }
            for (_, _, value) in of(5).map_or(Vec::new(), |(.., summary)| fields(summary)) {
                let name = fields(&value).into_iter().find(|(n, ..)| *n == 1).unwrap().2;
                points.push((step, String::from_utf8(name).unwrap()));
            }
        }
    }
    points.sort();
    points
}

/// The fields of a message of protocol buffers: number, value where it is one, bytes where it is counted.
fn fields(mut rest: &[u8]) -> Vec<(u64, u64, Vec<u8>)> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = rest[0];
            *rest = &rest[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut all = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let value = if key & 7 == 0 { varint(&mut rest) } else { 0 };
        let length = match key & 7 {
            0 => 0,
            1 => 8,
            2 => varint(&mut rest) as usize,
            _ => 4,
        };
        all.push((key >> 3, value, rest[..length].to_vec()));
        rest = &rest[length..];
    }
    all
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What an undisturbed run computes.
fn undisturbed(name: &str) -> (Vec<serde_json::Value>, Vec<Vec<u8>>) {
    let run = Run::new(name);
    assert_eq!(run.go_on(shapes(), &Stop::new()), (9, false));
    run.result()
}

#[track_caller]
fn same(run: &Run, expected: &(Vec<serde_json::Value>, Vec<Vec<u8>>)) {
    let got = run.result();
    assert_eq!(got.0, expected.0);
    assert!(got.1 == expected.1, "parameters or moments differ from the undisturbed run's");
    let mut points = Vec::new();
    for line in &got.0 {
        let numbers = line.as_object().unwrap().iter().filter(|(name, v)| *name != "step" && v.is_number());
        points.extend(numbers.map(|(name, _)| (line["step"].as_u64().unwrap(), name.clone())));
    }
    points.sort();
    let timed = ["images_per_second", "elapsed", "waited_for_images", "waiting_share", "left", "bad_samples"];
    let mut shown = shown_points(run);
    shown.retain(|(_, name)| !timed.contains(&name.as_str()));
    assert_eq!(shown, points, "each number once in TensorBoard");
}

/// A disk stops answering in the evaluation before the first step, then in the middle of the training: the run
/// ends all the same, within seconds.
#[test]
fn a_disk_that_does_not_answer_delays_no_end() {
    let expected = undisturbed("slow-undisturbed");
    let run = Run::new("slow");
    for (answers, least) in [(30, 0), (40 + 5 * 4, 1)] {
        let (slow, stop) = (Slow::new(answers), Stop::new());
        let watched = (slow.clone(), stop.clone());
        let watcher = std::thread::spawn(move || {
            let begun = Instant::now();
            while !watched.0.hangs() && begun.elapsed() < Duration::from_secs(100) {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(200));
            watched.1.ask(Interruption::Terminate);
            Instant::now()
        });
        let (steps, interrupted) = run.go_on(slow.clone(), &stop);
        let took = watcher.join().unwrap().elapsed();
        assert!(slow.hangs(), "the disk was not asked often enough");
        slow.let_go();
        assert!(interrupted && (least..9).contains(&steps), "{steps} steps, {interrupted}");
        assert!(took < Duration::from_secs(30), "the end took {took:?}");
    }
    assert_eq!(run.go_on(shapes(), &Stop::new()), (9, false));
    same(&run, &expected);
}

thread_local! {
    /// What this thread's run is asked to end by, and the message at which it is asked.
    static AT: RefCell<Option<(Stop, String)>> = const { RefCell::new(None) };
}

/// A logger that asks for the end at a message.
struct Asking;

impl log::Log for Asking {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        AT.with_borrow(|at| {
            if let Some((stop, text)) = at
                && record.args().to_string().contains(text.as_str())
            {
                stop.ask(Interruption::Interrupt);
            }
        });
    }

    fn flush(&self) {}
}

/// Asked to end right before an evaluation, in the middle of the run and at its end: it is made up for.
#[test]
fn an_evaluation_that_was_left_out_is_made_up_for() {
    log::set_logger(&Asking).unwrap();
    log::set_max_level(log::LevelFilter::Debug);
    let expected = undisturbed("owed-undisturbed");
    let run = Run::new("owed");
    for (text, steps) in [
        ("before the first step: k-NN", 0),
        ("step 3/9  loss", 3),
        ("step 6/9  loss", 6),
        ("step 9/9  loss", 9),
    ] {
        let stop = Stop::new();
        AT.set(Some((stop.clone(), text.into())));
        assert_eq!(run.go_on(shapes(), &stop), (steps, true), "asked at `{text}`");
        let evaluated = |line: &serde_json::Value| {
            let of_knn = line.as_object().unwrap().keys().any(|key| key.starts_with("knn."));
            of_knn && line["step"] == steps
        };
        assert!(!run.result().0.iter().any(evaluated), "asked at `{text}`");
    }
    AT.set(None);
    assert_eq!(run.go_on(shapes(), &Stop::new()), (9, false));
    same(&run, &expected);
}

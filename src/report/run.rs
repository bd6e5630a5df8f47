//! Everything that a run's folder says, read again and again while the run goes on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::files::checkpoint::checkpoints_in;
use crate::files::regular::{open_regular, read_text};
use crate::recipes::Config;
use crate::recipes::preset::{Recipes, holds};
use crate::report::log::{Ending, Log};
use crate::report::numbers::Numbers;
use crate::report::state::is_running;
use crate::report::sweeps;
use crate::shown::{lines, shown};
use crate::tasks::{distill, finetune, segment};
use crate::train::metrics::timestamp;
use crate::train::run_folder::CONFIG;

/// Bytes of settings that are shown.
const MOST_CONFIG: u64 = 1 << 20;
/// Images that cannot be used, of which that many are named.
const MOST_BAD: usize = 200;

/// What is known of a run.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    numbers: Numbers,
    log: Log,
}

impl Run {
    /// The run in a folder. One that holds nothing of a run is an error.
    pub fn open(dir: &Path) -> Result<Self> {
        let problem = match fs::metadata(dir) {
            Err(_) => "no such folder; give the folder of a run, which `run:` names at its start",
            Ok(found) if !found.is_dir() => "is a file; give the folder of a run",
            Ok(_) if !holds_any(dir) => {
                "holds no run: there is no config.toml, metrics.jsonl or train.log in it; give the folder that `run:` names \
                 at a run's start"
            }
            Ok(_) => return Ok(Self::expected(dir)),
        };
        Err(Error::file(dir, problem))
    }

    /// A run that may not have begun yet.
    pub fn expected(dir: &Path) -> Self {
        let mut run = Self { dir: dir.to_path_buf(), numbers: Numbers::default(), log: Log::default() };
        run.read();
        run
    }

    /// Reads what is new.
    pub fn read(&mut self) {
        self.numbers.read(&self.dir.join("metrics.jsonl"));
        self.log.read(&self.dir.join("train.log"));
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What changes while a run goes on, but for its curves.
    pub fn head(&self) -> Value {
        let (done, total) = (self.numbers.steps, self.total());
        let running = is_running(&self.dir);
        let (state, reason) = match (&self.log.ending, running) {
            (_, true) => ("running", String::new()),
            (Ending::Failed(reason), _) => ("failed", reason.clone()),
            (Ending::Finished, _) if total.is_none_or(|total| done >= total) => ("finished", String::new()),
            _ if !holds_any(&self.dir) => ("waiting", "there is nothing in the folder yet".into()),
            _ => ("interrupted", "poa-gpu train --resume goes on with it".into()),
        };
        let (generation, points) = self.numbers.place();
        json!({
            "name": self.name(), "state": state, "reason": reason, "done": done, "total": total,
            "images": self.numbers.last("images"), "left": self.numbers.last("time.left"),
            "elapsed": self.numbers.last("time.elapsed"), "pace": self.numbers.last("time.images_per_second"),
            "loss": self.numbers.last("loss"), "bad_samples": self.numbers.last("time.bad_samples"),
            "skipped": self.numbers.last("skipped"), "times": self.log.times, "read": timestamp(SystemTime::now()),
            "damaged_lines": self.numbers.damaged, "warnings": self.log.warnings(), "checkpoints": self.checkpoints(),
            "place": [generation, points],
        })
    }

    /// Everything but pictures; `tables` are those of `eval` that lie elsewhere.
    pub fn to_json(&self, tables: Vec<Value>) -> Value {
        let config = self.config();
        let mut sweeps = sweeps::in_run(&self.dir);
        sweeps.extend(tables);
        json!({
            "head": self.head(), "curves": self.numbers.to_json(), "kind": kind(config.as_deref().unwrap_or_default()),
            "sweeps": sweeps, "bad": bad_samples(&self.dir), "about": self.about(),
            "config": config.as_deref().ok(), "config_problem": config.as_ref().err().map(ToString::to_string),
        })
    }

    /// The points since a place, with the head; everything where a page has to begin anew.
    pub fn since(&self, place: (usize, usize)) -> Value {
        match self.numbers.since(place) {
            Some(points) => json!({ "head": self.head(), "points": points }),
            None => self.to_json(Vec::new()),
        }
    }

    fn name(&self) -> String {
        let whole = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        whole.file_name().map_or_else(|| shown(&whole).into_owned(), |name| shown(name).into_owned())
    }

    fn config(&self) -> Result<String> {
        read_text(self.dir.join(CONFIG), MOST_CONFIG).map(|text| lines(&text).into_owned())
    }

    /// Steps of the whole run: as its log says or, before its first step, its settings.
    fn total(&self) -> Option<usize> {
        let of_settings = || {
            let path = self.dir.join(CONFIG);
            let text = read_text(&path, MOST_CONFIG).ok()?;
            Some(Config::from_stored(&text, &path).ok()?.total_steps())
        };
        self.log.total.or_else(of_settings)
    }

    fn about(&self) -> Vec<[String; 2]> {
        let mut all: Vec<[String; 2]> =
            self.log.about().iter().map(|(name, value)| [name.clone(), shown(value).into_owned()]).collect();
        if !all.iter().any(|[name, _]| name == "Program") {
            all.insert(0, ["Program".into(), "not noted: the run is of an earlier version".into()]);
        }
        let report = format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        all.push(["Report by".into(), report]);
        all
    }

    fn checkpoints(&self) -> Vec<Value> {
        let found = checkpoints_in(self.dir.join("checkpoints")).unwrap_or_default();
        let of = |(step, path): (usize, PathBuf)| {
            let files = fs::read_dir(&path).into_iter().flatten().flatten();
            let bytes: u64 = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
            let time = fs::metadata(path.join("manifest.json")).and_then(|found| found.modified());
            json!({ "step": step, "bytes": bytes, "time": time.ok().map(timestamp) })
        };
        found.into_iter().map(of).collect()
    }
}

/// Whether anything of a run is in a folder.
fn holds_any(dir: &Path) -> bool {
    [CONFIG, "metrics.jsonl", "train.log"].iter().any(|name| dir.join(name).is_file())
        || checkpoints_in(dir.join("checkpoints")).is_ok_and(|found| !found.is_empty())
}

/// What settings are for.
fn kind(config: &str) -> &'static str {
    match () {
        () if holds(config, finetune::Settings::SECTION) => "fine-tuning",
        () if holds(config, segment::Settings::SECTION) => "segmentation",
        () if holds(config, distill::Settings::SECTION) => "distillation",
        () if holds(config, "student") => "pre-training",
        () => "run",
    }
}

/// The images that could not be used: how many, and the first of them.
fn bad_samples(dir: &Path) -> Value {
    let Ok(file) = open_regular(dir.join("bad_samples.txt")) else { return Value::Null };
    let (mut count, mut all) = (0_usize, Vec::new());
    for line in BufReader::new(file).split(b'\n').map_while(std::io::Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let fields: Vec<_> = line.splitn(3, '\t').map(|field| shown(field).into_owned()).collect();
        if fields.len() == 3 {
            count += 1;
            all.extend((all.len() < MOST_BAD).then_some(fields));
        }
    }
    json!({ "count": count, "first": all })
}

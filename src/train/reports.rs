//! Where a run's numbers and messages go. Everything is an [`Event`] on its way to the same sinks:
//! `train.log`, `metrics.jsonl`, TensorBoard events, and for messages the console. A file that cannot be
//! written (a full disk) is reported once and never ends the training.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use serde_json::Value;

use crate::error::Result;
use crate::files::tensorboard::EventLog;
use crate::logging::{self, Level, Listener};
use crate::train::metrics::{MetricsLog, TrainLog, WARNING, history};
use crate::train::progress::Progress;
use crate::train::run_folder::RunFolder;

/// What a run reports.
pub enum Event<'a> {
    /// A text for people.
    Message {
        /// Who should see it.
        level: Level,
        /// One or more lines.
        text: &'a str,
    },
    /// The numbers of a step.
    Numbers {
        /// The step, from 0.
        step: usize,
        /// What repeats bit for bit with the same seed.
        values: &'a [(String, Value)],
        /// What depends on the clock.
        time: &'a [(&'a str, f64)],
    },
}

/// A file of a run that takes events.
trait Sink {
    /// What it is called in messages.
    fn name(&self) -> &'static str;
    /// Writes what it keeps of an event.
    fn take(&mut self, event: &Event) -> Result<()>;
}

impl Sink for TrainLog {
    fn name(&self) -> &'static str {
        "train.log"
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Message { level, text } if *level <= Level::Warn => self.line(&format!("{WARNING}{text}")),
            Event::Message { level, text } if *level <= Level::Debug => self.line(text),
            _ => Ok(()),
        }
    }
}

impl Sink for MetricsLog {
    fn name(&self) -> &'static str {
        "metrics.jsonl"
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Numbers { step, values, time } => self.write(*step, values, time),
            Event::Message { .. } => Ok(()),
        }
    }
}

impl Sink for EventLog {
    fn name(&self) -> &'static str {
        "TensorBoard's events"
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        let Event::Numbers { step, values, time } = event else { return Ok(()) };
        let numbers = values.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)));
        let all: Vec<(&str, f64)> = numbers.chain(time.iter().copied()).collect();
        self.scalars(*step as u64, &all)
    }
}

/// The files of a run's reports.
struct Files {
    log: TrainLog,
    metrics: MetricsLog,
    events: EventLog,
    /// Those that could not be written the last time.
    failing: HashSet<&'static str>,
    /// The warnings since [`Reports::take_warnings`].
    warnings: Vec<String>,
}

impl Files {
    fn take(&mut self, event: &Event) {
        let sinks: [&mut dyn Sink; 3] = [&mut self.log, &mut self.metrics, &mut self.events];
        for sink in sinks {
            guard(&mut self.failing, sink.name(), sink.take(event));
        }
    }
}

/// Tells when a file begins to fail, and when it is well again.
fn guard(failing: &mut HashSet<&'static str>, file: &'static str, written: Result<()>) {
    match written {
        Ok(()) if failing.remove(file) => {
            logging::show(Level::Warn, format_args!("{file} can be written again"));
        }
        Err(e) if failing.insert(file) => {
            logging::show(Level::Warn, format_args!("{e}; training goes on without it"));
        }
        _ => {}
    }
}

impl Listener for RefCell<Files> {
    fn message(&self, level: Level, text: &str) {
        logging::show(level, text);
        // what is said while a file is being written is for the console alone
        if let Ok(mut files) = self.try_borrow_mut() {
            files.take(&Event::Message { level, text });
            files.warnings.extend((level <= Level::Warn).then(|| text.to_string()));
        }
    }
}

/// TensorBoard's events of a run that begins, or goes on at a step. What earlier files say of that step and
/// later ones is dropped; what was evaluated at it before the checkpoint was written is in the metrics still, and
/// is told again.
fn events_from(folder: &RunFolder, resumed: Option<u64>) -> Result<EventLog> {
    let mut events = EventLog::create(folder.dir(), resumed)?;
    let Some(step) = resumed else { return Ok(events) };
    let known = history(folder.metrics(), "").into_iter();
    for (at, name, value) in known.filter(|(at, name, _)| *at as u64 >= step && name != "step") {
        events.scalars(at as u64, &[(&name, value)])?;
    }
    Ok(events)
}

/// The warnings of a rank that has no log: rank 0 fetches them.
#[derive(Default)]
struct Relay(RefCell<Vec<String>>);

impl Listener for Relay {
    fn message(&self, level: Level, text: &str) {
        if level <= Level::Warn {
            self.0.borrow_mut().push(text.to_string());
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // nobody fetches them any more
        self.0.take().iter().for_each(|text| logging::show(Level::Warn, text));
    }
}

/// Where reports go.
enum To {
    Files(Rc<RefCell<Files>>),
    Relay(Rc<Relay>),
}

/// All reports of a run. While they live, what the library says on this thread goes to the run's log too.
pub struct Reports {
    to: To,
    /// What the terminal shows.
    pub progress: Progress,
}

impl Reports {
    /// Opens the reports in a run's folder, those of a resumed run where its checkpoint left them: after
    /// `step` steps and `metrics_bytes` of metrics.
    pub fn open(folder: &RunFolder, progress: Progress, resumed: Option<(u64, u64)>) -> Result<Self> {
        let files = Rc::new(RefCell::new(Files {
            metrics: MetricsLog::open(folder.metrics(), resumed.map_or(0, |(_, bytes)| bytes))?,
            events: events_from(folder, resumed.map(|(step, _)| step))?,
            log: TrainLog::open(folder.log())?,
            failing: HashSet::new(),
            warnings: Vec::new(),
        }));
        logging::attach(&files);
        Ok(Self { to: To::Files(files), progress })
    }

    /// The reports of a rank that has no folder: its warnings wait for [`Reports::take_warnings`].
    pub fn relayed(progress: Progress) -> Self {
        let relay = Rc::<Relay>::default();
        logging::attach(&relay);
        Self { to: To::Relay(relay), progress }
    }

    /// The warnings since the last call. Those of a rank that has no folder were not shown yet.
    pub fn take_warnings(&mut self) -> Vec<String> {
        match &self.to {
            To::Files(files) => std::mem::take(&mut files.borrow_mut().warnings),
            To::Relay(relay) => relay.0.take(),
        }
    }

    /// Whether warnings are shown when they are said.
    pub fn shows(&self) -> bool {
        matches!(self.to, To::Files(_))
    }

    fn message(&self, level: Level, text: &str) {
        match &self.to {
            To::Files(files) => files.message(level, text),
            To::Relay(relay) => relay.message(level, text),
        }
    }

    fn event(&self, event: &Event) {
        if let To::Files(files) = &self.to {
            files.borrow_mut().take(event);
        }
    }

    /// Begins files anew that were removed or replaced while the run was on, as by a tool that rotates logs.
    pub fn reopen(&mut self, folder: &RunFolder) {
        let mut lost = Vec::new();
        if let To::Files(files) = &self.to {
            let files = &mut *files.borrow_mut();
            for (name, reopened) in [
                ("train.log", files.log.reopen(&folder.log())),
                ("metrics.jsonl", files.metrics.reopen(&folder.metrics())),
            ] {
                lost.extend(reopened.as_ref().is_ok_and(|lost| *lost).then_some(name));
                guard(&mut files.failing, name, reopened.map(|_| ()));
            }
        }
        for name in lost {
            self.warn(&format!("{name} was removed or replaced while the run was on; it begins anew"));
        }
    }

    /// A line for `train.log` alone: the terminal shows the same in its own way.
    pub fn keep(&mut self, text: &str) {
        self.event(&Event::Message { level: Level::Debug, text });
    }

    /// A line for `train.log`, and for consoles that show everything.
    pub fn note(&mut self, text: &str) {
        self.message(Level::Debug, text);
    }

    /// A line for `train.log` and the terminal.
    pub fn say(&mut self, text: &str) {
        self.message(Level::Info, text);
    }

    /// A line for `train.log` and the terminal, which quiet runs show too.
    pub fn warn(&mut self, text: &str) {
        self.message(Level::Warn, text);
    }

    /// The numbers of a step (from 0); `time` depends on the clock.
    pub fn values(&mut self, step: usize, values: &[(String, Value)], time: &[(&str, f64)]) {
        self.event(&Event::Numbers { step, values, time });
    }

    /// Forces the metrics to disk and returns their length, for a checkpoint.
    pub fn synced_metrics(&mut self) -> Result<u64> {
        let To::Files(files) = &self.to else { return Ok(0) };
        let files = &mut *files.borrow_mut();
        guard(&mut files.failing, files.events.name(), files.events.flush());
        files.metrics.synced_bytes()
    }
}

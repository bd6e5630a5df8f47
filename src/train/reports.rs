//! Where a run's numbers and messages go: `metrics.jsonl`, TensorBoard events, `train.log` and the terminal. A file that
//! cannot be written (a full disk) is reported once and never ends the training.

use std::collections::HashSet;

use serde_json::Value;

use crate::error::Result;
use crate::files::tensorboard::EventLog;
use crate::train::metrics::{MetricsLog, TrainLog};
use crate::train::progress::Progress;
use crate::train::run_folder::RunFolder;

/// All reports of a run.
pub struct Reports {
    metrics: MetricsLog,
    events: EventLog,
    log: TrainLog,
    /// What the terminal shows.
    pub progress: Progress,
    /// The files that could not be written the last time.
    failing: HashSet<&'static str>,
}

impl Reports {
    /// Opens the reports in a run's folder, those of a resumed run where its checkpoint left them: after `step` steps
    /// and `metrics_bytes` of metrics.
    pub fn open(folder: &RunFolder, progress: Progress, resumed: Option<(u64, u64)>) -> Result<Self> {
        Ok(Self {
            metrics: MetricsLog::open(folder.metrics(), resumed.map_or(0, |(_, bytes)| bytes))?,
            events: EventLog::create(folder.dir(), resumed.map(|(step, _)| step))?,
            log: TrainLog::open(folder.log())?,
            progress,
            failing: HashSet::new(),
        })
    }

    /// A line for `train.log` alone.
    pub fn note(&mut self, text: &str) {
        let written = self.log.line(text);
        self.guard("train.log", written);
    }

    /// A line for `train.log` and the terminal.
    pub fn say(&mut self, text: &str) {
        self.progress.line(text);
        self.note(text);
    }

    /// A line for `train.log` and the terminal, which quiet runs show too.
    pub fn warn(&mut self, text: &str) {
        self.progress.warning(text);
        self.note(text);
    }

    /// The numbers of a step (from 0); `time` depends on the clock.
    pub fn values(&mut self, step: usize, values: &[(String, Value)], time: &[(&str, f64)]) {
        let written = self.metrics.write(step, values, time);
        self.guard("metrics.jsonl", written);
        let numbers = values.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)));
        let all: Vec<(&str, f64)> = numbers.chain(time.iter().copied()).collect();
        let written = self.events.scalars(step as u64, &all);
        self.guard("TensorBoard's events", written);
    }

    /// Forces the metrics to disk and returns their length, for a checkpoint.
    pub fn synced_metrics(&mut self) -> Result<u64> {
        let flushed = self.events.flush();
        self.guard("TensorBoard's events", flushed);
        self.metrics.synced_bytes()
    }

    fn guard(&mut self, file: &'static str, written: Result<()>) {
        match written {
            Ok(()) => {
                if self.failing.remove(file) {
                    self.progress.warning(&format!("{file} can be written again"));
                }
            }
            Err(e) => {
                if self.failing.insert(file) {
                    self.progress.warning(&format!("{e}; training goes on without it"));
                }
            }
        }
    }
}

//! What a run's `train.log` says of it: where it ran, how it ended, and what it warned of.

use std::cell::RefCell;
use std::path::Path;

use serde_json::{Value, json};

use crate::report::lines::Follower;
use crate::report::meaning::meaning_of;
use crate::shown::shown;
use crate::train::metrics::WARNING;

/// Different warnings that are kept, the newest of them.
const MOST_WARNINGS: usize = 100;
/// Letters of a line that are shown.
const LONGEST: usize = 1000;
/// Lines about where a run is, by how they begin, and what they are called.
const ENVIRONMENT: [(&str, &str); 3] = [("program: ", "Program"), ("device", "Device"), ("data: ", "Images")];

/// How a run has ended, as far as its log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// It has not, or not in order.
    #[default]
    Open,
    /// All steps are done.
    Finished,
    /// It ended with this error.
    Failed(String),
}

/// Warnings that differ in nothing but numbers.
#[derive(Debug)]
struct Warning {
    pattern: String,
    first: String,
    last: String,
    text: String,
    count: usize,
}

/// What the log says.
#[derive(Debug, Default)]
pub struct Log {
    follower: Follower,
    /// Steps of the whole run.
    pub total: Option<usize>,
    /// How the run has ended.
    pub ending: Ending,
    /// When it began, and the time of the newest line.
    pub times: Option<(String, String)>,
    environment: Vec<(String, String)>,
    warnings: Vec<Warning>,
}

impl Log {
    /// Reads what is new in the file.
    pub fn read(&mut self, path: &Path) {
        let mut follower = std::mem::take(&mut self.follower);
        let all = RefCell::new(&mut *self);
        follower.read(path, || **all.borrow_mut() = Self::default(), |line| all.borrow_mut().line(line));
        self.follower = follower;
    }

    fn line(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let Some((time, text)) = line.split_once("Z  ").filter(|(time, _)| time.len() == 19) else { return };
        let text: String = shown(text).chars().take(LONGEST).collect();
        let first = self.times.take().map_or_else(|| time.to_string(), |(first, _)| first);
        self.times = Some((first, time.to_string()));
        if let Some(total) = total(&text) {
            (self.total, self.ending) = (Some(total), Ending::Open);
        } else if text.contains(" steps done, ") && text.contains(" skipped;") {
            self.ending = Ending::Finished;
            self.environment("At the end", &text);
        } else if let Some(problem) = text.strip_prefix("stopped: ") {
            self.ending = Ending::Failed(problem.to_string());
        } else if text.contains(" sub-networks; ") || text.ends_with(" parameters") {
            self.environment("Network", &text);
        } else if let Some((begin, name)) = ENVIRONMENT.iter().find(|(begin, _)| text.starts_with(begin))
            && let Some((_, value)) = text.split_once(": ")
        {
            // a process that begins or goes on
            self.ending = Ending::Open;
            let name =
                if *begin == "device" { text.replacen("device", "Device", 1) } else { (*name).to_string() };
            let name = name.split(": ").next().unwrap_or_default().to_string();
            self.environment(&name, value);
        } else if text.starts_with(WARNING) || meaning_of(&text).is_some() {
            self.warn(time, text.strip_prefix(WARNING).unwrap_or(&text));
        }
    }

    fn environment(&mut self, name: &str, value: &str) {
        match self.environment.iter().position(|(known, _)| known == name) {
            Some(at) => self.environment[at].1 = value.into(),
            None if self.environment.len() < MOST_WARNINGS => {
                self.environment.push((name.into(), value.into()))
            }
            None => {}
        }
    }

    fn warn(&mut self, time: &str, text: &str) {
        let pattern: String = text.chars().filter(|c| !c.is_ascii_digit() && !".-+e".contains(*c)).collect();
        if let Some(known) = self.warnings.iter_mut().find(|known| known.pattern == pattern) {
            (known.last, known.text) = (time.into(), text.into());
            known.count += 1;
            return;
        }
        if self.warnings.len() >= MOST_WARNINGS {
            self.warnings.remove(0);
        }
        let (first, last) = (time.to_string(), time.to_string());
        self.warnings.push(Warning { pattern, first, last, text: text.into(), count: 1 });
    }

    /// The warnings, those alike together, each with what it means.
    pub fn warnings(&self) -> Value {
        let of = |w: &Warning| json!({ "text": w.text, "first": w.first, "last": w.last, "count": w.count, "meaning": meaning_of(&w.text) });
        self.warnings.iter().map(of).collect()
    }

    /// Names and values of where it ran.
    pub fn about(&self) -> &[(String, String)] {
        &self.environment
    }
}

/// N of `step M/N: ...`.
fn total(text: &str) -> Option<usize> {
    let (steps, _) = text.strip_prefix("step ")?.split_once(": ")?;
    let (done, total) = steps.split_once('/')?;
    done.parse::<usize>().ok().and(total.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        let mut log = Log::default();
        text.lines().for_each(|line| log.line(format!("2026-01-31 12:34:56Z  {line}").as_bytes()));
        log
    }

    #[test]
    fn a_log_says_how_the_run_is() {
        let run = log("device: cpu (2 threads)\n8 sub-networks; 10 parameters\nstep 7/600: loss 1.0, lr 1");
        assert_eq!((run.total, run.ending), (Some(600), Ending::Open));
        assert_eq!(run.environment.len(), 2);
        assert_eq!(run.environment[0], ("Device".into(), "cpu (2 threads)".into()));
        assert_eq!(log("600 steps done, 0 skipped; 119.6 s").ending, Ending::Finished);
        assert_eq!(log("stopped: no space").ending, Ending::Failed("no space".into()));
        assert_eq!(log("stopped: no space\ndevice: cpu").ending, Ending::Open);
        assert!(log("step a/b: loss").total.is_none());
    }

    #[test]
    fn warnings_that_differ_in_numbers_are_one() {
        let run = log(
            "warning: step 5: the loss moved by only 0.05% over\nstep 9: the loss moved by only 0.07% over\nhello",
        );
        let found = run.warnings();
        assert_eq!(found.as_array().map(Vec::len), Some(1));
        assert_eq!(found[0]["count"], 2);
        assert!(found[0]["meaning"].as_str().is_some_and(|text| text.contains("k-NN")));
    }
}

//! The numbers of a run's `metrics.jsonl`, each as a curve.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::report::curve::{Curve, short};
use crate::report::lines::Follower;

/// Curves that are kept; a run has some dozens.
const MOST_CURVES: usize = 400;
/// Letters that a name of one has at most.
const LONGEST_NAME: usize = 100;
/// New points that are kept for pages which have all others.
const RECENT: usize = 20_000;

/// All numbers so far.
#[derive(Debug, Default)]
pub struct Numbers {
    follower: Follower,
    curves: BTreeMap<String, Curve>,
    /// Lines that could not be read.
    pub damaged: usize,
    /// Steps done, as far as is known.
    pub steps: usize,
    /// Counts how often the file began anew.
    generation: usize,
    /// Points so far, and the last of them.
    points: usize,
    recent: VecDeque<(String, f64, f64)>,
}

impl Numbers {
    /// Reads what is new in the file.
    pub fn read(&mut self, path: &Path) {
        let mut follower = std::mem::take(&mut self.follower);
        let all = RefCell::new(&mut *self);
        follower.read(path, || all.borrow_mut().forget(), |line| all.borrow_mut().line(line));
        self.follower = follower;
    }

    fn forget(&mut self) {
        *self = Self { generation: self.generation + 1, ..Self::default() };
    }

    /// Takes a line; one that cannot be read is counted.
    fn line(&mut self, line: &[u8]) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let Ok(line) = serde_json::from_slice::<Map<String, Value>>(line) else {
            self.damaged += 1;
            return;
        };
        let Some(step) = line.get("step").and_then(Value::as_u64) else {
            self.damaged += 1;
            return;
        };
        // the line of a step counts it from 0, that of an evaluation says how many are done
        let done = if line.contains_key("loss") { step.saturating_add(1) } else { step };
        self.steps = usize::try_from(done).unwrap_or(usize::MAX);
        let time = line.get("time").and_then(Value::as_object);
        let timed = time.into_iter().flatten().map(|(key, value)| (format!("time.{key}"), value));
        for (key, value) in line.iter().map(|(key, value)| (key.clone(), value)).chain(timed) {
            if let Some(value) = number(value).filter(|_| key != "step") {
                self.add(key, done as f64, value);
            }
        }
    }

    fn add(&mut self, key: String, step: f64, value: f64) {
        let known = self.curves.contains_key(&key);
        if !known && (self.curves.len() >= MOST_CURVES || key.chars().count() > LONGEST_NAME) {
            return;
        }
        self.curves.entry(key.clone()).or_default().add(step, value);
        self.points += 1;
        self.recent.push_back((key, step, value));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// The last value of a curve.
    pub fn last(&self, key: &str) -> Option<f64> {
        self.curves.get(key)?.last()
    }

    /// All curves by name.
    pub fn to_json(&self) -> Value {
        self.curves.iter().map(|(key, curve)| (key.clone(), curve.to_json())).collect::<Map<_, _>>().into()
    }

    /// Where a page that has all of this goes on.
    pub fn place(&self) -> (usize, usize) {
        (self.generation, self.points)
    }

    /// The points since a place, as `[name, step, value]`; `None` where that is too long ago or of another run.
    pub fn since(&self, (generation, points): (usize, usize)) -> Option<Vec<Value>> {
        let new = self.points.checked_sub(points).filter(|new| *new <= self.recent.len())?;
        let of = |(key, step, value): &(String, f64, f64)| {
            json!([key, step, value.is_finite().then(|| short(*value))])
        };
        let all = self.recent.iter().skip(self.recent.len() - new).map(of);
        (generation == self.generation).then(|| all.collect())
    }
}

/// A number, or one that is not finite, which stands as text.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) if matches!(text.as_str(), "NaN" | "inf" | "-inf") => Some(f64::NAN),
        value => value.as_f64(),
    }
}

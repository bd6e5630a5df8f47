//! Laying values over a configuration one key at a time, so that every error can name its key.

use std::marker::PhantomData;
use std::path::Path;

use toml::{Table, Value};

use crate::checks::{Problems, nearest};
use crate::error::{Error, Result};
use crate::models::Student;
use crate::recipes::file;
use crate::recipes::sections::{all_families, check_student};
use crate::shown::shown;

/// Names that other recipes use, and what to say about them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("ibot.start_epoch", "it is called `optim.ibot_activate_epochs`"),
    ("train.epoch_length", "it is called `train.OFFICIAL_EPOCH_LENGTH`"),
    ("optim.learning_rate", "it is called `optim.base_lr` (of 1024 images) or `optim.lr` (as it is)"),
    ("train.dataset_path", "it is called `data.spec`"),
    ("train.output_dir", "give the folder with --out"),
    ("train.cache_dataset", "there is nothing to set; leave it out"),
    ("train.scale_for_num_patch", "it follows from the backbone; leave it out"),
    ("student.mode", "networks are always drawn without replacement; leave it out"),
    ("student.ffn_ratio", "it is called `student.mlp_ratio`"),
    ("student.pretrained_weights", "it is not a setting here; leave it out"),
    ("compute_precision", "the precision follows from the device; leave the section out"),
    ("MODEL", "it is not a setting here; leave the section out"),
];

/// Keys that are called otherwise now: the old name, the new one, and why a recipe must say which is meant.
const RENAMED: &[(&str, &str, &str)] = &[(
    "train.prototype_chunk",
    "train.prototype_chunk_bytes",
    "it counts bytes of logits, not prototypes: give 0 for what suits the device",
)];

/// Whose values are laid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A person's: keys of another family of backbones than the recipe's are refused.
    Given,
    /// Written by this program or an earlier version of it, which listed the keys of every family: those of
    /// others are passed over.
    Stored,
}

/// Settings that are sections of a file.
pub(super) trait Layered: Sized {
    /// All sections with all their keys.
    fn table(&self) -> Result<Table>;
    /// The settings that a table of sections holds.
    fn read(table: Table) -> Result<Self, toml::de::Error>;
    /// Whether one of the table's sections can be read.
    fn check(table: &Table, section: &str) -> Result<(), toml::de::Error>;
    /// What is wrong with ranges and relations, in a run on one device.
    fn problems(&self) -> Result<Problems>;
}

/// A configuration as a table that still has all its keys, over which values are laid. What is wrong is
/// collected, and named by [`Layers::config`].
pub(super) struct Layers<C> {
    of: PhantomData<C>,
    table: Table,
    problems: Problems,
    /// Names of keys whose values are not what was meant, since something is wrong with them.
    doubtful: Vec<String>,
}

impl<C: Layered> Layers<C> {
    /// Starts from `config`.
    pub(super) fn over(config: &C) -> Result<Self> {
        let mut table = config.table()?;
        if let Some(Value::Table(student)) = table.get_mut("student") {
            all_families(student)?;
        }
        Ok(Self { of: PhantomData, table, problems: Problems::new(), doubtful: Vec::new() })
    }

    /// The configuration with everything laid over it.
    pub(super) fn config(mut self, origin: Origin) -> Result<C> {
        let arch = self.doubtful.iter().any(|key| key == "arch");
        if origin == Origin::Given && !arch {
            self.refuse_other_families()?;
        }
        if !self.problems.is_empty() && !arch {
            self.note_relations();
        }
        self.problems.result()?;
        C::read(self.table).map_err(|e| Error::config("(all)", e.message()))
    }

    /// Where something is wrong already, names what else would be: ranges and relations, except those that
    /// concern a key in doubt.
    fn note_relations(&mut self) {
        let Ok(problems) = C::read(self.table.clone()).map(|config| config.problems()) else {
            return;
        };
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let concerns =
            |text: &str| text.split(|c| !word(c)).any(|w| self.doubtful.iter().any(|key| key == w));
        let known: Vec<(String, String)> = problems
            .map_or_else(|_| Vec::new(), Problems::into_found)
            .into_iter()
            .filter(|(key, problem)| !concerns(key) && !concerns(problem))
            .collect();
        known.into_iter().for_each(|(key, problem)| self.problems.add(key, problem));
    }

    /// Refuses keys that another family of backbones has than the one that is configured. What says nothing
    /// may stand: the key's default, which recipes of earlier versions spelt out, and the number 0.
    fn refuse_other_families(&mut self) -> Result<()> {
        let Some(Value::Table(student)) = self.table.get("student") else { return Ok(()) };
        let families = Student::families();
        let arch = student.get("arch").and_then(Value::as_str).unwrap_or_default();
        let Some(own) = families.iter().find(|family| family.name() == arch) else { return Ok(()) };
        let mut defaults = Table::new();
        all_families(&mut defaults)?;
        for (key, value) in student {
            let has = |family: &&Student| family.keys().iter().any(|known| known.name == key);
            let zero = value.as_integer() == Some(0) || value.as_float() == Some(0.0);
            if key == "arch" || has(&own) || zero || defaults.get(key) == Some(value) {
                continue;
            }
            let others: Vec<&str> = families.iter().filter(has).map(Student::name).collect();
            let problem =
                format!("is a key of {}, and student.arch is {arch}: leave it out", others.join(" and "));
            self.problems.add(format!("student.{key}"), problem);
        }
        Ok(())
    }

    /// Lays a TOML document over the configuration; `path` is what an error calls it.
    pub(super) fn lay_file(&mut self, text: &str, path: &Path, origin: Origin) -> Result<()> {
        let document = file::parse(text, path)?;
        let before = self.problems.len();
        self.lay_document(document, origin);
        self.problems.amend(before, |problem| format!("{problem} (in {})", shown(path)));
        Ok(())
    }

    fn lay_document(&mut self, document: Table, origin: Origin) {
        for (section, values) in document {
            let Value::Table(values) = values else {
                self.unknown(&section, "a setting belongs in a section, as in [train]");
                continue;
            };
            if !self.table.contains_key(&section) {
                self.doubtful.extend(values.keys().cloned());
                self.unknown(&section, "there is no such section");
                continue;
            }
            for (key, value) in values {
                self.set(&format!("{section}.{key}"), value, origin);
            }
        }
    }

    /// Lays `section.key=value` over the configuration.
    pub(super) fn lay_override(&mut self, text: &str) -> Result<()> {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            let hint = match text.starts_with("webdataset:") {
                true => "; where a shell has taken braces apart, put quotes around them: 'webdataset:DIR/{000..146}.tar'",
                false => "; write section.key=value, as in optim.epochs=10",
            };
            Error::Usage(format!("`{}` is no setting{hint}", shown(text)))
        })?;
        let (key, value) = (key.trim(), value.trim());
        let plain = || Value::String(value.to_string());
        let parsed = match (self.current(key), value.parse::<Value>()) {
            (Some(Value::String(_)), Ok(Value::String(text))) => Value::String(text),
            (Some(Value::String(_)), _) => plain(),
            (_, parsed) => parsed.unwrap_or_else(|_| plain()),
        };
        self.set(key, parsed, Origin::Given);
        Ok(())
    }

    /// The settings that differ, as (key, here, there).
    pub(super) fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let mut all = Vec::new();
        for (section, values) in self.table.iter().filter_map(|(s, v)| Some((s, v.as_table()?))) {
            for (name, value) in values {
                let key = format!("{section}.{name}");
                if let Some(there) = other.current(&key).filter(|there| *there != value) {
                    all.push((key, value.to_string(), there.to_string()));
                }
            }
        }
        all
    }

    fn current(&self, key: &str) -> Option<&Value> {
        let (section, name) = key.split_once('.')?;
        self.table.get(section)?.get(name)
    }

    fn set(&mut self, key: &str, value: Value, origin: Origin) {
        if let Some((_, name, why)) = RENAMED.iter().find(|(old, ..)| *old == key) {
            if origin == Origin::Given && value.as_integer() != Some(0) {
                self.doubtful.push(last_name(name));
                return self.problems.add(key, format!("is called `{name}`; {why}"));
            }
            return self.set(name, value, origin);
        }
        let (Some(current), Some((section, name))) = (self.current(key).cloned(), key.split_once('.')) else {
            return self.unknown(key, "there is no such key");
        };
        let before = self.problems.len();
        self.set_known((section, name), current, value);
        if self.problems.len() > before {
            self.doubtful.push(name.to_string());
        }
    }

    fn set_known(&mut self, (section, name): (&str, &str), current: Value, value: Value) {
        let key = format!("{section}.{name}");
        let given = describe(&value);
        let Some(value) = fit(&current, value) else {
            let problem = format!("must be {}, was given {given}", expected(&current));
            return self.problems.add(key, problem);
        };
        if let Some(slot) = self.table.get_mut(section).and_then(|s| s.get_mut(name)) {
            *slot = value;
        }
        // the table was good before, so what is wrong with it now is wrong with this value
        let Err(e) = self.read(section, name) else { return };
        let problem = match &current {
            Value::String(_) => with_nearest(e.message()),
            _ if e.message().contains("integer `-") => format!("must be 0 or more, was given {given}"),
            _ => format!("must be {}, was given {given}: {}", expected(&current), e.message()),
        };
        self.problems.add(key, problem);
        if let Some(slot) = self.table.get_mut(section).and_then(|s| s.get_mut(name)) {
            *slot = current;
        }
    }

    /// Whether the table can be read after a value of it has changed.
    fn read(&self, section: &str, name: &str) -> Result<(), toml::de::Error> {
        match self.table.get(section) {
            Some(Value::Table(student)) if section == "student" => check_student(student, name),
            _ => C::check(&self.table, section),
        }
    }

    /// Notes a key that does not exist, with the nearest that does.
    fn unknown(&mut self, key: &str, problem: &str) {
        let problem = match ELSEWHERE.iter().find(|(name, _)| *name == key) {
            Some((_, hint)) => format!("{problem}; {hint}"),
            None => self.near(key, problem),
        };
        // what is meant keeps its default, so nothing is to be said of that
        self.doubtful.extend(problem.split('`').skip(1).step_by(2).map(last_name));
        self.doubtful.push(last_name(key));
        self.problems.add(key, problem);
    }

    /// What is wrong with a key that does not exist, and which one may be meant.
    fn near(&self, key: &str, problem: &str) -> String {
        let sections: Vec<&str> = self.table.keys().map(String::as_str).collect();
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        if self.table.contains_key(name) && section.is_empty() {
            return format!("is a section; write {key}.key=value");
        }
        let all: Vec<(&str, &str)> = self
            .table
            .iter()
            .filter_map(|(section, values)| Some((section, values.as_table()?)))
            .flat_map(|(section, values)| values.keys().map(move |name| (section.as_str(), name.as_str())))
            .collect();
        let here: Vec<&str> = all.iter().filter(|(s, _)| *s == section).map(|(_, n)| *n).collect();
        let same_name =
            all.iter().find(|(_, n)| n.eq_ignore_ascii_case(name)).map(|(s, n)| format!("{s}.{n}"));
        let hint = same_name.or_else(|| match here.is_empty() {
            false => nearest(name, here.iter().copied()).map(|n| format!("{section}.{n}")),
            true => {
                let section =
                    nearest(if section.is_empty() { name } else { section }, sections.iter().copied())?;
                Some(section.to_string())
            }
        });
        match hint {
            Some(hint) => format!("{problem}; did you mean `{hint}`?"),
            None if here.is_empty() => format!("{problem}; the sections are {}", sections.join(", ")),
            None => format!("{problem}; section `{section}` has {}", here.join(", ")),
        }
    }
}

/// The name of a key without its section.
fn last_name(key: &str) -> String {
    key.rsplit('.').next().unwrap_or(key).to_string()
}

/// The message of an unknown variant, which lists those that are known, with the nearest of them.
fn with_nearest(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    match names.next().filter(|_| message.starts_with("unknown variant")).and_then(|n| nearest(n, names)) {
        Some(meant) => format!("{message}; did you mean `{meant}`?"),
        None => message.to_string(),
    }
}

/// `value` as the kind of value that `current` is: a whole number may stand for a fraction.
fn fit(current: &Value, value: Value) -> Option<Value> {
    match (current, value) {
        (Value::Float(_), Value::Integer(n)) => Some(Value::Float(n as f64)),
        (Value::Array(items), Value::Array(values)) => {
            let Some(item) = items.first() else { return Some(Value::Array(values)) };
            values.into_iter().map(|v| fit(item, v)).collect::<Option<Vec<_>>>().map(Value::Array)
        }
        (current, value) if current.same_type(&value) => Some(value),
        _ => None,
    }
}

fn expected(current: &Value) -> String {
    match current {
        Value::Integer(n) => format!("a whole number, such as {n}"),
        Value::Float(x) => format!("a number, such as {x:?}"),
        Value::Boolean(_) => "true or false".into(),
        Value::String(s) if s.is_empty() => "text".into(),
        Value::String(s) => format!("text, such as \"{s}\""),
        Value::Array(_) => format!("a list, such as {current}"),
        other => format!("like {other}"),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::String(s) => format!("the text \"{s}\""),
        Value::Array(_) => format!("the list {value}"),
        Value::Table(_) => "a section".into(),
        other => other.to_string(),
    }
}

//! Choices among kernels that give the same bits, made by timing them on an adapter and kept in a file, so that the
//! next run need not time them again.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::own::create_own;
use crate::files::regular::read_text;
use crate::logging;
use crate::shown::shown;

/// How long kernels are timed, builds included, before the rest is left to rules.
const MOST: Duration = Duration::from_secs(10);
/// What was found is kept and told after so long without anything new.
const QUIET: Duration = Duration::from_secs(20);
/// Bytes that a file may have.
const LONGEST: u64 = 4 << 20;

/// What a file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// The adapter, its driver and the program: whatever changes how long a kernel takes.
    made_for: String,
    /// What is to be done, and the kernel for it.
    choices: BTreeMap<String, String>,
}

/// Choices on an adapter, by what is to be done.
pub struct Choices {
    made_for: String,
    /// Nothing is kept where there is none.
    file: Option<PathBuf>,
    /// What can be chosen.
    kernels: Vec<String>,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    /// The number of the kernel.
    known: HashMap<String, usize>,
    /// What was decided, by a number that stands for what is to be done: names are long to make.
    decided: HashMap<u64, Option<usize>>,
    spent: Duration,
    /// What is new, and how long it took.
    untold: Vec<(String, Gain)>,
    last: Option<Instant>,
}

/// What timing has shown of one thing.
#[derive(Clone, Copy, Debug)]
pub struct Gain {
    /// Seconds with the kernel that rules choose.
    pub by_rule: f64,
    /// Seconds with the one that is taken.
    pub chosen: f64,
}

impl Choices {
    /// Choices among these kernels on an adapter with a program, which `made_for` names; those that `folder` has a file
    /// of are known. One that is damaged is left out with a warning, and replaced.
    pub fn open(made_for: String, folder: Option<&Path>, kernels: Vec<String>) -> Self {
        let name = format!("choices-{:08x}.json", crc32c::crc32c(made_for.as_bytes()));
        let file = folder.map(|folder| folder.join(name));
        let mut choices = Self { made_for, file, kernels, found: Mutex::default() };
        let known = choices.read().unwrap_or_else(|e| {
            logging::warn(format_args!("{e}; its choices of kernels are left out"));
            HashMap::new()
        });
        choices.found.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).known = known;
        choices
    }

    /// The choice for something, where there is one.
    pub fn get(&self, what: &str) -> Option<usize> {
        self.found().known.get(what).copied()
    }

    /// What was decided for something, by a number that stands for it: a kernel's number, or that rules say it.
    pub fn decided(&self, what: u64) -> Option<Option<usize>> {
        self.found().decided.get(&what).copied()
    }

    /// Takes what is decided from now on.
    pub fn decide(&self, what: u64, choice: Option<usize>) {
        self.found().decided.insert(what, choice);
    }

    /// How much longer kernels may be timed.
    pub fn left(&self) -> Duration {
        MOST.saturating_sub(self.found().spent)
    }

    /// Takes a choice from now on, after so long a timing; one without a gain came to nothing, and is not kept.
    pub fn put(&self, what: String, choice: usize, spent: Duration, gain: Option<Gain>) {
        let mut found = self.found();
        found.known.insert(what.clone(), choice);
        found.spent += spent;
        found.last = Some(Instant::now());
        found.untold.extend(gain.map(|gain| (what, gain)));
    }

    /// Keeps and tells what was found, if there has been nothing new for a while.
    pub fn settle(&self) {
        if self.found().last.is_some_and(|last| last.elapsed() > QUIET) {
            self.keep();
        }
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What the file has; nothing where there is no file.
    fn read(&self) -> Result<HashMap<String, usize>> {
        let Some(file) = self.file.as_ref().filter(|file| file.exists()) else { return Ok(HashMap::new()) };
        let kept: Kept = serde_json::from_str(&read_text(file, LONGEST)?)
            .map_err(|e| Error::file(file, format!("is damaged: {e}")))?;
        if kept.made_for != self.made_for {
            let problem = format!("is for {}, not for {}", shown(&kept.made_for), shown(&self.made_for));
            return Err(Error::file(file, problem));
        }
        let number = |name: &String| self.kernels.iter().position(|kernel| kernel == name);
        Ok(kept.choices.into_iter().filter_map(|(what, name)| Some((what, number(&name)?))).collect())
    }

    /// Adds what was found to the file, and says so.
    fn keep(&self) {
        let mut found = self.found();
        found.last = None;
        let untold = std::mem::take(&mut found.untold);
        if untold.is_empty() {
            return;
        }
        let sum = |f: fn(&Gain) -> f64| untold.iter().map(|(_, gain)| f(gain)).sum::<f64>();
        let (by_rule, chosen) = (sum(|g| g.by_rule), sum(|g| g.chosen));
        logging::info(format_args!(
            "products timed: {} ({:.1} s so far); the kernels that are taken need {:.0}% less time than those by rule",
            untold.len(),
            found.spent.as_secs_f64(),
            100.0 * (1.0 - chosen / by_rule)
        ));
        if let Some(Err(e)) = self.file.as_ref().map(|file| self.write(file, &found.known, &untold)) {
            logging::warn(format_args!("{e}; the next run times its kernels again"));
        }
    }

    /// Replaces the file as a whole. Another process may have done so meanwhile: what it found stays.
    fn write(&self, file: &Path, known: &HashMap<String, usize>, new: &[(String, Gain)]) -> Result<()> {
        static WRITTEN: AtomicUsize = AtomicUsize::new(0);
        let mut all = self.read().unwrap_or_default();
        all.extend(new.iter().map(|(what, _)| (what.clone(), known[what])));
        let choices = all.into_iter().map(|(what, number)| (what, self.kernels[number].clone())).collect();
        let text = serde_json::to_string_pretty(&Kept { made_for: self.made_for.clone(), choices })
            .map_err(|e| Error::file(file, e.to_string()))?;
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let partial = file.with_extension(format!("{}-{number}.partial", std::process::id()));
        let written = std::fs::create_dir_all(file.parent().unwrap_or(Path::new("")))
            .and_then(|()| create_own(&partial)?.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&partial, file));
        written.map_err(|e| {
            // it may never have been made
            let _ = std::fs::remove_file(&partial);
            Error::file(file, format!("cannot be written: {e}"))
        })
    }
}

impl Drop for Choices {
    fn drop(&mut self) {
        self.keep();
    }
}

/// The folder of this program among those where a user's programs keep what they could find again.
pub fn cache_folder() -> Option<PathBuf> {
    let named = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let below_home =
        |folder| std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(folder));
    let folder = match () {
        () if cfg!(windows) => named("LOCALAPPDATA"),
        () if cfg!(target_vendor = "apple") => below_home("Library/Caches"),
        () => named("XDG_CACHE_HOME").or_else(|| below_home(".cache")),
    };
    folder.map(|folder| folder.join("poa-gpu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAIN: Option<Gain> = Some(Gain { by_rule: 2.0, chosen: 1.0 });

    fn open(folder: &Path, made_for: &str) -> Choices {
        Choices::open(made_for.into(), Some(folder), vec!["small".into(), "large".into()])
    }

    #[test]
    fn what_was_timed_is_known_the_next_time() {
        let folder = std::env::temp_dir().join(format!("poa-gpu-choices-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        // two at a time: neither takes from the file what the other has put there
        let (one, other) = (open(&folder, "an adapter"), open(&folder, "an adapter"));
        one.put("this".into(), 1, Duration::from_secs(4), GAIN);
        assert_eq!((one.get("this"), one.left()), (Some(1), Duration::from_secs(6)));
        one.put("too long".into(), 0, Duration::from_secs(9), None);
        assert_eq!((one.get("too long"), one.left()), (Some(0), Duration::ZERO));
        other.put("that".into(), 0, Duration::ZERO, GAIN);
        drop((one, other));
        let both = |choices: &Choices| ["this", "that"].map(|what| choices.get(what));
        let again = open(&folder, "an adapter");
        assert_eq!((both(&again), again.left()), ([Some(1), Some(0)], MOST));
        assert_eq!(again.get("too long"), None, "another run may have the time");
        assert_eq!(both(&open(&folder, "another one")), [None, None]);

        let file = again.file.clone().unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\"large\"", "\"gone\"")).unwrap();
        assert_eq!(both(&open(&folder, "an adapter")), [None, Some(0)], "a kernel that there is no more");
        for damaged in ["", "{", &text[..text.len() / 2], &text.replace("an adapter", "a stranger"), "\u{0}"]
        {
            std::fs::write(&file, damaged).unwrap();
            assert_eq!(both(&open(&folder, "an adapter")), [None, None], "{damaged}");
        }
        // what is damaged is replaced
        let choices = open(&folder, "an adapter");
        choices.put("this".into(), 0, Duration::ZERO, GAIN);
        drop(choices);
        assert_eq!(both(&open(&folder, "an adapter")), [Some(0), None]);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing is left beside the file");

        // where nothing can be written, a file's name being no folder, only this run knows
        let choices = open(&file, "an adapter");
        choices.put("this".into(), 1, Duration::ZERO, GAIN);
        assert_eq!(choices.get("this"), Some(1));
        drop(choices);
        assert_eq!(open(&file, "an adapter").get("this"), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

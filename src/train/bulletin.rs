//! What ranks tell each other between steps: wishes to end, what rank 0 decides for all, and messages of those that
//! have no log of their own.

use serde::{Deserialize, Serialize};

use crate::error::{Interruption, Result};
use crate::logging::{self, Level};
use crate::train::task::Task;
use crate::train::trainer::Trainer;

/// What one rank has to say.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Bulletin {
    /// The number of the signal that wishes for the end.
    stop: Option<usize>,
    /// Whether a checkpoint is to be written now; rank 0 decides.
    saves: bool,
    /// Whether an evaluation was left out; of rank 0.
    owes_evaluation: bool,
    /// Warnings since the last time.
    warnings: Vec<String>,
}

impl<T: Task> Trainer<T> {
    /// Lets all ranks know what each has to say, and whether a checkpoint is to be written: as rank 0 wishes by
    /// `saves`. From then on the wish of any rank to end is that of all. To be called by all ranks at once.
    pub(super) fn consult(&mut self, saves: bool) -> Result<bool> {
        let warnings = self.reports.take_warnings();
        if self.ranks.is_alone() {
            return Ok(saves);
        }
        let own = Bulletin {
            stop: self.wish.asked().map(Interruption::signal),
            saves,
            owes_evaluation: self.owes_evaluation,
            warnings,
        };
        let all = self.ranks.tell(own)?;
        if self.ranks.leads() {
            self.relay(&all);
        }
        let mut first = None;
        for bulletin in all {
            let wish = Interruption::ALL.into_iter().find(|why| Some(why.signal()) == bulletin.stop);
            if let Some(why) = wish.filter(|_| self.stop.asked().is_none()) {
                self.stop.ask(why);
            }
            first.get_or_insert((bulletin.saves, bulletin.owes_evaluation));
        }
        let (saves, owes) = first.unwrap_or_default();
        self.owes_evaluation = owes;
        Ok(saves)
    }

    /// Shows the warnings of ranks that have no log of their own, once what several of them say alike, and nothing of
    /// what this rank has said too: all draw the same conclusions from their settings.
    fn relay(&mut self, all: &[Bulletin]) {
        for (text, by) in by_text(all) {
            match by[..] {
                [0, ..] if self.reports.shows() => {}
                // of a first rank without a folder, which has no log for them
                [0, ..] => logging::show(Level::Warn, text),
                [rank] => self.reports.warn(&format!("{}: {text}", self.ranks.name(rank))),
                [rank, ref others @ ..] => {
                    let (name, others) = (self.ranks.name(rank), others.len());
                    self.reports.warn(&format!("{name} and {others} other ranks: {text}"));
                }
                [] => {}
            }
        }
        // they are this rank's now, and not its own
        self.reports.take_warnings();
    }
}

/// Every warning with the ranks that gave it, in the order of the first of them.
fn by_text(all: &[Bulletin]) -> Vec<(&str, Vec<usize>)> {
    let mut found: Vec<(&str, Vec<usize>)> = Vec::new();
    for (rank, bulletin) in all.iter().enumerate() {
        for text in &bulletin.warnings {
            match found.iter_mut().find(|(known, _)| known == text) {
                // one may say it twice
                Some((_, by)) if by.last() == Some(&rank) => {}
                Some((_, by)) => by.push(rank),
                None => found.push((text, vec![rank])),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_ranks_warn_of_comes_once_with_all_of_them() {
        let of = |warnings: &[&str]| Bulletin {
            warnings: warnings.iter().map(|text| (*text).into()).collect(),
            ..Bulletin::default()
        };
        let all =
            [of(&["momentum"]), of(&["disk", "momentum", "momentum"]), of(&["momentum", "disk", "image"])];
        assert_eq!(by_text(&all), [("momentum", vec![0, 1, 2]), ("disk", vec![1, 2]), ("image", vec![2])]);
    }
}

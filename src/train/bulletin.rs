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
    /// Warnings.
    messages: Vec<String>,
}

impl<T: Task> Trainer<T> {
    /// Lets all ranks know what each has to say, and whether a checkpoint is to be written: as rank 0 wishes by
    /// `saves`. From then on the wish of any rank to end is that of all. To be called by all ranks at once.
    pub(super) fn consult(&mut self, saves: bool) -> Result<bool> {
        if self.ranks.is_alone() {
            return Ok(saves);
        }
        let own = Bulletin {
            stop: self.wish.asked().map(Interruption::signal),
            saves,
            owes_evaluation: self.owes_evaluation,
            messages: self.reports.take_relayed(),
        };
        let mut first = None;
        for (rank, bulletin) in self.ranks.tell(own)?.into_iter().enumerate() {
            for text in bulletin.messages.iter().filter(|_| self.ranks.leads()) {
                match rank == self.ranks.rank() {
                    // of a first rank without a folder, which has no log for them
                    true => logging::show(Level::Warn, text),
                    false => self.reports.warn(&format!("{}: {text}", self.ranks.name(rank))),
                }
            }
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
}

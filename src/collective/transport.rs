//! What carries messages between ranks, and what is looked at while one waits for them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Bytes from one rank to another. Cheap to hand to several.
pub type Message = Arc<Vec<u8>>;

/// Carries messages between the ranks of a run, and does nothing else: what is made of them is made by
/// [`super::Exchanger`], so that the same ranks compute the same bits over any transport.
///
/// A transport lives on a thread of its own, which makes it and drops it.
pub trait Transport {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Sends message `r` of `messages`, one for each rank, to rank `r`, and returns what every rank has sent
    /// here, in rank order; its own message comes back as it is. All ranks call it equally often and in the
    /// same order.
    ///
    /// While it waits it calls [`Watch::look`] at least every [`Watch::EVERY`], with the ranks that are missing, and
    /// returns its error.
    fn exchange(&mut self, messages: Vec<Message>, watch: &Watch) -> Result<Vec<Message>>;

    /// Ends the run on all ranks. Where ranks are processes it tells why on standard error, in one line, and
    /// does not return.
    fn abort(&mut self, why: &str);
}

/// How much longer than the rank before it a rank waits.
const STAGGER: Duration = Duration::from_millis(500);

/// How long a rank waits for others, and why it would stop waiting.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Longest wait for another rank; zero waits for ever.
    limit: Duration,
    /// What the ranks are called in messages.
    names: Arc<Vec<String>>,
    /// Why this rank has given up, where it has: told by another thread of it.
    given_up: Arc<Mutex<Option<String>>>,
}

impl Watch {
    /// How often a transport looks.
    pub const EVERY: Duration = Duration::from_millis(50);

    /// A watch that lets the others be late for `limit`; zero for ever.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, names: Arc::default(), given_up: Arc::default() }
    }

    /// The same watch, which knows what the ranks are called.
    pub(super) fn with_names(&self, names: Vec<String>) -> Self {
        Self { names: Arc::new(names), ..self.clone() }
    }

    /// The same watch of a rank, with another limit. A rank with a higher number is a little more patient, so that one
    /// of them tells what is wrong and not all.
    pub(super) fn of_rank(self, rank: usize, limit: Duration) -> Self {
        let later = STAGGER * u32::try_from(rank.min(20)).unwrap_or(0);
        Self { limit: if limit.is_zero() { limit } else { limit + later }, ..self }
    }

    /// What rank `rank` is called: its number, host and process once they are known.
    pub(super) fn name(&self, rank: usize) -> String {
        self.names.get(rank).cloned().unwrap_or_else(|| format!("rank {rank}"))
    }

    /// This rank gives up: whatever it waits for ends with an error.
    pub(super) fn give_up(&self, why: &str) {
        self.given_up().get_or_insert_with(|| why.to_string());
    }

    fn given_up(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error where the wait that began at `since` is to end: for too long nothing was heard from the ranks
    /// that `missing` names, or this rank has given up.
    pub fn look(&self, since: Instant, missing: impl FnOnce() -> Vec<usize>) -> Result<()> {
        if let Some(why) = &*self.given_up() {
            return Err(Error::Elsewhere(why.clone()));
        }
        let waited = since.elapsed();
        if self.limit.is_zero() || waited < self.limit {
            return Ok(());
        }
        let missing = missing();
        let names: Vec<String> = missing.iter().take(4).map(|rank| self.name(*rank)).collect();
        let more = if missing.len() > 4 { format!(" and {} more", missing.len() - 4) } else { String::new() };
        Err(Error::Ranks(format!(
            "{}{more} has not come to where the others wait since {} s (train.rank_timeout): stopped, hung, or cut off. All \
             ranks end; go on with --resume",
            names.join(", "),
            waited.as_secs()
        )))
    }
}

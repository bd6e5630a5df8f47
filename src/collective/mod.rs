//! Several ranks as one run. A rank is a thread or a process with a device of its own; all run the same
//! program on their own images and meet here: for sums in rank order, messages and the end.
//!
//! ```text
//! rank's thread ── sum, gather, ... ──> queue ──> thread of the exchanges ── Transport ──> other ranks
//! ```
//! Everything goes through a thread of its own, in the order in which it was asked for, so that what was begun
//! ([`Collective::sum_later`]) is done while the device computes. All ranks must ask for the same in the same
//! order. A [`Transport`] carries bytes alone: [`Threads`] through memory, MPI (feature `mpi`) over a network.

mod exchanger;
#[cfg(feature = "mpi")]
mod mpi;
mod team;
mod threads;
#[cfg(feature = "mpi")]
mod transfer;
mod transport;

pub use exchanger::{Exchanger, SumCost};
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use team::{ends_all, kernel_threads, on_threads};
pub use threads::Threads;
pub use transport::{Message, Transport, Watch};

use std::cell::Cell;
use std::fmt::Display;
use std::ops::Range;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cpu::no_thread;
use crate::error::{Error, Result};
use crate::files::own;
use crate::profile;
use crate::share::Share;
use crate::shown::shown;

/// How long others may be late unless something else is asked for.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// One rank's way to the others. A handle; it stays on the rank's thread.
#[derive(Clone, Default)]
pub struct Collective(Option<Rc<Together>>);

/// One of several ranks.
struct Together {
    rank: usize,
    size: usize,
    on_host: (usize, usize),
    watch: Watch,
    jobs: mpsc::Sender<Job>,
    thread: Cell<Option<JoinHandle<()>>>,
    waited: Cell<Duration>,
}

type Job = Box<dyn FnOnce(&mut Exchanger) + Send>;

/// A result that is on its way; see [`Collective::sum_later`].
#[must_use = "the other ranks wait for what this one does with it"]
pub struct Pending<T> {
    result: mpsc::Receiver<Result<T>>,
    ranks: Rc<Together>,
}

impl<T> Pending<T> {
    /// The result, where it is here.
    pub fn poll(&self) -> Option<Result<T>> {
        self.result.try_recv().ok()
    }

    /// Waits for the result.
    pub fn wait(self) -> Result<T> {
        let _phase = profile::phase("wait for other ranks");
        let begun = Instant::now();
        let result = self.result.recv();
        self.ranks.waited.set(self.ranks.waited.get() + begun.elapsed());
        result.unwrap_or_else(|_| Err(Error::Elsewhere("the exchange with other ranks has ended".into())))
    }
}

impl Collective {
    /// A run of one rank: nothing is exchanged, and nothing is waited for.
    pub fn alone() -> Self {
        Self(None)
    }

    /// One of several ranks. `open` makes its transport, on the thread that will use it. A rank lets the others be
    /// late for `patience`; zero for ever. A transport of one rank makes a run that is alone.
    pub fn over<T: Transport + 'static>(
        open: impl FnOnce() -> Result<T> + Send + 'static,
        patience: Duration,
    ) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, ready) = mpsc::channel();
        let watch = Watch::new(patience);
        let first = watch.clone();
        let run = move || {
            let mut exchanger = match open() {
                Ok(transport) => Exchanger::new(Box::new(transport), first),
                Err(e) => return drop(opened.send(Err(e))),
            };
            let _ = opened.send(Ok((exchanger.rank(), exchanger.size())));
            drop(opened);
            for job in queue {
                job(&mut exchanger);
            }
        };
        let thread =
            std::thread::Builder::new().name("ranks".into()).spawn(run).map_err(|e| no_thread(&e))?;
        let gone = |_| Error::Ranks("the thread that talks to other ranks has ended".into());
        let (rank, size) = ready.recv().map_err(gone)??;
        if size <= 1 {
            return Ok(Self::alone());
        }
        let mut together = Together {
            rank,
            size,
            on_host: (0, 1),
            watch,
            jobs,
            thread: Cell::new(Some(thread)),
            waited: Cell::default(),
        };
        let own = serde_json::to_vec(&(own::host(), std::process::id())).map_err(broken)?;
        let all = together.ask(move |x| x.gather(own))?;
        let all: Vec<(Option<String>, u32)> = all.iter().map(read).collect::<Result<_>>()?;
        let here = |before: usize| all[..before].iter().filter(|(host, _)| *host == all[rank].0).count();
        together.on_host = (here(rank), here(size));
        let name = |(rank, (host, process)): (usize, &(Option<String>, u32))| match host {
            Some(host) => format!("rank {rank} (host {}, process {process})", shown(host)),
            None => format!("rank {rank} (process {process})"),
        };
        let names = all.iter().enumerate().map(name).collect();
        together.watch = together.watch.with_names(names);
        let ranks = Self(Some(Rc::new(together)));
        ranks.be_patient(patience)?;
        Ok(ranks)
    }

    /// The number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |all| all.rank)
    }

    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |all| all.size)
    }

    /// Which of how many this is.
    pub fn share(&self) -> Share {
        Share { rank: self.rank(), ranks: self.size() }
    }

    /// Whether this is the only rank.
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this is the rank that speaks for all: the first one.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// What a rank is called in messages: its number, host and process.
    pub fn name(&self, rank: usize) -> String {
        self.0.as_ref().map_or_else(|| format!("rank {rank}"), |all| all.watch.name(rank))
    }

    /// Which of the ranks on its machine this one is, and how many they are.
    pub fn on_host(&self) -> (usize, usize) {
        self.0.as_ref().map_or((0, 1), |all| all.on_host)
    }

    /// How long this rank has waited for others so far.
    pub fn waited(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |all| all.waited.get())
    }

    /// Begins to add up `values` over all ranks, element by element, in rank order; all ranks get the same bits.
    /// `None` where there is one rank, whose values are the sum.
    pub fn sum_later(&self, values: Vec<f32>) -> Result<Option<Pending<Vec<f32>>>> {
        let Some(ranks) = &self.0 else { return Ok(None) };
        let result = ranks.begin(move |x| x.sum(values))?;
        Ok(Some(Pending { result, ranks: ranks.clone() }))
    }

    /// The sums over all ranks, in the place of `values`.
    pub fn sum(&self, values: &mut [f32]) -> Result<()> {
        if let Some(sums) = self.sum_later(values.to_vec())? {
            values.copy_from_slice(&sums.wait()?);
        }
        Ok(())
    }

    /// Begins to add up over all ranks, in rank order, the elements that this rank has in `parts`, which has a part
    /// of `values` for each rank; with those of the other ranks they have the bits of [`Self::sum_later`]. `None`
    /// where there is one rank.
    pub fn sum_part_later(
        &self,
        values: Vec<f32>,
        parts: Vec<Range<usize>>,
    ) -> Result<Option<Pending<Vec<f32>>>> {
        let Some(ranks) = &self.0 else { return Ok(None) };
        let result = ranks.begin(move |x| x.sum_part(&values, &parts))?;
        Ok(Some(Pending { result, ranks: ranks.clone() }))
    }

    /// Begins to put the elements of all ranks one after the other, in rank order; rank `r` has `lengths[r]` of them.
    /// `None` where there is one rank.
    pub fn join_later(&self, own: Vec<f32>, lengths: Vec<usize>) -> Result<Option<Pending<Vec<f32>>>> {
        let Some(ranks) = &self.0 else { return Ok(None) };
        let result = ranks.begin(move |x| x.join(&own, &lengths))?;
        Ok(Some(Pending { result, ranks: ranks.clone() }))
    }

    /// log Σ exp over all ranks, element by element; −∞ stands for a rank that has nothing.
    pub fn log_sum_exp(&self, values: Vec<f64>) -> Result<Vec<f64>> {
        self.all(values, |x, values| x.log_sum_exp(values))
    }

    /// What every rank says, in rank order.
    pub fn gather(&self, own: Vec<u8>) -> Result<Vec<Message>> {
        match self.0 {
            None => Ok(vec![Message::new(own)]),
            Some(_) => self.all(Vec::new(), move |x, _: Vec<Message>| x.gather(own)),
        }
    }

    /// What every rank says, in rank order, on rank 0; the others hear nothing of it.
    pub fn gather_first(&self, own: Vec<u8>) -> Result<Vec<Message>> {
        match self.0 {
            None => Ok(vec![Message::new(own)]),
            Some(_) => self.all(Vec::new(), move |x, _: Vec<Message>| x.gather_first(own)),
        }
    }

    /// What rank 0 says; other ranks' words are passed over.
    pub fn broadcast(&self, own: Vec<u8>) -> Result<Message> {
        self.all(Message::new(own), |x, own| x.broadcast(0, own))
    }

    /// What every rank tells, in rank order. Numbers that are not finite do not survive it.
    pub fn tell<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<Vec<T>> {
        match self.is_alone() {
            true => Ok(vec![own]),
            false => self.gather(serde_json::to_vec(&own).map_err(broken)?)?.iter().map(read).collect(),
        }
    }

    /// What rank 0 tells.
    pub fn hear_first<T: Serialize + DeserializeOwned>(&self, own: T) -> Result<T> {
        match self.is_alone() {
            true => Ok(own),
            false => read(&self.broadcast(serde_json::to_vec(&own).map_err(broken)?)?),
        }
    }

    /// Waits until all ranks are here.
    pub fn barrier(&self) -> Result<()> {
        self.gather(Vec::new()).map(|_| ())
    }

    /// An error on all ranks where one of them has another value than rank 0 for something that must be the same:
    /// it names the first such rank and what differs. Rank 0 tells it; the error of the others says so.
    pub fn agree(&self, values: &[(&str, String)]) -> Result<()> {
        let own = values.iter().map(|(name, value)| ((*name).to_string(), value.clone()));
        let all = self.tell(own.collect::<Vec<(String, String)>>())?;
        for (rank, other) in all.iter().enumerate().skip(1) {
            let (here, there) = (self.name(0), self.name(rank));
            let problem = match all[0].iter().zip(other).find(|(a, b)| a != b) {
                Some((a, b)) => format!("{} is {} on {here} and {} on {there}", a.0, a.1, b.1),
                None if other.len() != all[0].len() => format!("{there} compares other things than {here}"),
                None => continue,
            };
            return Err(match self.leads() {
                true => Error::Ranks(format!("{problem}; all ranks of a run must have the same")),
                false => Error::Elsewhere(problem),
            });
        }
        Ok(())
    }

    /// From now on this rank lets the others be late for `patience`; zero for ever.
    pub fn be_patient(&self, patience: Duration) -> Result<()> {
        let Some(ranks) = &self.0 else { return Ok(()) };
        let watch = ranks.watch.clone().of_rank(ranks.rank, patience);
        ranks.ask(move |x| {
            x.set_watch(watch);
            Ok(())
        })
    }

    /// Ends the run on all ranks. Where ranks are processes it tells why and does not return; threads end with an
    /// error, which whoever has started them tells.
    pub fn abort(&self, why: impl Display) {
        if let Some(all) = &self.0 {
            let why = why.to_string();
            all.watch.give_up(&why);
            let (done, told) = mpsc::channel::<()>();
            let _ = all.jobs.send(Box::new(move |x| {
                x.abort(&why);
                drop(done);
            }));
            let _ = told.recv_timeout(Duration::from_secs(5));
        }
    }

    fn all<T: Send + 'static>(
        &self,
        own: T,
        job: impl FnOnce(&mut Exchanger, T) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(ranks) = &self.0 else { return Ok(own) };
        let result = ranks.begin(move |x| job(x, own))?;
        Pending { result, ranks: ranks.clone() }.wait()
    }
}

fn broken(e: serde_json::Error) -> Error {
    Error::Ranks(format!("a message between ranks is damaged: {e}"))
}

fn read<T: DeserializeOwned>(message: &Message) -> Result<T> {
    serde_json::from_slice(message).map_err(broken)
}

impl Together {
    fn begin<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Exchanger) -> Result<T> + Send + 'static,
    ) -> Result<mpsc::Receiver<Result<T>>> {
        let (reply, result) = mpsc::channel();
        let job: Job = Box::new(move |x| drop(reply.send(job(x))));
        let gone = |_| Error::Elsewhere("the exchange with other ranks has ended".into());
        self.jobs.send(job).map_err(gone)?;
        Ok(result)
    }

    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Exchanger) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let gone = |_| Error::Elsewhere("the exchange with other ranks has ended".into());
        self.begin(job)?.recv().map_err(gone)?
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        // no more jobs: the thread ends, and with it the transport
        let (nobody, _) = mpsc::channel();
        self.jobs = nobody;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

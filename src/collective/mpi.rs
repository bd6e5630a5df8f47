//! Ranks that are processes, on one machine or many, which mpirun or srun has started. MPI carries bytes from rank to
//! rank and nothing else: what is added up in which order is decided here, so any MPI, network and placement gives the
//! same bits.
//!
//! A message is a header of its length, which a short message travels in, and then its bytes in pieces, once the header of
//! the other rank is here: both know then how much comes, and bytes go both ways at the same time. One thread makes all
//! calls of MPI (`MPI_THREAD_FUNNELED`); it asks what has arrived and sleeps between, as cores are for the kernels.

use std::ffi::c_int;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::ffi;

use crate::collective::transfer::{Transfer, check};
use crate::collective::transport::{Message, Transport, Watch};
use crate::error::{Error, Result};
use crate::logging::{self, Level};

/// Bytes of the length in a header.
const LENGTH: usize = 8;
/// Bytes that travel in a header at most; with what MPI adds, shared memory takes 4 KiB at once.
const SHORT: usize = 4000 - LENGTH;
/// The length of a rank's last message: it has ended.
const FAREWELL: u64 = u64::MAX;
/// What tells headers and pieces apart.
const HEADER: c_int = 1;
const BODY: c_int = 2;

/// How long one asks without sleeping after something has moved: while nothing is on its way, and while bytes are,
/// which MPI moves only when it is asked.
const EAGER: Duration = Duration::from_micros(50);
const EAGER_BYTES: Duration = Duration::from_millis(2);
/// A sleep is this part of the time in which nothing has moved, which is what a rank that sleeps is late at most; and the
/// longest sleeps in these two cases.
const SLEEP: u32 = 20;
const LONGEST: Duration = Duration::from_millis(1);
const LONGEST_BYTES: Duration = Duration::from_micros(200);
/// How often one asks between two sleeps: of eight calls, Open MPI looks at sockets in one.
const ASKED: u32 = 16;
/// How long a rank leaves the word to one that can tell more.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// This process among those that were started with it.
pub struct Mpi {
    /// Until it is dropped, MPI may be called. `None` once the run has failed: then no one may wait for the others.
    universe: Option<Universe>,
    /// How long the others were waited for last.
    watch: Option<Watch>,
    rank: usize,
    size: usize,
}

/// What comes from one rank.
enum Arrival {
    Header(Vec<u8>),
    /// So many bytes, in the room of the vector.
    Body(Vec<u8>, usize),
    Here(Message),
    /// It has ended.
    Farewell,
}

impl Arrival {
    /// What the bytes of a header that has come say.
    fn of(header: &[u8]) -> Self {
        let (length, rest) = header.split_at(LENGTH);
        let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
        match usize::try_from(length) {
            _ if length == FAREWELL => Self::Farewell,
            Ok(length) if length <= SHORT => Self::Here(Arc::new(rest[..length].to_vec())),
            Ok(length) => Self::Body(Vec::new(), length),
            Err(_) => Self::Body(Vec::new(), usize::MAX),
        }
    }

    /// Whether there is more to come.
    fn is_awaited(&self) -> bool {
        matches!(self, Self::Header(_) | Self::Body(..))
    }
}

/// One exchange under way. What is in it stays where it is until all transfers are done: [`Exchange::finish`] leaks it
/// where it ends before.
#[derive(Default)]
struct Exchange {
    /// What is sent, and is not read by anyone but MPI.
    messages: Vec<Message>,
    headers: Vec<Vec<u8>>,
    /// To whom.
    sends: Vec<(usize, Transfer)>,
    /// By rank.
    arrivals: Vec<(Arrival, Transfer)>,
}

impl Exchange {
    /// Begins to send these messages, and to receive as many.
    fn begin(&mut self, own: usize, messages: Vec<Message>) -> Result<()> {
        let size = messages.len();
        self.messages = messages;
        self.expect(own, size)?;
        for rank in others(own, size) {
            let message = &self.messages[rank];
            let mut header = (message.len() as u64).to_le_bytes().to_vec();
            if message.len() <= SHORT {
                header.extend_from_slice(message);
            }
            self.send_header(header, rank)?;
        }
        Ok(())
    }

    /// Begins to say to all others that this rank ends.
    fn farewell(&mut self, own: usize, size: usize) -> Result<()> {
        self.messages = vec![Message::default(); size];
        self.expect(own, size)?;
        others(own, size).try_for_each(|rank| self.send_header(FAREWELL.to_le_bytes().to_vec(), rank))
    }

    fn expect(&mut self, own: usize, size: usize) -> Result<()> {
        for rank in 0..size {
            let arrival = match rank == own {
                true => Arrival::Here(mem::take(&mut self.messages[own])),
                false => Arrival::Header(zeros()),
            };
            self.arrivals.push((arrival, Transfer::default()));
            if let Some((Arrival::Header(header), transfer)) = self.arrivals.last_mut() {
                // SAFETY: `arrivals` keeps the vector and does not touch it. An exchange belongs to an `Mpi`, and so to the
                // one thread that calls MPI.
                unsafe { transfer.receive(header, LENGTH + SHORT, rank, HEADER)? };
            }
        }
        Ok(())
    }

    fn send_header(&mut self, header: Vec<u8>, to: usize) -> Result<()> {
        let mut transfer = Transfer::default();
        // SAFETY: `headers` keeps the vector and does not touch it; otherwise as in `expect`.
        unsafe { transfer.send(&header, to, HEADER)? };
        self.headers.push(header);
        self.sends.push((to, transfer));
        Ok(())
    }

    /// Looks at what has arrived and left; true where something has.
    fn advance(&mut self) -> Result<bool> {
        let mut moved = false;
        for (_, transfer) in &mut self.sends {
            moved |= transfer.advance()?;
        }
        self.sends.retain(|(_, transfer)| !transfer.is_done());
        for (rank, (arrival, transfer)) in self.arrivals.iter_mut().enumerate() {
            if !arrival.is_awaited() {
                continue;
            }
            moved |= transfer.advance()?;
            if !transfer.is_done() {
                continue;
            }
            *arrival = match mem::replace(arrival, Arrival::Farewell) {
                Arrival::Header(mut header) => {
                    // SAFETY: its room was made of zeros, to a part of which MPI has written.
                    unsafe { header.set_len(LENGTH + SHORT) };
                    let message = &self.messages[rank];
                    if message.len() > SHORT {
                        // now that it is here, and before it is told where to put its own: what one is told comes
                        // behind what is on its way already, and each would wait for the other's last piece
                        let mut body = Transfer::default();
                        // SAFETY: as in `send_header`, for `messages`.
                        unsafe { body.send(message, rank, BODY)? };
                        self.sends.push((rank, body));
                    }
                    Arrival::of(&header)
                }
                Arrival::Body(mut body, length) => {
                    // SAFETY: all pieces of it have come.
                    unsafe { body.set_len(length) };
                    Arrival::Here(Arc::new(body))
                }
                other => other,
            };
            if let Arrival::Body(body, length) = arrival {
                // SAFETY: as in `expect`.
                unsafe { transfer.receive(body, *length, rank, BODY)? };
            }
        }
        Ok(moved)
    }

    fn is_done(&self) -> bool {
        self.sends.is_empty() && !self.arrivals.iter().any(|(arrival, _)| arrival.is_awaited())
    }

    /// Ranks from which something has not come yet or, where all has, to which something has not left.
    fn missing(&self) -> Vec<usize> {
        let awaited = |(_, (arrival, _)): &(usize, &(Arrival, Transfer))| arrival.is_awaited();
        let from: Vec<usize> =
            self.arrivals.iter().enumerate().filter(awaited).map(|(rank, _)| rank).collect();
        match from.is_empty() {
            true => self.sends.iter().map(|(to, _)| *to).collect(),
            false => from,
        }
    }

    /// Whether bytes are on their way to or from a rank that is here too.
    fn flows(&self) -> bool {
        let comes = self.arrivals.iter().any(|(arrival, _)| matches!(arrival, Arrival::Body(..)));
        comes || self.sends.iter().any(|(to, _)| !matches!(self.arrivals[*to].0, Arrival::Header(_)))
    }

    /// Waits until all is done.
    fn run(&mut self, watch: &Watch) -> Result<()> {
        let (mut since, mut looked, mut asked) = (Instant::now(), Instant::now(), 0);
        loop {
            let moved = self.advance()?;
            if self.is_done() {
                return Ok(());
            }
            let now = Instant::now();
            if moved {
                since = now;
            }
            if now - looked >= Watch::EVERY {
                looked = now;
                watch.look(since, || self.missing())?;
            }
            let (eager, longest) = if self.flows() { (EAGER_BYTES, LONGEST_BYTES) } else { (EAGER, LONGEST) };
            let idle = now - since;
            if idle < eager {
                std::thread::yield_now();
            } else if asked < ASKED {
                asked += 1;
            } else {
                asked = 0;
                std::thread::sleep((idle / SLEEP).min(longest));
            }
        }
    }

    /// The exchange's result, or its end before it is done: what is on its way may still be read and written.
    fn finish(self, result: Result<()>) -> Result<Vec<Arrival>> {
        match result {
            Ok(()) => Ok(self.arrivals.into_iter().map(|(arrival, _)| arrival).collect()),
            Err(e) => {
                mem::forget(self);
                Err(e)
            }
        }
    }
}

/// Room for a header.
fn zeros() -> Vec<u8> {
    let mut header = vec![0; LENGTH + SHORT];
    header.clear();
    header
}

/// The others, from the one after this one on, so that not all send to the same first.
fn others(own: usize, size: usize) -> impl Iterator<Item = usize> {
    (own + 1..size).chain(0..own)
}

impl Mpi {
    /// This process's place among those that were started together. To be called once in a process, on the thread that
    /// will do all exchanges.
    pub fn open() -> Result<Self> {
        let started = mpi::initialize_with_threading(Threading::Funneled);
        let Some((universe, threading)) = started else {
            return Err(Error::Ranks("MPI has been started in this process before".into()));
        };
        if threading < Threading::Funneled {
            return Err(Error::Ranks(
                "this MPI does not work in programs with threads (MPI_THREAD_FUNNELED is not to be had)"
                    .into(),
            ));
        }
        let (mut rank, mut size): (c_int, c_int) = (0, 0);
        // SAFETY: MPI is initialised, and both places are there to be written to.
        unsafe {
            check(ffi::MPI_Comm_set_errhandler(ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN))?;
            check(ffi::MPI_Comm_rank(ffi::RSMPI_COMM_WORLD, &raw mut rank))?;
            check(ffi::MPI_Comm_size(ffi::RSMPI_COMM_WORLD, &raw mut size))?;
        }
        Ok(Self { universe: Some(universe), watch: None, rank: rank as usize, size: size as usize })
    }

    fn exchange_or_fail(
        &mut self,
        begin: impl FnOnce(&mut Exchange) -> Result<()>,
        watch: &Watch,
    ) -> Result<Vec<Arrival>> {
        let mut exchange = Exchange::default();
        let result = begin(&mut exchange).and_then(|()| exchange.run(watch));
        if result.is_err() {
            // nobody may wait for the others any more, as the end of MPI would
            mem::forget(self.universe.take());
        }
        exchange.finish(result)
    }
}

impl Transport for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&mut self, messages: Vec<Message>, watch: &Watch) -> Result<Vec<Message>> {
        self.watch = Some(watch.clone());
        let own = self.rank;
        let all = self.exchange_or_fail(|exchange| exchange.begin(own, messages), watch)?;
        let here = |(rank, arrival)| match arrival {
            Arrival::Here(message) => Ok(message),
            _ => Err(Error::Ranks(format!("{} has ended before the others", watch.name(rank)))),
        };
        let all: Result<Vec<Message>> = all.into_iter().enumerate().map(here).collect();
        if all.is_err() {
            mem::forget(self.universe.take());
        }
        all
    }

    fn abort(&mut self, why: &str) {
        logging::show(Level::Error, format_args!("poa-gpu: {why}"));
        mem::forget(self.universe.take());
        // SAFETY: MPI is initialised; it ends this process and asks for the end of the others.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, 1) };
        std::process::exit(1);
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        let Some(watch) = self.watch.take().filter(|_| self.universe.is_some()) else { return };
        // MPI would wait without a word for ranks that are hung, and those for this one that do not end yet
        let (own, size) = (self.rank, self.size);
        let why = match self.exchange_or_fail(|exchange| exchange.farewell(own, size), &watch) {
            Ok(all) => {
                let goes_on =
                    |rank: usize, arrival: &Arrival| rank != own && !matches!(arrival, Arrival::Farewell);
                let Some(other) = (0..size).find(|rank| goes_on(*rank, &all[*rank])) else { return };
                // which is the one to tell it
                std::thread::sleep(LAST_WORDS);
                format!("{} has ended, and {} goes on", watch.name(own), watch.name(other))
            }
            Err(e) => e.to_string(),
        };
        self.abort(&why);
    }
}

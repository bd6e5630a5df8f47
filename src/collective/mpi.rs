//! Ranks that are processes, on one machine or many, which mpirun or srun has started. MPI carries bytes from rank to
//! rank and nothing else: what is added up in which order is decided here, so any MPI, network and placement gives the
//! same bits.
//!
//! A message is a header of its length, which a short message travels in, and then its bytes in pieces. One thread makes
//! all calls of MPI (`MPI_THREAD_FUNNELED`); it asks what has arrived and sleeps between, as cores are for the kernels.

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::ffi;

use crate::collective::transport::{Message, Transport, Watch};
use crate::error::{Error, Result};
use crate::logging::{self, Level};

/// Bytes of the length in a header.
const LENGTH: usize = 8;
/// Bytes that travel in a header at most.
const SHORT: usize = 4096 - LENGTH;
/// Bytes of a piece at most: MPI counts in `int`.
const PIECE: usize = 1 << 30;
/// What tells headers and pieces apart.
const HEADER: c_int = 1;
const BODY: c_int = 2;
/// How often one asks before one sleeps.
const EAGER: u32 = 200;
/// The longest sleep.
const SLEEP: Duration = Duration::from_micros(200);

/// This process among those that were started with it.
pub struct Mpi {
    /// Until it is dropped, MPI may be called. `None` once the run has failed: then no one may wait for the others.
    universe: Option<Universe>,
    rank: usize,
    size: usize,
}

/// Tells what a call of MPI returned.
fn check(code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        code => {
            Err(Error::Ranks(format!("MPI reports error {code}: the connection to another rank is lost")))
        }
    }
}

/// Bytes on their way. They stay where they are until MPI is done with them.
struct Transfer {
    requests: Vec<ffi::MPI_Request>,
}

impl Transfer {
    fn new() -> Self {
        Self { requests: Vec::new() }
    }

    /// Begins to send bytes, which must live until the transfer is done.
    fn send(&mut self, bytes: &[u8], to: usize, tag: c_int) -> Result<()> {
        for piece in bytes.chunks(PIECE) {
            let mut request = null_request();
            // SAFETY: MPI is initialised, and the bytes outlive the request: an exchange keeps them until all are done,
            // and leaks them where it ends before.
            let code = unsafe {
                ffi::MPI_Isend(
                    piece.as_ptr().cast::<c_void>(),
                    piece.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    to as c_int,
                    tag,
                    ffi::RSMPI_COMM_WORLD,
                    &raw mut request,
                )
            };
            check(code)?;
            self.requests.push(request);
        }
        Ok(())
    }

    /// Begins to receive into `bytes`, which must live until the transfer is done and not be used before.
    fn receive(&mut self, bytes: &mut [u8], from: usize, tag: c_int) -> Result<()> {
        for piece in bytes.chunks_mut(PIECE) {
            let mut request = null_request();
            // SAFETY: as above; nobody else uses the bytes meanwhile.
            let code = unsafe {
                ffi::MPI_Irecv(
                    piece.as_mut_ptr().cast::<c_void>(),
                    piece.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    from as c_int,
                    tag,
                    ffi::RSMPI_COMM_WORLD,
                    &raw mut request,
                )
            };
            check(code)?;
            self.requests.push(request);
        }
        Ok(())
    }

    /// Whether all of it is done.
    fn done(&mut self) -> Result<bool> {
        while let Some(request) = self.requests.last_mut() {
            let mut done: c_int = 0;
            // SAFETY: the request is one that was begun, and both places are there to be written to.
            let code = unsafe { ffi::MPI_Test(&raw mut *request, &raw mut done, ffi::RSMPI_STATUS_IGNORE) };
            check(code)?;
            if done == 0 {
                return Ok(false);
            }
            self.requests.pop();
        }
        Ok(true)
    }
}

fn null_request() -> ffi::MPI_Request {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

/// What comes from one rank.
enum Arrival {
    Header(Vec<u8>),
    Body(Vec<u8>),
    Here(Message),
}

/// One exchange under way.
struct Exchange {
    /// Headers and messages that are sent, kept until they are.
    kept: (Vec<Vec<u8>>, Vec<Message>),
    sends: Vec<Transfer>,
    arrivals: Vec<(Arrival, Transfer)>,
}

impl Exchange {
    /// An exchange of these messages, of which nothing is on its way yet.
    fn of(messages: Vec<Message>) -> Self {
        Self { kept: (Vec::new(), messages), sends: Vec::new(), arrivals: Vec::new() }
    }

    fn begin(&mut self, own: usize) -> Result<()> {
        let size = self.kept.1.len();
        for rank in 0..size {
            if rank == own {
                self.arrivals.push((Arrival::Here(self.kept.1[own].clone()), Transfer::new()));
                continue;
            }
            self.arrivals.push((Arrival::Header(vec![0; LENGTH + SHORT]), Transfer::new()));
            if let Some((Arrival::Header(header), transfer)) = self.arrivals.last_mut() {
                transfer.receive(header, rank, HEADER)?;
            }
        }
        // each rank begins with the one after it, so that not all send to the same
        for rank in (own + 1..size).chain(0..own) {
            let message = &self.kept.1[rank];
            let mut header = (message.len() as u64).to_le_bytes().to_vec();
            let short = message.len() <= SHORT;
            if short {
                header.extend_from_slice(message);
            }
            self.kept.0.push(header);
            self.sends.push(Transfer::new());
            if let (Some(header), Some(transfer)) = (self.kept.0.last(), self.sends.last_mut()) {
                transfer.send(header, rank, HEADER)?;
                if !short {
                    transfer.send(message, rank, BODY)?;
                }
            }
        }
        Ok(())
    }

    /// Looks at what has arrived and left; true where something has.
    fn advance(&mut self) -> Result<bool> {
        let before = self.sends.len();
        let mut at = 0;
        while at < self.sends.len() {
            match self.sends[at].done()? {
                true => drop(self.sends.swap_remove(at)),
                false => at += 1,
            }
        }
        let mut moved = self.sends.len() < before;
        for (rank, (arrival, transfer)) in self.arrivals.iter_mut().enumerate() {
            if matches!(arrival, Arrival::Here(_)) || !transfer.done()? {
                continue;
            }
            moved = true;
            *arrival = match std::mem::replace(arrival, Arrival::Here(Message::default())) {
                Arrival::Header(header) => {
                    let (length, rest) = header.split_at(LENGTH);
                    let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    match rest.get(..length) {
                        Some(message) => Arrival::Here(Arc::new(message.to_vec())),
                        None => {
                            *arrival = Arrival::Body(vec![0; length]);
                            if let Arrival::Body(body) = arrival {
                                transfer.receive(body, rank, BODY)?;
                            }
                            continue;
                        }
                    }
                }
                Arrival::Body(body) => Arrival::Here(Arc::new(body)),
                here @ Arrival::Here(_) => here,
            };
        }
        Ok(moved)
    }

    fn is_done(&self) -> bool {
        self.sends.is_empty() && self.missing().is_empty()
    }

    /// Ranks from which something has not come yet, or to which something has not left.
    fn missing(&self) -> Vec<usize> {
        let waits = |(_, (arrival, _)): &(usize, &(Arrival, Transfer))| !matches!(arrival, Arrival::Here(_));
        self.arrivals.iter().enumerate().filter(waits).map(|(rank, _)| rank).collect()
    }

    fn run(&mut self, watch: &Watch) -> Result<()> {
        let (mut since, mut looked, mut idle) = (Instant::now(), Instant::now(), 0u32);
        while !self.is_done() {
            if self.advance()? {
                (since, idle) = (Instant::now(), 0);
                continue;
            }
            idle = idle.saturating_add(1);
            if idle > EAGER {
                std::thread::sleep(SLEEP.min(Duration::from_micros(u64::from(idle - EAGER))));
            } else {
                std::thread::yield_now();
            }
            if looked.elapsed() >= Watch::EVERY {
                looked = Instant::now();
                watch.look(since, || self.missing())?;
            }
        }
        Ok(())
    }
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
        Ok(Self { universe: Some(universe), rank: rank as usize, size: size as usize })
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
        let mut exchange = Exchange::of(messages);
        if let Err(e) = exchange.begin(self.rank).and_then(|()| exchange.run(watch)) {
            // what is on its way may still be read and written, and nobody may wait for the others any more
            std::mem::forget(exchange);
            std::mem::forget(self.universe.take());
            return Err(e);
        }
        drop(exchange.kept);
        let here = |(arrival, _)| match arrival {
            Arrival::Here(message) => Some(message),
            _ => None,
        };
        Ok(exchange.arrivals.into_iter().filter_map(here).collect())
    }

    fn abort(&mut self, why: &str) {
        logging::show(Level::Error, format_args!("poa-gpu: {why}"));
        std::mem::forget(self.universe.take());
        // SAFETY: MPI is initialised; it ends this process and asks for the end of the others.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, 1) };
        std::process::exit(1);
    }
}

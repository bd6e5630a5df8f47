//! A record of several ranks on one machine: every rank is a thread with a device of its own.

use std::panic::resume_unwind;
use std::thread;

use super::{Fixture, Replay, replay};
use crate::collective::{Collective, PATIENCE, Threads};
use crate::cpu::no_thread;
use crate::error::{Error, Result};
use crate::poa::settings::Precision;
use crate::tensor::Device;

/// Bytes of a rank's stack.
const STACK: usize = 8 << 20;

/// Replays a record with a thread for each of its ranks, whose devices `open` opens: a record of one rank on this
/// thread. An error is that of the rank that failed, and names it.
pub fn replay_on_threads(
    fixture: &Fixture,
    open: impl Fn() -> Result<Device> + Sync,
    precision: Precision,
) -> Result<Replay> {
    let size = fixture.ranks();
    if size == 1 {
        return replay(fixture, &open()?, precision, &Collective::alone());
    }
    let one = |side: Threads| -> Result<Replay> {
        let ranks = Collective::over(move || Ok(side), PATIENCE)?;
        let done = open().and_then(|device| replay(fixture, &device, precision, &ranks));
        if let Err(e) = &done {
            ranks.abort(e);
        }
        done
    };
    let results: Vec<_> = thread::scope(|scope| {
        let start = |(rank, side)| {
            let one = &one;
            let run = move || own_pool(size)?.install(move || one(side));
            thread::Builder::new().name(format!("rank {rank}")).spawn_scoped(scope, run)
        };
        let begun: Vec<_> = Threads::meeting(size).into_iter().enumerate().map(start).collect();
        let join = |rank: thread::ScopedJoinHandle<'_, Result<Replay>>| {
            rank.join().unwrap_or_else(|panic| resume_unwind(panic))
        };
        begun.into_iter().map(|rank| rank.map_err(|e| no_thread(&e)).and_then(join)).collect()
    });
    outcome(results)
}

/// What the first rank found, or the error that ended all.
fn outcome<T>(results: Vec<Result<T>>) -> Result<T> {
    let mut first = None;
    let mut errors = Vec::new();
    for (rank, result) in results.into_iter().enumerate() {
        match result {
            Ok(found) if rank == 0 => first = Some(found),
            Ok(_) => {}
            Err(e) => errors.push((matches!(e, Error::Elsewhere(_)), rank, e)),
        }
    }
    // a rank that ends for another does not tell why
    errors.sort_by_key(|(elsewhere, rank, _)| (*elsewhere, *rank));
    match (errors.into_iter().next(), first) {
        (Some((_, rank, e)), _) => Err(e.during(format!("rank {rank}"))),
        (None, Some(found)) => Ok(found),
        (None, None) => Err(Error::Ranks("no rank has found anything".into())),
    }
}

/// Threads for the kernels of one of `ranks` ranks. Ranks wait for each other, so they must not share a pool: one that
/// waits in it would keep another from coming.
fn own_pool(ranks: usize) -> Result<rayon::ThreadPool> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads((cores / ranks).max(1)).stack_size(STACK);
    pool.build().map_err(|e| Error::Device(format!("the threads of a rank cannot be started: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_that_failed_is_told() {
        let elsewhere = || Err(Error::Elsewhere("rank 2 has ended".into()));
        let found = outcome::<()>(vec![elsewhere(), Ok(()), Err(Error::Device("gone".into())), elsewhere()]);
        assert_eq!(found.unwrap_err().to_string(), "device: rank 2: gone");
        assert!(
            outcome::<()>(vec![Ok(()), elsewhere()]).unwrap_err().to_string().contains("rank 2 has ended")
        );
        assert_eq!(outcome(vec![Ok(5), Ok(6)]).unwrap(), 5);
    }
}

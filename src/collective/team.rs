//! Running a program as each of several ranks.

use std::io;
use std::thread::{Builder, ScopedJoinHandle, available_parallelism, scope};
use std::time::Duration;

use crate::collective::Collective;
use crate::collective::threads::Threads;
use crate::cpu::no_thread;
use crate::error::{Error, Result};

/// Bytes of stack of a rank's threads, as the program's own has them.
const STACK: usize = 8 << 20;

/// Runs `rank` on `size` threads of this process as ranks that meet in its memory, and returns what they return. Each
/// has its share of the cores. A rank lets the others be late for `patience`. The error is that of the rank that failed
/// of itself, and names it where it is not the first; the others end for it.
pub fn on_threads<T: Send>(
    size: usize,
    patience: Duration,
    rank: impl Fn(&Collective) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let cores = available_parallelism().map_or(1, usize::from) / size.max(1);
    let one = |side: Threads| -> Result<T> {
        kernel_threads(cores)?.install(|| {
            let ranks = Collective::over(move || Ok(side), patience)?;
            ends_all(&ranks, rank(&ranks))
        })
    };
    let results: Vec<Result<T>> = scope(|scope| {
        let mut all = Vec::new();
        for (i, side) in Threads::meeting(size).into_iter().enumerate() {
            let (one, thread) = (&one, Builder::new().name(format!("rank {i}")).stack_size(STACK));
            all.push(thread.spawn_scoped(scope, move || one(side)));
        }
        let ended = |thread: io::Result<ScopedJoinHandle<'_, Result<T>>>| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(e) => Err(no_thread(&e)),
        };
        all.into_iter().map(ended).collect()
    });
    first_cause(results)
}

/// The threads of one rank's kernels, one at least, to be entered by `install`. They are its own: a rank that waits for
/// others in a pool that they share would keep them from coming.
pub fn kernel_threads(count: usize) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(count.max(1)).stack_size(STACK).build();
    pool.map_err(|e| Error::Device(format!("the threads of a rank cannot be started: {e}")))
}

/// What a rank returns; an error of its own ends the others, and names it.
pub fn ends_all<T>(ranks: &Collective, result: Result<T>) -> Result<T> {
    match result {
        Ok(_) | Err(Error::Elsewhere(_) | Error::Interrupted(_)) => result,
        Err(e) => {
            let e = if ranks.leads() { e } else { e.during(ranks.name(ranks.rank())) };
            ranks.abort(&e);
            Err(e)
        }
    }
}

/// What all ranks return, or the first error that does not speak of another rank's.
fn first_cause<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let (mut all, mut elsewhere) = (Vec::new(), None);
    for result in results {
        match result {
            Ok(found) => all.push(found),
            Err(e @ Error::Elsewhere(_)) => drop(elsewhere.get_or_insert(e)),
            Err(e) => return Err(e),
        }
    }
    // that no rank has told its own is a fault of the program, and all the more to be told
    elsewhere.map_or(Ok(all), |e| Err(Error::Ranks(e.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_told_and_not_its_echo() {
        let echo = || Err(Error::Elsewhere("x".into()));
        assert_eq!(first_cause(vec![Ok(1), Ok(2)]).unwrap(), [1, 2]);
        let cause = first_cause::<()>(vec![echo(), Err(Error::Device("gone".into())), echo()]);
        assert!(matches!(cause, Err(Error::Device(_))));
        assert!(matches!(first_cause(vec![Ok(()), echo()]), Err(Error::Ranks(_))));
    }

    #[test]
    fn a_rank_that_fails_is_named() {
        let failed = on_threads(3, Duration::from_secs(60), |ranks| match ranks.rank() {
            2 => Err(Error::Device("gone".into())),
            _ => ranks.barrier(),
        });
        let text = failed.unwrap_err().to_string();
        assert!(text.starts_with("device: rank 2 (") && text.ends_with(": gone"), "{text}");
        let all = on_threads(2, Duration::from_secs(60), |ranks| Ok(ranks.rank() * 10)).unwrap();
        assert_eq!(all, [0, 10]);
    }
}

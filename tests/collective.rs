//! Several ranks as threads: sums in rank order, messages, and ends of every kind.

use std::thread;
use std::time::{Duration, Instant};

use poa_gpu::collective::{Collective, Threads};
use poa_gpu::{Error, Result};

/// Runs `rank` on so many threads that meet; their results in rank order.
fn ranks<T: Send>(size: usize, patience: Duration, rank: impl Fn(Collective) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let run = |side: Threads| {
            let rank = &rank;
            scope.spawn(move || rank(Collective::over(move || Ok(side), patience).unwrap()))
        };
        let all: Vec<_> = Threads::meeting(size).into_iter().map(run).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

const LONG: Duration = Duration::from_secs(60);

fn value(rank: usize, i: usize) -> f32 {
    ((rank * 7919 + i * 104_729) % 10_007) as f32 * 1e-3 - 5.0 + 1e-7 * rank as f32
}

#[test]
fn sums_are_those_of_all_ranks_in_their_order_and_the_same_bits_everywhere() {
    for (size, count) in [(2, 5), (2, 100_003), (3, 4096), (4, 70_001), (5, 1)] {
        let all = ranks(size, LONG, |c| {
            let mut values: Vec<f32> = (0..count).map(|i| value(c.rank(), i)).collect();
            c.sum(&mut values).unwrap();
            values
        });
        let wanted: Vec<f32> =
            (0..count).map(|i| (0..size).map(|r| f64::from(value(r, i))).sum::<f64>() as f32).collect();
        for (rank, sums) in all.iter().enumerate() {
            assert_eq!(sums, &wanted, "rank {rank} of {size}, {count} elements");
        }
    }
}

#[test]
fn sums_of_parts_are_those_of_all_elements_and_parts_join_in_rank_order() {
    // parts of any size, also none
    for parts in [vec![0..0, 0..5], vec![0..30_000, 30_000..70_001], vec![0..7, 7..7, 7..5000]] {
        let (size, count) = (parts.len(), parts[parts.len() - 1].end);
        let all = ranks(size, LONG, |c| {
            let values: Vec<f32> = (0..count).map(|i| value(c.rank(), i)).collect();
            let part = c.sum_part_later(values.clone(), parts.clone()).unwrap().unwrap();
            let whole = c.sum_later(values).unwrap().unwrap();
            let (part, whole) = (part.wait().unwrap(), whole.wait().unwrap());
            assert_eq!(part, whole[parts[c.rank()].clone()], "rank {} of {size}", c.rank());
            let lengths = parts.iter().map(ExactSizeIterator::len).collect();
            let joined = c.join_later(part, lengths).unwrap().unwrap().wait().unwrap();
            assert_eq!(joined, whole, "rank {} of {size}", c.rank());
            c.gather_first(vec![c.rank() as u8; 1 + c.rank()]).unwrap()
        });
        for (rank, said) in all.iter().enumerate() {
            for (from, message) in said.iter().enumerate() {
                let wanted = if rank == 0 { vec![from as u8; 1 + from] } else { Vec::new() };
                assert_eq!(**message, wanted, "from {from} to {rank}");
            }
        }
    }
}

#[test]
fn what_is_begun_is_done_in_order_while_other_things_are() {
    let all = ranks(3, LONG, |c| {
        let begun: Vec<_> =
            (0..20).map(|i| c.sum_later(vec![(i * (c.rank() + 1)) as f32; 5000]).unwrap().unwrap()).collect();
        let said = c.gather(format!("rank {}", c.rank()).into_bytes()).unwrap();
        let sums: Vec<f32> = begun.into_iter().map(|sum| sum.wait().unwrap()[4999]).collect();
        let said: Vec<String> = said.iter().map(|m| String::from_utf8_lossy(m).into_owned()).collect();
        let first = c.broadcast(format!("from {}", c.rank()).into_bytes()).unwrap();
        (sums, said, String::from_utf8_lossy(&first).into_owned())
    });
    for (sums, said, first) in all {
        assert_eq!(sums, (0..20).map(|i| (6 * i) as f32).collect::<Vec<_>>());
        assert_eq!(said, ["rank 0", "rank 1", "rank 2"]);
        assert_eq!(first, "from 0");
    }
}

#[test]
fn a_log_sum_exp_over_ranks_is_that_of_all_and_takes_ranks_that_have_nothing() {
    let all = ranks(3, LONG, |c| {
        let own = if c.rank() == 1 { f64::NEG_INFINITY } else { c.rank() as f64 * 1000.0 };
        c.log_sum_exp(vec![own, c.rank() as f64]).unwrap()
    });
    let wanted = [2000.0, (1.0 + 1f64.exp() + 2f64.exp()).ln()];
    for got in all {
        assert!(got.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{got:?}");
    }
}

#[test]
fn alone_nothing_is_exchanged() {
    let c = Collective::alone();
    let mut values = [1.0, 2.0];
    c.sum(&mut values).unwrap();
    assert_eq!((values, c.size(), c.rank()), ([1.0, 2.0], 1, 0));
    assert!(c.sum_later(vec![1.0]).unwrap().is_none());
    assert!(c.sum_part_later(vec![1.0, 2.0], vec![0..1, 1..2]).unwrap().is_none());
    assert!(c.join_later(vec![1.0], vec![1]).unwrap().is_none());
    assert_eq!(*c.gather_first(vec![8]).unwrap()[0], [8]);
    assert_eq!(*c.gather(vec![7]).unwrap()[0], [7]);
    c.barrier().unwrap();
    c.agree(&[("anything", "x".into())]).unwrap();
    assert_eq!(Collective::over(|| Ok(Threads::meeting(1).remove(0)), LONG).unwrap().size(), 1);
}

#[test]
fn a_rank_that_stays_away_is_named_and_all_end() {
    let begun = Instant::now();
    let all = ranks(4, Duration::from_millis(300), |c| -> Result<()> {
        if c.rank() == 2 {
            // hung
            thread::sleep(Duration::from_secs(2));
        }
        c.barrier()
    });
    assert!(begun.elapsed() < Duration::from_secs(10));
    let named = all[0].as_ref().unwrap_err();
    assert!(
        matches!(named, Error::Ranks(text) if text.starts_with("rank 2 (") && !text.contains("rank 1")),
        "{named}"
    );
    assert!(
        all.iter().skip(1).all(|r| matches!(r, Err(Error::Elsewhere(text)) if text.contains("rank 2 ("))),
        "{all:?}"
    );
}

#[test]
fn a_rank_that_ends_or_gives_up_ends_the_others_at_once() {
    let begun = Instant::now();
    let left = ranks(3, LONG, |c| if c.rank() == 1 { Ok(()) } else { c.barrier() });
    assert!(matches!(&left[0], Err(Error::Elsewhere(text)) if text.contains("rank 1 (")), "{left:?}");
    let gave_up = ranks(3, LONG, |c| match c.rank() {
        1 => {
            thread::sleep(Duration::from_millis(100));
            c.abort("out of memory");
            c.barrier()
        }
        _ => c.barrier(),
    });
    for r in &gave_up {
        assert!(matches!(r, Err(Error::Elsewhere(text)) if text.contains("out of memory")), "{gave_up:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_differs_between_ranks_is_named() {
    let all = ranks(3, LONG, |c| {
        let images = if c.rank() == 2 { "99" } else { "100" };
        c.agree(&[("the version", "1".into()), ("the number of images", images.into())])
    });
    let text = all[0].as_ref().unwrap_err().to_string();
    assert!(text.starts_with("the number of images is 100 on rank 0 ("), "{text}");
    assert!(text.contains("and 99 on rank 2 ("), "{text}");
    assert!(all.iter().skip(1).all(|r| matches!(r, Err(Error::Elsewhere(_)))));
}

#[test]
fn ranks_that_are_out_of_step_are_an_error_and_no_wrong_sum() {
    let all = ranks(2, LONG, |c| {
        let count = 3 + c.rank();
        c.sum(&mut vec![1.0; count])
    });
    assert!(
        all.iter().any(|r| matches!(r, Err(Error::Ranks(text)) if text.contains("out of step"))),
        "{all:?}"
    );
    let all = ranks(2, LONG, |c| c.join_later(vec![1.0; 3 + c.rank()], vec![3, 3]).unwrap().unwrap().wait());
    assert!(all.iter().all(|r| r.is_err()), "{all:?}");
}

//! Batches of several ranks: shared out without gaps, and from any place of an epoch on.

use std::collections::BTreeSet;

use poa_gpu::data::order::{Order, Pick};
use poa_gpu::data::*;
use poa_gpu::rng::{Purpose, stream};
use poa_gpu::share::{Place, Share};
use rand::seq::SliceRandom;

use crate::loader::{batches, small};
use crate::open;

/// Images, images of a batch: whole epochs, with a rest, less than a batch.
const SIZES: [(usize, usize); 6] = [(48, 12), (50, 12), (7, 7), (3, 8), (1, 1), (1, 5)];

/// Image `slot` of step `step` of a run that has had batches of this size from its beginning.
fn by_number(len: usize, batch: usize, seed: u64, step: u64, slot: usize) -> Pick {
    let steps = (len / batch).max(1) as u64;
    let (epoch, position) = (step / steps, (step % steps) as usize * batch + slot);
    let mut order: Vec<u32> = (0..len as u32).collect();
    order.shuffle(&mut stream(seed, Purpose::Order, epoch, 0));
    Pick { epoch, index: order[position % len] as usize, repeat: position / len }
}

#[test]
fn a_run_that_is_cut_anywhere_has_the_same_picks() {
    for (len, batch) in SIZES {
        let whole = Order::new(len, batch, 9);
        for cut in 0..14 {
            let rest = Order::new(len, batch, 9).starting(cut, whole.place(cut));
            for step in cut..cut + 14 {
                assert_eq!(rest.place(step), whole.place(step), "{len} {batch}: cut at {cut}, step {step}");
                for slot in 0..batch {
                    let expected = by_number(len, batch, 9, step, slot);
                    assert_eq!(whole.pick(step, slot), expected, "{len} {batch}: step {step}");
                    assert_eq!(rest.pick(step, slot), expected, "{len} {batch}: cut at {cut}, step {step}");
                }
            }
        }
    }
}

/// The ranks' batches, one after the other, are those of a rank with as many images; so are their crops.
#[test]
fn ranks_together_have_the_batches_of_one() {
    for images in [26, 5] {
        let source = open(&format!("shapes:{images}")).unwrap();
        let whole = batches(&source, small(12, 2), 7);
        let ranks: Vec<Vec<Batch>> = (0..3)
            .map(|rank| {
                let share = Share { rank, ranks: 3 };
                batches(&source, LoaderConfig { share, ..small(4, 2 * rank) }, 7)
            })
            .collect();
        for (step, whole) in whole.iter().enumerate() {
            let parts: Vec<&Batch> = ranks.iter().map(|batches| &batches[step]).collect();
            let indices: Vec<usize> =
                parts.iter().flat_map(|part| part.indices().unwrap()).copied().collect();
            assert_eq!(indices, whole.indices().unwrap(), "step {step}");
            for (i, group) in whole.groups().iter().enumerate() {
                let (values, each) = (group.normalised(), 4 * group.crop_len());
                for (rank, part) in parts.iter().enumerate() {
                    let own = part.groups()[i].normalised();
                    for (view, crops) in own.chunks(each).enumerate() {
                        assert!(
                            crops == &values[(3 * view + rank) * each..][..each],
                            "step {step}, rank {rank}"
                        );
                    }
                }
            }
            // masks are not shared out: half of each rank's crops have some
            let masks = |part: &Batch| part.groups()[0].masks.clone().unwrap().values;
            assert_ne!(masks(parts[0]), masks(parts[1]), "step {step}");
            assert_ne!(masks(parts[1]), masks(parts[2]), "step {step}");
        }
    }
}

/// Four ranks, then two, then three with other batches, each from where the last one was stopped.
#[test]
fn a_run_goes_on_on_other_ranks_without_losing_images() {
    let source = open("shapes:103").unwrap();
    let first = Order::new(103, 1, 5);
    let order: Vec<usize> = (0..103).map(|step| first.pick(step, 0).index).collect();
    let (mut seen, mut step, mut place) = (Vec::new(), 0, Place::default());
    for (ranks, batch, steps) in [(4, 5, 2), (2, 5, 3), (3, 3, 2), (1, 1, 11)] {
        let config = |rank| LoaderConfig {
            start_step: step,
            start: Some(place),
            share: Share { rank, ranks },
            ..small(batch, 2)
        };
        let parts: Vec<Vec<Batch>> = (0..ranks).map(|rank| batches(&source, config(rank), steps)).collect();
        for i in 0..steps {
            seen.extend(parts.iter().flat_map(|part| part[i].indices().unwrap().to_vec()));
        }
        let next = Loader::new(source.clone(), config(0)).unwrap().place(step + steps as u64);
        assert_eq!(next, Place { epoch: 0, position: seen.len() as u64 });
        (step, place) = (step + steps as u64, next);
    }
    assert_eq!(seen.len(), 40 + 30 + 18 + 11);
    assert_eq!(seen, order[..seen.len()]);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());

    // four are left: no batch of five, and the next epoch is whole
    let rest = Order::new(103, 5, 5).starting(step, place);
    let picks: Vec<Pick> =
        (step..step + 20).flat_map(|s| (0..5).map(move |i| (s, i))).map(|(s, i)| rest.pick(s, i)).collect();
    assert!(picks.iter().all(|pick| (pick.epoch, pick.repeat) == (1, 0)));
    assert_eq!(picks.iter().map(|pick| pick.index).collect::<BTreeSet<_>>().len(), 100);
    assert_eq!(rest.pick(step + 20, 0).epoch, 2);
}

#[test]
fn a_place_that_the_images_do_not_have_is_the_next_epoch() {
    let at =
        |len: usize, batch, epoch, position| Order::new(len, batch, 5).starting(7, Place { epoch, position });
    for (len, batch, position) in [(50, 12, 50), (50, 12, 51), (50, 12, u64::MAX), (50, 12, 39), (3, 8, 2)] {
        let order = at(len, batch, 4, position);
        assert_eq!(order.place(7), Place { epoch: 5, position: 0 }, "{len} {batch} {position}");
        assert_eq!(order.place(0), order.place(7), "there is no step before the first");
        assert_eq!(
            order.pick(7, 1),
            Order::new(len, batch, 5).starting(0, Place { epoch: 5, position: 0 }).pick(0, 1)
        );
    }
    // an epoch that is smaller than a batch has one all the same
    let order = at(3, 8, 4, 0);
    assert_eq!([7, 8].map(|step| order.place(step).epoch), [4, 5]);
    assert_eq!(order.pick(7, 7).repeat, 2);
    // numbers of a damaged file
    assert_eq!(at(50, 12, u64::MAX, 49).place(u64::MAX).epoch, u64::MAX);
}

#[test]
fn a_rank_that_there_is_not_is_refused() {
    let source = open("shapes:5").unwrap();
    for (rank, ranks) in [(0, 0), (1, 1), (4, 3)] {
        let config = LoaderConfig { share: Share { rank, ranks }, ..small(2, 0) };
        let error = Loader::new(source.clone(), config).err().expect("no such rank").to_string();
        assert!(error.contains(&format!("no rank {rank} among {ranks}")), "{error}");
    }
    assert_eq!(Share::default(), Share::ALL);
    assert_eq!(Share { rank: 2, ranks: 3 }.number(4, 1), 9);
}

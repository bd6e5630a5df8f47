//! A record of several ranks on one machine: every rank is a thread with a device of its own.

use super::{Fixture, Replay, replay};
use crate::collective::{Collective, PATIENCE, on_threads};
use crate::error::{Error, Result};
use crate::poa::settings::Precision;
use crate::tensor::Device;

/// Replays a record with a thread for each of its ranks, whose devices `open` opens: a record of one rank on this
/// thread. An error is that of the rank that failed, and names it.
pub fn replay_on_threads(
    fixture: &Fixture,
    open: impl Fn() -> Result<Device> + Sync,
    precision: Precision,
) -> Result<Replay> {
    match fixture.ranks() {
        1 => replay(fixture, &open()?, precision, &Collective::alone()),
        size => {
            let rank = |ranks: &Collective| replay(fixture, &open()?, precision, ranks);
            let first = on_threads(size, PATIENCE, rank)?.into_iter().next();
            first.ok_or_else(|| Error::Ranks("no rank has found anything".into()))
        }
    }
}

//! What is drawn for a step: the elastic student, stochastic depth.

use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::models::grid::{DrawCycle, ElasticGrid, Network};
use crate::poa::settings::Settings;
use crate::rng::{Purpose, stream};
use crate::share::Share;

/// Which sub-network a rank trains in which step.
#[derive(Clone, Debug)]
pub struct Draws {
    cycle: DrawCycle,
    /// The one of every step, where it is not drawn.
    fixed: Option<Network>,
}

impl Draws {
    /// Those of a rank in a run with these settings; the whole network where no elastic student is trained.
    pub fn new(settings: &Settings, grid: &ElasticGrid, share: Share) -> Result<Self> {
        let fixed = match settings.student.elastic().fixed_network.as_str() {
            _ if !settings.dino.branches.draws() => Some(grid.intact()),
            "" => None,
            name => Some(grid.named(name).map_err(|e| Error::config("student.fixed_network", e))?),
        };
        let rank = if settings.step.network_per_rank { share.rank } else { 0 };
        Ok(Self { cycle: DrawCycle::new(grid.clone(), settings.train.seed).of_rank(rank), fixed })
    }

    /// The one of a step (from 0).
    pub fn at(&self, step: usize) -> Network {
        self.fixed.unwrap_or_else(|| self.cycle.network_at(step))
    }

    /// The largest that a step can have.
    pub fn largest(&self) -> Network {
        self.fixed.unwrap_or_else(|| self.cycle.grid().intact())
    }

    /// Steps after which each has been drawn.
    pub fn cycle(&self) -> usize {
        self.fixed.map_or_else(|| self.cycle.grid().cycle().max(1), |_| 1)
    }
}

/// The stochastic depth of a rank's micro-batch, the `index`-th (from 0) of a step.
pub fn drop_path(settings: &Settings, share: Share, step: usize, index: usize) -> ChaCha8Rng {
    let number = share.number(settings.train.accumulation_steps, index);
    stream(settings.train.seed, Purpose::DropPath, step as u64, number as u64)
}

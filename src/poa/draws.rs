//! The elastic student of every step.

use crate::error::{Error, Result};
use crate::models::grid::{DrawCycle, ElasticGrid, Network};
use crate::poa::losses::LossWeights;
use crate::poa::settings::Settings;

/// Which sub-network is trained in which step.
#[derive(Clone, Debug)]
pub struct Draws {
    cycle: DrawCycle,
    /// The one of every step, where it is not drawn.
    fixed: Option<Network>,
}

impl Draws {
    /// Those of a run with these settings; the whole network where no elastic student is trained.
    pub fn new(settings: &Settings, grid: &ElasticGrid) -> Result<Self> {
        let fixed = match settings.student.elastic().fixed_network.as_str() {
            _ if !LossWeights::of(settings).has_elastic() => Some(grid.intact()),
            "" => None,
            name => Some(grid.named(name).map_err(|e| Error::config("student.fixed_network", e))?),
        };
        Ok(Self { cycle: DrawCycle::new(grid.clone(), settings.train.seed), fixed })
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

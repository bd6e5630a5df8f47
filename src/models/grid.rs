//! The elastic grid: which sub-networks exist, how often each is drawn, in what order, and which blocks a
//! shallower one keeps.
//!
//! A grid is a list in which every sub-network stands as often as its multiplicity says. A network's place in
//! that list is its id; the last place is the intact network's. A cycle draws every place but that last one,
//! shuffled, without replacement. Arithmetic follows numpy's `linspace` and `round` in float64, since exact
//! arithmetic gives other multiplicities (7 of 573 would be 6).

use std::fmt::{self, Display};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::error::{Error, Result};

/// A sub-network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    /// ViT: channels of the tokens. Swin: those of the first stage. ResNet: middle channels of the first
    /// stage's blocks, which double from stage to stage.
    pub width: usize,
    /// ViT: number of blocks. Swin: those of the third stage. ResNet: those of all stages.
    pub depth: usize,
    /// ResNet: number of blocks of each stage. Others: zeros.
    pub stages: [usize; 4],
}

impl Network {
    /// A sub-network of a ViT or Swin.
    pub const fn new(width: usize, depth: usize) -> Self {
        Self { width, depth, stages: [0; 4] }
    }

    /// A sub-network of a ResNet.
    pub const fn staged(width: usize, stages: [usize; 4]) -> Self {
        Self { width, depth: stages[0] + stages[1] + stages[2] + stages[3], stages }
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stages {
            [0, ..] => write!(f, "{}x{}", self.width, self.depth),
            [a, b, c, d] => write!(f, "{}x{a}-{b}-{c}-{d}", self.width),
        }
    }
}

/// The sub-networks of an elastic backbone and how often each is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct ElasticGrid {
    /// Distinct networks with their multiplicities, the intact one last; never empty, no multiplicity is 0.
    entries: Vec<(Network, usize)>,
    /// Sum of the multiplicities.
    places: usize,
    /// Networks that the paper reports, by its names for them; those of another grid too.
    paper: &'static [(&'static str, Network)],
}

impl ElasticGrid {
    /// `entries` must hold the intact network, last; `key` is the setting to blame where they do not.
    pub(super) fn new(entries: Vec<(Network, usize)>, key: &str) -> Result<Self> {
        let places = entries.iter().map(|(_, multiplicity)| multiplicity).sum();
        match entries.last() {
            Some((_, 1..)) => Ok(Self { entries, places, paper: &[] }),
            _ => Err(Error::config(
                key,
                "gives no sub-network at all; the smallest must not exceed the largest",
            )),
        }
    }

    /// The grid of one network.
    pub fn of(network: Network) -> Self {
        Self { entries: vec![(network, 1)], places: 1, paper: &[] }
    }

    /// The grid with the paper's names of networks, which need not all be in it.
    pub(super) fn with_names(self, paper: &'static [(&'static str, Network)]) -> Self {
        Self { paper, ..self }
    }

    /// The networks that the paper reports of such a backbone, by its names for them; they need not be in the
    /// grid.
    pub fn paper(&self) -> &'static [(&'static str, Network)] {
        self.paper
    }

    /// Distinct networks with their multiplicities, the intact one last.
    pub fn entries(&self) -> &[(Network, usize)] {
        &self.entries
    }

    /// The whole network.
    pub fn intact(&self) -> Network {
        self.entries[self.entries.len() - 1].0
    }

    /// The smallest sub-network.
    pub fn smallest(&self) -> Network {
        self.entries[0].0
    }

    /// Number of places in the list; each network has as many as its multiplicity.
    pub fn places(&self) -> usize {
        self.places
    }

    /// Number of steps after which every place but the last was drawn once.
    pub fn cycle(&self) -> usize {
        self.places - 1
    }

    /// The network at a place of the list, which is its id; places past the end hold the intact one.
    pub fn at(&self, id: usize) -> Network {
        let mut before = 0;
        let found = self.entries.iter().find(|(_, multiplicity)| {
            before += multiplicity;
            id < before
        });
        found.map_or_else(|| self.intact(), |(network, _)| *network)
    }

    /// The network of a name: `smallest`, `middle` (of the distinct ones), `intact`, or as it is displayed.
    /// The error is what is wrong with the name.
    pub fn named(&self, name: &str) -> std::result::Result<Network, String> {
        match name {
            "smallest" => Ok(self.smallest()),
            "middle" => Ok(self.entries[self.entries.len() / 2].0),
            "intact" => Ok(self.intact()),
            _ => self.entries.iter().map(|(n, _)| *n).find(|n| n.to_string() == name).ok_or_else(|| {
                format!(
                    "there is no sub-network `{name}`; the grid runs from {} to {}, and smallest, middle and \
                     intact are names too",
                    self.smallest(),
                    self.intact()
                )
            }),
        }
    }
}

/// The order in which sub-networks are drawn: a function of seed, rank and step alone, so a resumed run needs no
/// state.
#[derive(Debug, Clone)]
pub struct DrawCycle {
    grid: ElasticGrid,
    seed: u64,
    rank: u64,
}

impl DrawCycle {
    /// Draws from `grid`, for rank 0; equal seeds give equal orders on every machine.
    pub fn new(grid: ElasticGrid, seed: u64) -> Self {
        Self { grid, seed, rank: 0 }
    }

    /// The cycle of another rank, which is shuffled by itself.
    pub fn of_rank(self, rank: usize) -> Self {
        Self { rank: rank as u64, ..self }
    }

    /// The grid drawn from.
    pub fn grid(&self) -> &ElasticGrid {
        &self.grid
    }

    /// Place in the grid's list that is drawn in a step (from 0).
    pub fn id_at(&self, step: usize) -> usize {
        let length = self.grid.cycle();
        if length == 0 {
            return 0;
        }
        let mut key = *b"........sub-networks of the grid";
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        // the last eight bytes are the rank's: no two ranks have the same key, and rank 0 has the text as it is
        for (byte, of_rank) in key[24..].iter_mut().zip(self.rank.to_le_bytes()) {
            *byte ^= of_rank;
        }
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream((step / length) as u64);
        let mut order: Vec<usize> = (0..length).collect();
        // Fisher-Yates, from the front, up to the place that is asked for. The high half of a 128-bit product
        // maps a draw to a range with a bias below 2^-50.
        let asked = step % length;
        for i in 0..=asked {
            let rest = (length - i) as u128;
            let jump = (u128::from(rng.next_u64()) * rest) >> 64;
            order.swap(i, i + jump as usize);
        }
        order[asked]
    }

    /// The sub-network of a step (from 0).
    pub fn network_at(&self, step: usize) -> Network {
        self.grid.at(self.id_at(step))
    }
}

/// numpy's `linspace(start, stop, n)`.
pub(super) fn linspace(start: f64, stop: f64, n: usize) -> Vec<f64> {
    if n < 2 {
        return vec![start; n];
    }
    let step = (stop - start) / (n - 1) as f64;
    let mut values: Vec<f64> = (0..n).map(|i| i as f64 * step + start).collect();
    values[n - 1] = stop;
    values
}

/// Which of `total` blocks a network of `depth` blocks keeps, in order.
pub fn block_ids(total: usize, depth: usize) -> Vec<usize> {
    linspace(0.0, total.saturating_sub(1) as f64, depth).into_iter().map(|x| x as usize).collect()
}

/// All sizes from `low` to `high` in steps; a step of 0 counts as 1.
pub(super) fn sizes(low: usize, high: usize, step: usize) -> Vec<usize> {
    (low..=high).step_by(step.max(1)).collect()
}

pub(super) fn multiplicity(x: f64) -> usize {
    x.round_ties_even() as usize
}

/// Width times depth; the smaller a network, the more often it is drawn, up to `scale`² times.
pub(super) fn width_by_depth(widths: &[usize], depths: &[usize], scale: f64) -> Vec<(Network, usize)> {
    let (by_width, by_depth) = (linspace(scale, 1.0, widths.len()), linspace(scale, 1.0, depths.len()));
    let mut entries = Vec::with_capacity(widths.len() * depths.len());
    for (&width, a) in widths.iter().zip(&by_width) {
        for (&depth, b) in depths.iter().zip(&by_depth) {
            entries.push((Network::new(width, depth), multiplicity(a * b)));
        }
    }
    entries
}

//! What every sub-network costs: counted, measured where it was, predicted elsewhere.

use crate::error::Result;
use crate::eval::budget::fit::Fitted;
use crate::eval::budget::price::{Latency, Price};
use crate::eval::budget::stopwatch::Stopwatch;
use crate::eval::budget::table::LatencyTable;
use crate::eval::budget::work::{ForwardWork, rehearse};
use crate::eval::pass::Progress;
use crate::models::grid::Network;

/// The prices of some networks, latencies being measured as they are asked for.
pub struct Prices<'a> {
    stopwatch: Stopwatch<'a>,
    networks: Vec<Network>,
    works: Vec<ForwardWork>,
    seconds: Vec<Option<f64>>,
    fitted: Option<Fitted>,
    /// Latencies are those of a table, and none is measured here.
    elsewhere: bool,
}

impl<'a> Prices<'a> {
    /// Counts what `networks` cost; no latency is known yet.
    pub fn new(stopwatch: Stopwatch<'a>, networks: &[Network]) -> Result<Self> {
        let work =
            |network: &Network| rehearse(stopwatch.backbone, *network, stopwatch.shape, stopwatch.device);
        let works = networks.iter().map(work).collect::<Result<_>>()?;
        Ok(Self {
            works,
            networks: networks.to_vec(),
            seconds: vec![None; networks.len()],
            fitted: None,
            elsewhere: false,
            stopwatch,
        })
    }

    /// Takes the latencies of a table; those that it lacks are predicted from the others, where these are enough.
    pub fn take(&mut self, table: &LatencyTable) {
        self.elsewhere = true;
        for (seconds, network) in self.seconds.iter_mut().zip(&self.networks) {
            *seconds = table.seconds(*network);
        }
        self.fit();
    }

    /// Measures `count` networks (all, where there are no more), as different from each other as there are.
    pub fn measure(&mut self, count: usize, progress: Progress<'_>) -> Result<()> {
        let chosen = spread(&self.works, count);
        for (done, i) in chosen.iter().enumerate() {
            progress("latency", done, chosen.len());
            self.seconds[*i] = Some(self.stopwatch.seconds(self.networks[*i])?);
        }
        progress("latency", chosen.len(), chosen.len());
        self.fit();
        Ok(())
    }

    /// Measures one network, if it was not, and predicts the others anew.
    pub fn measure_one(&mut self, network: Network) -> Result<()> {
        let place = self.networks.iter().position(|n| *n == network);
        if let Some(i) = place.filter(|i| self.seconds[*i].is_none() && !self.elsewhere) {
            self.seconds[i] = Some(self.stopwatch.seconds(network)?);
            self.fit();
        }
        Ok(())
    }

    /// All prices, in the order of the networks.
    pub fn all(&self) -> Vec<Price> {
        (0..self.networks.len()).map(|i| self.price(i)).collect()
    }

    /// What a network costs.
    pub fn of(&self, network: Network) -> Option<Price> {
        Some(self.price(self.networks.iter().position(|n| *n == network)?))
    }

    /// Networks whose latency was measured.
    pub fn measured(&self) -> usize {
        self.seconds.iter().flatten().count()
    }

    /// The model of the others' latencies.
    pub fn model(&self) -> Option<&Fitted> {
        self.fitted.as_ref()
    }

    /// Whether latencies come from a table.
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere
    }

    fn price(&self, i: usize) -> Price {
        let (network, work) = (self.networks[i], &self.works[i]);
        let cost = self.stopwatch.backbone.cost(network);
        let measured = self.seconds[i].map(|seconds| Latency { seconds, measured: true });
        let predicted = || {
            let seconds = self.fitted.as_ref()?.predict(work);
            Some(Latency { seconds, measured: false })
        };
        Price {
            network,
            parameters: cost.parameters,
            flops: cost.flops,
            memory: work.memory,
            latency: measured.or_else(predicted),
        }
    }

    fn fit(&mut self) {
        let known = self.works.iter().zip(&self.seconds).filter_map(|(work, t)| Some((*work, (*t)?)));
        self.fitted = Fitted::new(&known.collect::<Vec<_>>());
    }
}

/// Numbers of `count` pieces of work that are far from each other in proportion, the smallest and the largest first.
fn spread(works: &[ForwardWork], count: usize) -> Vec<usize> {
    let place = |w: &ForwardWork| [w.dispatches, w.flops, w.bytes].map(|x| x.max(1.0).ln());
    let places: Vec<[f64; 3]> = works.iter().map(place).collect();
    let range = |axis: usize| {
        let all = places.iter().map(|p| p[axis]);
        let (low, high) = all.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        (high - low).max(1e-9)
    };
    let ranges = [range(0), range(1), range(2)];
    let distance = |a: usize, b: usize| -> f64 {
        (0..3).map(|axis| ((places[a][axis] - places[b][axis]) / ranges[axis]).powi(2)).sum()
    };
    let by_work = |a: &usize, b: &usize| works[*a].flops.total_cmp(&works[*b].flops);
    let ends = [(0..works.len()).min_by(by_work), (0..works.len()).max_by(by_work)];
    let mut chosen: Vec<usize> = Vec::new();
    for i in ends.into_iter().flatten() {
        if chosen.len() < count && !chosen.contains(&i) {
            chosen.push(i);
        }
    }
    while chosen.len() < count.min(works.len()) {
        let nearest = |i: usize| chosen.iter().map(|c| distance(i, *c)).fold(f64::INFINITY, f64::min);
        let rest = (0..works.len()).filter(|i| !chosen.contains(i));
        let Some(far) = rest.max_by(|a, b| nearest(*a).total_cmp(&nearest(*b))) else { break };
        chosen.push(far);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_spread_with_both_ends() {
        let work = |x: f64| ForwardWork { dispatches: 10.0, flops: x, bytes: x, memory: 0 };
        let works: Vec<_> = [1e3, 1.1e3, 1.2e3, 1e6, 1e9, 0.9e9].map(work).to_vec();
        assert_eq!(spread(&works, 3), [0, 4, 3]);
        let mut all = spread(&works, 100);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5]);
        assert_eq!(spread(&[], 3), [0; 0]);
    }
}

//! The most accurate network that a budget allows.

use crate::error::{Error, Result};
use crate::eval::budget::limits::Limits;
use crate::eval::budget::price::Price;
use crate::eval::budget::prices::Prices;
use crate::eval::budget::scores::Scores;
use crate::models::grid::Network;

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// What it costs; its latency is measured where there is a limit of it that is measured here.
    pub price: Price,
    /// How accurate it is, 0 to 1.
    pub score: f64,
}

/// How much longer than the limit a network may be predicted to take and be measured all the same: the model's error, twice, in these bounds.
const DOUBT: (f64, f64) = (0.05, 0.3);

/// The most accurate network of `prices` within `limits`, of equally accurate ones the cheapest. Where latency is limited, the candidates
/// are measured, the most accurate first, until one is within the limit. Networks without a score are no candidates.
///
/// # Errors
/// Where nothing fits: says which network is nearest.
pub fn choose(prices: &mut Prices<'_>, scores: &Scores, limits: &Limits) -> Result<Choice> {
    let mut candidates: Vec<(Price, f64)> =
        prices.all().into_iter().filter_map(|price| Some((price, scores.of(price.network)?))).collect();
    candidates.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.flops.cmp(&b.flops)));
    if limits.latency.is_some() {
        candidates.retain(|(price, _)| price.latency.is_some());
    }
    for (price, score) in &candidates {
        if limits.excess_but_latency(price) > 1.0 {
            continue;
        }
        // each measurement makes the model of the others better
        let Some(price) = prices.of(price.network) else { continue };
        let doubt = match (price.latency, prices.model()) {
            (Some(latency), Some(model)) if !latency.measured => {
                1.0 + (2.0 * model.median_error()).clamp(DOUBT.0, DOUBT.1)
            }
            _ => 1.0,
        };
        if limits.excess(&price) > doubt {
            continue;
        }
        let price = measured(prices, price.network, limits)?.unwrap_or(price);
        if limits.excess(&price) <= 1.0 {
            return Ok(Choice { price, score: *score });
        }
    }
    let nearest = candidates
        .iter()
        .filter_map(|(price, _)| prices.of(price.network))
        .min_by(|a, b| limits.excess(a).total_cmp(&limits.excess(b)));
    let nearest = match nearest {
        Some(price) => measured(prices, price.network, limits)?.unwrap_or(price),
        None => {
            return Err(Error::Usage(format!(
                "--fits: no sub-network has both a cost and a score ({})",
                scores.name
            )));
        }
    };
    Err(Error::Usage(format!(
        "--fits: no sub-network fits {}; the nearest is {} with {}",
        limits.describe(),
        nearest.network,
        nearest.describe()
    )))
}

/// A network's price with its latency measured, where it is limited and not a table's.
fn measured(prices: &mut Prices<'_>, network: Network, limits: &Limits) -> Result<Option<Price>> {
    if limits.latency.is_some() {
        prices.measure_one(network)?;
    }
    Ok(prices.of(network))
}

//! The numbers of a POA step as they are logged, beside those of every task.

use serde_json::{Value, json};

use crate::models::grid::Network;
use crate::poa::losses::{Health, LossReport};
use crate::train::metrics::number;

/// What is known of a step on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct PoaStep {
    /// Its number, from 0.
    pub step: usize,
    /// The elastic student.
    pub network: Network,
    /// τt.
    pub teacher_temp: f64,
}

/// Names and values of a step.
pub fn values(
    step: &PoaStep,
    effective_epoch: f64,
    losses: &LossReport,
    health: Option<&Health>,
) -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> = vec![
        ("teacher_temp".into(), number(step.teacher_temp)),
        ("network".into(), json!(step.network.to_string())),
        ("effective_epoch".into(), number(effective_epoch)),
    ];
    all.extend(losses.components.iter().map(|(name, v)| (name.clone(), number(*v))));
    let Some(health) = health else { return all };
    for head in &health.heads {
        all.push((format!("target_entropy_{}", head.index), number(head.entropy)));
        all.push((format!("target_kl_{}", head.index), number(head.kl)));
    }
    all.push(("feature_std".into(), number(health.feature_std)));
    all
}

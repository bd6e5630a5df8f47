//! What is computed beside what was recorded: the worst error of each kind of quantity, of all ranks.

use std::collections::BTreeMap;

use super::Fixture;
use super::fixture::LossExpectation;
use crate::collective::Collective;
use crate::error::{Error, Result};
use crate::nn::parameters::FlatBuffers;
use crate::poa::losses::LossReport;
use crate::poa::settings::Precision;

/// One kind of quantity and how far it is from the record.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The kind.
    pub kind: &'static str,
    /// How many numbers or tensors of it were compared, on all ranks together.
    pub compared: usize,
    /// The worst relative error, |a−b|/|b| or ‖a−b‖/‖b‖.
    pub worst: f64,
    /// Where that was.
    pub at: String,
    /// PyTorch's own error in float32, where it was recorded.
    pub pytorch: Option<f64>,
    /// Largest error that passes.
    pub tolerance: f64,
}

impl Check {
    /// Whether the kind passes; NaN does not.
    pub fn passes(&self) -> bool {
        self.compared > 0 && self.worst <= self.tolerance
    }
}

/// A kind of quantity.
pub(super) struct Kind {
    name: &'static str,
    /// Largest error that passes in single precision, but for the record's slack.
    single: f64,
    /// The same in mixed precision.
    mixed: f64,
    /// Keys of PyTorch's own error in the record, as they are or behind a step: the first that is there.
    keys: &'static [&'static str],
}

const fn kind(name: &'static str, single: f64, mixed: f64, keys: &'static [&'static str]) -> Kind {
    Kind { name, single, mixed, keys }
}

// Of mixed precision: of losses, norms and gradients of a first step what tests/mixed_precision.rs asks; of the
// rest three to six times what llvmpipe's drivers differ by (docs/devices.md). Features are always single.
pub(super) static LOSSES: Kind = kind("losses", 2e-6, 5e-3, &["losses"]);
pub(super) static LATER_LOSSES: Kind =
    kind("losses after updates", 2e-6, 1e-2, &["losses_after_updates", "losses"]);
pub(super) static NORMS: Kind = kind("gradient norms", 2e-5, 1e-2, &["grad_norm"]);
pub(super) static GRADIENTS: Kind = kind("gradients", 2e-5, 3e-2, &["step0.grad"]);
pub(super) static TARGETS: Kind = kind("targets", 1e-5, 2e-2, &["targets"]);
pub(super) static CENTERS: Kind = kind("centres", 1e-5, 1e-2, &["center"]);
pub(super) static FEATURES: Kind = kind("features", 2e-5, 5e-4, &["features"]);
/// Student's parameters, and its qkv biases.
pub(super) static STUDENT: [Kind; 2] = [
    kind("student parameters", 5e-5, 2e-2, &["student"]),
    kind("student qkv biases", 2e-3, 1e-1, &["student.qkv_bias"]),
];
/// The teacher's.
pub(super) static TEACHER: [Kind; 2] = [
    kind("teacher parameters", 2e-6, 1e-3, &["teacher"]),
    kind("teacher qkv biases", 1e-4, 2e-3, &["teacher.qkv_bias"]),
];

/// All kinds.
fn kinds() -> impl Iterator<Item = &'static Kind> {
    let numbers = [&LOSSES, &LATER_LOSSES, &NORMS, &GRADIENTS, &TARGETS, &CENTERS, &FEATURES];
    numbers.into_iter().chain(&STUDENT).chain(&TEACHER)
}

/// How much wider the tolerances of mixed precision are for products of bfloat16, which has three bits less than half
/// precision; not eight times, as nothing but products' operands is rounded.
const BF16: f64 = 4.0;

/// Every number that was computed, by the record's names: shape and values.
pub(super) type Values = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Worst errors by kind, of one rank.
pub(super) struct Comparison<'a> {
    fixture: &'a Fixture,
    precision: Precision,
    rank: usize,
    checks: Vec<Check>,
    values: Values,
}

/// What a rank tells the first of its checks (kind, compared, the worst's bits, where) and of its own numbers.
type Told = (Vec<(String, usize, u64, String)>, Vec<(String, Vec<usize>, Vec<u32>)>);

impl<'a> Comparison<'a> {
    pub fn new(fixture: &'a Fixture, precision: Precision, ranks: &Collective) -> Self {
        Self { fixture, precision, rank: ranks.rank(), checks: Vec::new(), values: Values::new() }
    }

    fn note(&mut self, kind: &Kind, compared: usize, at: &str, error: f64) {
        let check = match self.checks.iter_mut().find(|check| check.kind == kind.name) {
            Some(check) => check,
            None => {
                let tolerance = match self.precision {
                    Precision::F32 => self.fixture.tolerance(kind.name, kind.single),
                    Precision::Mixed => kind.mixed,
                    Precision::Bf16 => kind.mixed * BF16,
                };
                let pytorch = kind.keys.iter().find_map(|key| self.fixture.pytorch_error(key));
                self.checks.push(Check {
                    kind: kind.name,
                    compared: 0,
                    worst: -1.0,
                    at: String::new(),
                    pytorch: pytorch.filter(|_| self.precision == Precision::F32),
                    tolerance,
                });
                self.checks.last_mut().expect("just pushed")
            }
        };
        check.compared += compared;
        // NaN counts as worst
        if error.is_nan() || error > check.worst {
            (check.worst, check.at) = (error, at.to_string());
        }
    }

    pub fn number(&mut self, kind: &Kind, name: String, got: f64, want: f64) {
        self.note(kind, 1, &self.place(&name), (got - want).abs() / want.abs().max(1e-30));
        self.values.insert(name, (vec![1], vec![got as f32]));
    }

    pub fn tensor(&mut self, kind: &Kind, name: &str, shape: &[usize], got: Vec<f32>) -> Result<()> {
        let want = self.fixture.expected.read_f32_as(name, shape)?;
        let distance: f64 = got.iter().zip(&want).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
        let norm: f64 = want.iter().map(|b| (*b as f64).powi(2)).sum();
        let error = if norm > 0.0 { (distance / norm).sqrt() } else { distance.sqrt() };
        self.note(kind, 1, &self.place(name), error);
        self.values.insert(name.to_string(), (shape.to_vec(), got));
        Ok(())
    }

    /// The losses of a step; their names begin with `what`.
    pub fn losses(
        &mut self,
        kind: &Kind,
        what: &str,
        report: LossReport,
        want: &LossExpectation,
    ) -> Result<()> {
        self.number(kind, format!("{what}.loss.total"), report.total, want.total);
        for (name, value) in report.components {
            let want = want.components.get(&name).ok_or_else(|| {
                Error::file(&self.fixture.name, format!("{what} has no component `{name}`"))
            })?;
            self.number(kind, format!("{what}.loss.{name}"), value, *want);
        }
        Ok(())
    }

    /// All parameters, whose names begin with `what`.
    pub fn parameters(&mut self, what: &str, values: &FlatBuffers, kinds: &[Kind; 2]) -> Result<()> {
        for place in values.layout().places() {
            let name = &place.spec.name;
            let kind = &kinds[name.ends_with("qkv.linear.bias") as usize];
            self.tensor(kind, &format!("{what}.{name}"), &place.spec.shape, values.read(name)?)?;
        }
        Ok(())
    }

    /// Whether the record has a tensor of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.fixture.expected.contains(name)
    }

    /// What is the same on all ranks is compared on all of them.
    fn place(&self, name: &str) -> String {
        let own = format!(".rank{}.", self.rank);
        if self.rank == 0 || name.contains(&own) {
            name.into()
        } else {
            format!("{name} on rank {}", self.rank)
        }
    }

    /// What was found; on the first rank that of all of them.
    pub fn finish(mut self, ranks: &Collective) -> Result<(Vec<Check>, Values)> {
        for (checks, values) in ranks.tell(self.told())?.into_iter().skip(1).filter(|_| ranks.leads()) {
            for (name, compared, worst, at) in checks {
                if let Some(kind) = kinds().find(|kind| kind.name == name) {
                    self.note(kind, compared, &at, f64::from_bits(worst));
                }
            }
            for (name, shape, bits) in values {
                self.values.insert(name, (shape, bits.into_iter().map(f32::from_bits).collect()));
            }
        }
        Ok((self.checks, self.values))
    }

    /// Numbers as their bits: JSON has none for those that are not finite.
    fn told(&self) -> Told {
        let own = format!(".rank{}.", self.rank);
        let check = |c: &Check| (c.kind.to_string(), c.compared, c.worst.to_bits(), c.at.clone());
        let values = self.values.iter().filter(|(name, _)| self.rank > 0 && name.contains(&own));
        let value = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f32>))| {
            (name.clone(), shape.clone(), values.iter().map(|v| v.to_bits()).collect())
        };
        (self.checks.iter().map(check).collect(), values.map(value).collect())
    }
}

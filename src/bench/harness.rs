//! What a benchmark case is, and how one is checked and timed.

use std::cell::OnceCell;
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::autograd::Var;
use crate::error::{Error, Result};
use crate::ops::ceiling;
use crate::profile::{Ceiling, Work};
use crate::tensor::{DType, Device, Tensor};

/// Which cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// The main kernels once, and the steps: under a minute on hardware.
    Short,
    /// Every kernel by variant and shape.
    Full,
}

/// A case on a device, ready to be timed.
pub struct Case<'a> {
    /// `kernel/what shape/device`.
    pub name: String,
    /// What a call does at least; nothing for whole steps.
    pub work: Work,
    /// Seconds of the first call, with all pipelines that had to be built.
    pub first: f64,
    /// Does it once.
    pub run: &'a mut dyn FnMut() -> Result<()>,
}

/// What a benchmark hands on.
pub enum Event<'a> {
    /// A case to be timed.
    Ready(Case<'a>),
    /// A line about what was timed or left out.
    Note(String),
}

/// Where cases go: a table, or criterion.
pub type Sink<'a> = dyn FnMut(&Bench, Event) -> Result<()> + 'a;

/// A device with its ceilings, and which cases are wanted.
pub struct Bench {
    /// The device.
    pub device: Device,
    /// Measured when it is first asked for: where no case is wanted nothing is.
    ceiling: OnceCell<Ceiling>,
    set: Set,
    filters: Vec<String>,
}

/// A set-up case: what is timed, and what must hold after it has run once.
pub(super) struct Ready<'a> {
    run: Box<dyn FnMut() -> Result<()> + 'a>,
    check: Box<dyn FnOnce() -> Result<()> + 'a>,
}

impl Bench {
    /// Cases on a device: those whose names contain one of `filters`; all where there is none.
    pub fn new(device: Device, set: Set, filters: Vec<String>) -> Self {
        Self { ceiling: OnceCell::new(), device, set, filters }
    }

    /// The best that the device does.
    pub fn ceiling(&self) -> Result<&Ceiling> {
        if let Some(known) = self.ceiling.get() {
            return Ok(known);
        }
        let measured = ceiling::measure(&self.device)?;
        Ok(self.ceiling.get_or_init(|| measured))
    }

    /// Seconds of each of `n` calls, the device idle before and after.
    pub fn seconds(&self, n: usize, f: &mut dyn FnMut() -> Result<()>) -> Result<Vec<f64>> {
        let mut all = Vec::with_capacity(n);
        for _ in 0..n {
            self.device.synchronize()?;
            let start = Instant::now();
            f()?;
            self.device.synchronize()?;
            all.push(start.elapsed().as_secs_f64());
        }
        Ok(all)
    }

    /// The line of a case that takes so many seconds: time, rates and their shares of the ceilings.
    pub fn line(&self, case: &Case, seconds: f64) -> Result<String> {
        let Work { flops, bytes } = case.work;
        let ceiling = self.ceiling()?;
        let mut line = format!("{:<58} {:>9.3} ms", case.name, seconds * 1e3);
        let mut rate = |amount: f64, unit: &str, best: f64| {
            if amount > 0.0 {
                let rate = amount / seconds;
                line += &format!(" {:>8.1} {unit} ({:>3.0}%)", rate / 1e9, 100.0 * rate / best);
            }
        };
        rate(flops, "GFLOP/s", ceiling.flops);
        rate(bytes, "GB/s", ceiling.bytes);
        if case.first > 0.5 + 2.0 * seconds {
            line += &format!("  first use {:.1} s", case.first);
        }
        Ok(line)
    }

    pub(super) fn full(&self) -> bool {
        self.set == Set::Full
    }

    pub(super) fn software(&self) -> bool {
        matches!(&self.device, Device::Gpu(gpu) if gpu.caps().software)
    }

    /// Whether any case whose name begins so may be wanted.
    pub(super) fn wanted(&self, name: &str) -> bool {
        let full = format!("{name}/{}", self.device.kind());
        self.filters.is_empty()
            || self.filters.iter().any(|f| full.contains(f.as_str()) || f.starts_with(name))
    }

    /// Sets a case up if it is wanted, runs and checks it, and hands it on.
    pub(super) fn case<'a>(
        &'a self,
        sink: &mut Sink,
        name: &str,
        work: Work,
        set_up: impl FnOnce() -> Result<Ready<'a>>,
    ) -> Result<()> {
        let name = format!("{name}/{}", self.device.kind());
        if !self.filters.is_empty() && !self.filters.iter().any(|f| name.contains(f.as_str())) {
            return Ok(());
        }
        let Ready { mut run, check } = set_up()?;
        let first = self.seconds(1, &mut run)?[0];
        check()?;
        sink(self, Event::Ready(Case { name, work, first, run: &mut run }))
    }

    /// Random values from −½ to ½.
    pub(super) fn random(&self, seed: u64, shape: &[usize]) -> Result<Tensor> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random::<f32>() - 0.5).collect();
        Tensor::from_slice(&self.device, shape, &values)
    }

    pub(super) fn empty(&self, shape: &[usize]) -> Result<Tensor> {
        Tensor::empty(&self.device, shape, DType::F32)
    }

    /// A parameter with a gradient of its own.
    pub(super) fn parameter(&self, value: &Tensor) -> Result<Var> {
        let gradient = Tensor::zeros(&self.device, value.shape(), DType::F32)?;
        Ok(Var::parameter(value.clone(), gradient, Default::default()))
    }
}

impl<'a> Ready<'a> {
    pub(super) fn new(
        run: impl FnMut() -> Result<()> + 'a,
        check: impl FnOnce() -> Result<()> + 'a,
    ) -> Result<Self> {
        Ok(Self { run: Box::new(run), check: Box::new(check) })
    }
}

/// The middle of some times.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

pub(super) fn close(what: &str, got: f32, want: f64) -> Result<()> {
    match (got as f64 - want).abs() <= 1e-3 * want.abs().max(1.0) {
        true => Ok(()),
        false => Err(wrong(what, format!("{got}, {want} expected"))),
    }
}

pub(super) fn wrong(what: &str, problem: impl std::fmt::Display) -> Error {
    Error::Mismatch(format!("{what} computes something else: {problem}; its rate would mean nothing"))
}
